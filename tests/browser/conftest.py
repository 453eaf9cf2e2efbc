"""A chromium, a tiny model and the running app; without a chromium these tests say why they are skipped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from drone_ft import dataset, synthesis
from drone_ft.catalog import default_catalog
from drone_ft.store import Store

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A chromium of this machine; Playwright's own one where none is on the PATH."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    with api.sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            why = "no chromium on the PATH; install one (Debian: apt-get install chromium)"
            pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
        started = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder all of these tests share, as one person's would."""
    return tmp_path_factory.mktemp("person") / "workspace"


@pytest.fixture(scope="session")
def app(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the app, run as `make run` runs it, on a model of random weights that trains in seconds."""
    model = tmp_path_factory.mktemp("models") / "tiny"
    made = [sys.executable, str(ROOT / "tests" / "local" / "tiny.py"), str(model)]
    subprocess.run(made, cwd=ROOT, check=True, capture_output=True)
    _write_a_few(workspace)
    with running_app(workspace, {"DRONE_FT_MODEL": str(model)}) as address:
        yield address


@contextmanager
def running_app(workspace: Path, environment: dict[str, str]) -> Iterator[str]:
    """The app on a workspace, with no key but those in `environment`; its log lies beside the workspace."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless", "true"]
    command += ["--server.port", str(port), "--server.fileWatcherType", "none"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "AZURE_OPENAI_"))}
    env = {**inherited, "DRONE_FT_WORKSPACE": str(workspace), **environment}
    with (workspace.parent / "app.log").open("wb") as log:
        running = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://localhost:{port}"
    try:
        _wait_for(f"{address}/_stcore/health")
        yield address
    finally:
        _end(running.pid, workspace)


@contextmanager
def watched_tab(browser: Any, address: str) -> Iterator[Any]:
    """A tab on a page; closing it checks that nothing went wrong in it and nothing outside was asked for."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(f"script error: {error}"))
    tab.on("console", lambda said: _is_trouble(said) and wrong.append(f"console: {said.text} {said.location}"))
    tab.on("request", lambda asked: _is_outside(asked.url) and wrong.append(f"asked for {asked.url}"))
    tab.goto(address)
    settled(tab)
    yield tab
    assert tab.get_by_test_id("stException").count() == 0
    assert wrong == []
    context.close()


def settled(tab: Any) -> None:
    """Wait until a page stands."""
    tab.locator("h1").first.wait_for(timeout=30_000)


def _is_outside(url: str) -> bool:
    return not url.startswith(("http://localhost:", "ws://localhost:", "data:", "blob:"))


def _is_trouble(said: Any) -> bool:
    # At a page's own address Streamlit's script first looks for its server below that address.
    return bool(said.type == "error" and "/_stcore/" not in said.location.get("url", ""))


def _write_a_few(workspace: Path) -> None:
    """A handful of examples the demo keeps, so that its training takes seconds."""
    catalog = default_catalog()
    some: dict[str, list[dataset.Example]] = {}
    for example in synthesis.write_examples(catalog).examples:
        some.setdefault(example.call.name, []).append(example)
    few = [example for group in some.values() for example in group[:4]]
    Store(workspace).replace_examples(dataset.split(few, test_share=0.25))


def _wait_for(url: str, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _end(app_pid: int, workspace: Path) -> None:
    """End the app and everything it started: those processes outlive it on purpose."""
    mine = []
    for process in psutil.process_iter():
        try:
            if process.pid == app_pid or process.environ().get("DRONE_FT_WORKSPACE") == str(workspace):
                mine.append(process)
        except psutil.Error:
            continue
    for process in mine:
        if process.pid != os.getpid():
            process.terminate()
    psutil.wait_procs(mine, timeout=10)
