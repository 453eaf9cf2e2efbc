"""A service with a key, in a real browser: test it, have it write, correct, train there, compare; and a closed one."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, running_app, watched_tab

from drone_ft import dataset, synthesis
from drone_ft.catalog import Catalog, read_catalog
from drone_ft.store import Store
from tests import people
from tests.scripted import Script, Server, last_words, running

playwright: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
SOON, WORK = 30_000, 60_000
KEY = "sk-of-a-person-who-pays-4711"


@pytest.fixture
def server() -> Iterator[Server]:
    """A service that writes as people do, and trains a model which answers as its examples say."""
    with running(Script(key=KEY, steps=4)) as server:
        server.script.answer = lambda body: called(server, body) if body.get("tools") else people.answer(body)
        yield server


def called(server: Server, body: dict[str, Any]) -> Any:
    """A base model calls anything; a tuned one makes the call it was shown whose name and values are all said."""
    nearest, shown = server.state._answer(body), server.state.learned.get(body["model"])
    if not shown or nearest["name"] == "reject_request":
        return nearest
    said = last_words(body).lower().split()
    return max((call for _, call in shown), key=lambda call: sum(1 if word in said else -1 for word in spelt(call)))


def spelt(call: dict[str, Any]) -> list[str]:
    return " ".join([call["name"], *people._said(call["arguments"])]).replace("_", " ").split()


@pytest.fixture
def catalog() -> Catalog:
    """The cookbook's functions: 56 calls."""
    return read_catalog(ROOT / "data" / "catalogs" / "drone_cookbook.json")


@pytest.fixture
def workspace(tmp_path: Path, catalog: Catalog) -> Path:
    """A folder of this test's own, with the cookbook's functions loaded."""
    folder = tmp_path / "hosted" / "workspace"
    Store(folder).set_catalog(catalog)
    return folder


@contextlib.contextmanager
def a_tab(browser: Any, workspace: Path, server: Server, **environment: str) -> Iterator[Any]:
    with (
        running_app(workspace, {"OPENAI_BASE_URL": server.base_url, **environment}) as address,
        watched_tab(browser, address) as tab,
    ):
        yield tab


def go(tab: Any, name: str) -> None:
    tab.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True).click()
    tab.get_by_role("heading", name=name, level=1).wait_for(timeout=SOON)


def choose_place(tab: Any, model: str) -> None:
    """Choose OpenAI and one of its models."""
    choose(tab, "Where", "OpenAI")
    see(tab, re.compile("Send them as a batch|are sent to OpenAI"))
    choose(tab, "Model", model)


def press(tab: Any, name: str) -> None:
    tab.get_by_role("button", name=name, exact=True).click()


def choose(tab: Any, label: str, option: str | re.Pattern[str]) -> None:
    """Choose an option of a field; a page that is just being drawn anew closes the list again."""
    wanted = tab.get_by_role("option", name=option)
    for _ in range(6):
        tab.get_by_role("combobox", name=label).click()
        with contextlib.suppress(playwright.Error):
            wanted.click(timeout=SOON / 6)
            return
    raise AssertionError(f"{label} offers no {option}")


def see(tab: Any, words: str | re.Pattern[str], timeout: int = SOON) -> None:
    tab.get_by_test_id("stMain").get_by_text(words).first.wait_for(timeout=timeout)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for what the server sees, which no page shows."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def correct(tab: Any, search: str, words: str) -> None:
    """Find an example, tick it, and give it better words."""
    tab.get_by_label("Words", exact=True).fill(search)
    tab.get_by_label("Words", exact=True).press("Enter")
    see(tab, re.compile(r"^1 of 154 shown"))
    tab.locator('[role=grid][aria-rowcount="2"]').first.wait_for(state="attached", timeout=SOON)
    tab.get_by_test_id("stDataFrame").first.click(position={"x": 20, "y": 50})  # the box of the first row
    press(tab, "Edit")
    tab.get_by_label("A person says").fill(words)
    press(tab, "Save")
    see(tab, "No example matches")


def finish_training(server: Server) -> None:
    """Every look at a job brings it a step further; nobody has to wait for the app's looks."""
    until(lambda: server.state.jobs)
    jobs = server.client(key=KEY).fine_tuning.jobs
    until(lambda: jobs.retrieve("ftjob-1").status == "succeeded")


def test_from_a_key_to_a_verdict(browser: Any, workspace: Path, server: Server) -> None:
    with a_tab(browser, workspace, server) as tab:
        go(tab, "Settings")
        key = tab.get_by_role("textbox", name="Key")
        key.fill(KEY)
        key.press("Enter")
        see(tab, "A key is in use, from this tab")
        tab.get_by_role("button", name="Test").nth(1).click()
        see(tab, "OpenAI answers and takes the key")
        see(tab, "5 models for chat")

        go(tab, "Examples")
        tab.get_by_text("Have a model write examples").click()
        choose_place(tab, "gpt-4.1-mini")
        see(tab, "About 112 commands for 56 kinds of call, and 42 impossible requests")
        see(tab, re.compile(r"about \$0\.\d\d"))
        press(tab, "Write with this model")
        see(tab, "gpt-4.1-mini wrote 154 examples", WORK)

        correct(tab, "see to the calibrate", "Get the sensors straight again")
        correct(tab, "see to the return", "Come back to where you started")
        saved = {example.prompt for example in Store(workspace).examples() if example.origin == "person"}
        assert saved == {"Get the sensors straight again", "Come back to where you started"}

        go(tab, "Fine-tune")
        choose_place(tab, "gpt-4.1-mini")
        see(tab, re.compile(r"tokens to train on, about \$\d"))
        press(tab, "Check the examples first")
        see(tab, "Ready to upload")
        press(tab, "Start training")
        see(tab, "Fine-tuning is running")
        finish_training(server)
        see(tab, "is trained and ready", WORK)
        tab.locator(".js-plotly-plot").first.wait_for(timeout=SOON)

        press(tab, "Compare it with the base")
        see(tab, re.compile(r"About \$\d\.\d\d for both"))
        assert "gpt-4.1-mini (OpenAI)" in [field.input_value() for field in tab.locator("input").all()]
        choose(tab, "Requests", re.compile("kept aside"))
        press(tab, "Ask both models")
        see(tab, "The tuned model is better", WORK)
    assert max(server.state.answered.values()) <= 2, "nothing is asked twice, but base and tuned the same requests"
    written = [path for path in workspace.parent.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert written == [], "the key is on no disk"


def test_where_training_is_closed_this_computer_is_offered(
    browser: Any, workspace: Path, server: Server, catalog: Catalog
) -> None:
    Store(workspace).replace_examples(dataset.split(synthesis.write_examples(catalog).examples[:120]))
    server.script.may_tune = False
    with a_tab(browser, workspace, server, OPENAI_API_KEY=KEY) as tab:
        go(tab, "Fine-tune")
        choose_place(tab, "gpt-4o-mini")
        press(tab, "Start training")
        see(tab, "Fine-tuning is closed to this organisation", WORK)
        see(tab, "14 January 2027")
        tab.get_by_role("button", name="Train on this computer instead").wait_for(timeout=SOON)
