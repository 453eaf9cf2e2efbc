"""The whole way in a real browser, on a tiny model: demo to verdict, reload in the middle, cancel, every page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import settled, watched_tab

PAGES = ("Home", "Catalog", "Permutations", "Examples", "Fine-tune", "Evaluate", "Playground", "Settings")
SOON, WORK = 30_000, 150_000


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Any, app: str) -> Iterator[Any]:
    """A tab on the home page, or on the one a test names."""
    with watched_tab(browser, app + getattr(request, "param", "")) as tab:
        yield tab


def _link(tab: Any, name: str) -> Any:
    return tab.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True)


def _walk(tab: Any) -> None:
    """Open every page but the first from the menu."""
    for name in PAGES[1:]:
        _link(tab, name).click()
        tab.get_by_role("heading", name=name, level=1).wait_for(timeout=SOON)
        assert tab.get_by_test_id("stAlertContentError").count() == 0


def _button(tab: Any, name: str) -> Any:
    return tab.get_by_role("button", name=name)


@pytest.mark.parametrize("page", ["/catalog"], indirect=True)
def test_the_first_visit_may_be_to_any_page(page: Any) -> None:
    page.get_by_text("Train and compare").wait_for(timeout=SOON)
    page.get_by_role("heading", name="Takeoff drone").wait_for(timeout=SOON)


def test_a_cancelled_demo_can_be_started_again_and_ends_on_a_verdict(page: Any, app: str) -> None:
    _button(page, "Run the demo").click()
    page.get_by_text("The demo is running").first.wait_for(timeout=SOON)
    page.get_by_text("Write requests for each call").wait_for(timeout=SOON)
    _button(page, "Cancel").click()
    page.get_by_role("heading", name="The demo was cancelled").wait_for(timeout=WORK)
    _button(page, "Start again").click()
    page.get_by_text("Fine-tune the model").wait_for(timeout=SOON)

    page.reload()
    settled(page)
    page.get_by_role("heading", name="The demo is running").wait_for(timeout=SOON)
    _walk(page)
    _link(page, "Home").click()

    page.get_by_role("heading", name="The demo's verdict").wait_for(timeout=WORK)
    page.get_by_text("requests exactly right (base:").wait_for(timeout=SOON)
    page.locator(".js-plotly-plot").first.wait_for(timeout=SOON)


def test_every_page_opens_from_the_menu(page: Any) -> None:
    _walk(page)


def test_a_training_shows_its_curve_and_can_be_cancelled(page: Any) -> None:
    _link(page, "Fine-tune").click()
    page.get_by_label("Epochs", exact=True).fill("20")
    _button(page, "Start training").click()
    page.get_by_role("heading", name="Fine-tuning is running").wait_for(timeout=SOON)
    page.locator(".js-plotly-plot").first.wait_for(timeout=WORK)
    _button(page, "Cancel").click()
    page.get_by_text("The last training was cancelled.").wait_for(timeout=WORK)
    _button(page, "Start training").wait_for(timeout=SOON)


def test_the_playground_answers_with_both_models(page: Any) -> None:
    _link(page, "Playground").click()
    page.get_by_label("Your request").fill("take off to fifteen metres")
    _button(page, "Ask").click()
    page.get_by_text("Answered in").nth(1).wait_for(timeout=WORK)
