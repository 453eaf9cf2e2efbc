"""Pages are tested through app.py, on a workspace of their own, without a server and without real work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import seed
from seen import ROOT
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest

from drone_ft import endpoints, pipeline, work
from drone_ft.errors import EndpointUnavailable
from drone_ft.store import Store
from tests.scripted import Script, Server, running

Open = Callable[[str], AppTest]


@pytest.fixture
def store() -> Store:
    """The store the pages of this test read."""
    return Store()


@pytest.fixture
def environments() -> list[dict[str, str]]:
    """What the processes that pages asked for were handed in their environment."""
    return []


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, environments: list[dict[str, str]]) -> list[tuple[str, dict[str, Any]]]:
    """What pages asked to be started, in order; nothing is really started."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def start(store: Store, kind: str, settings: dict[str, Any], environment: Any = None) -> None:
        asked.append((kind, settings))
        environments.append(environment or {})

    monkeypatch.setattr(work, "start", start)
    return asked


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A service in OpenAI's place that takes the key of seed.KEY."""
    with running(Script(key=seed.KEY, steps=50)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        yield server


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(start: bool = True) -> endpoints.Endpoint:
        raise EndpointUnavailable("The local server could not start. The model's file is missing: run make run again.")

    monkeypatch.setattr(endpoints, "local_endpoint", none)
    monkeypatch.setattr(pipeline, "base_model", lambda client: "smollm2-135m-instruct")


@pytest.fixture(autouse=True)
def _through_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """AppTest forgets before each run that app.py names the pages, and would run a page's script by itself."""
    made = PagesManager.__init__

    def init(self: PagesManager, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        PagesManager.uses_pages_directory = False

    monkeypatch.setattr(PagesManager, "__init__", init)


@pytest.fixture
def open_page() -> Open:
    """Opens a page as its link in the menu does."""

    def opened(name: str) -> AppTest:
        at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
        if name != "home":
            at.switch_page(f"pages/{name}.py")
        at.run()
        assert not at.exception
        return at

    return opened
