"""Takes the README's pictures from a running app: one a page, 1280 wide, light.

make run                                      # in one terminal; run the demo once
python docs/screenshots.py [ADDRESS]          # in another; ADDRESS defaults to http://localhost:8501
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

PAGES = ("home", "catalog", "permutations", "examples", "fine_tune", "evaluate", "playground", "settings")
FOLDER = Path(__file__).parent / "screenshots"
WIDTH, LOWEST, HIGHEST = 1280, 720, 1500
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
REQUEST = "It's getting dark down there, let the lights blink"


def main(address: str) -> None:
    """Open every page, bring it into a telling state, and take its picture."""
    FOLDER.mkdir(exist_ok=True)
    found = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        tab = browser.new_context(viewport={"width": WIDTH, "height": LOWEST}, color_scheme="light").new_page()
        for name in PAGES:
            tab.goto(f"{address}/{'' if name == 'home' else name}")
            tab.locator("h1").first.wait_for()
            tab.wait_for_timeout(3000)
            _prepare(tab, name)
            _take(tab, FOLDER / f"{name}.png")
            print(FOLDER / f"{name}.png")
        browser.close()


def _prepare(tab: Any, name: str) -> None:
    """Open an example's editor, ask the playground; other pages tell enough as they are."""
    if name == "examples" and tab.locator("[data-testid=stDataFrame] canvas").count():
        table = tab.locator("[data-testid=stDataFrame] canvas").first.bounding_box()
        tab.mouse.click(table["x"] + 20, table["y"] + 50)
        tab.get_by_role("button", name="Edit").click()
        tab.get_by_text("Edit this example").wait_for()
        tab.mouse.move(0, 0)
    if name == "playground":
        tab.get_by_label("Your request").fill(REQUEST)
        for _ in range(2):  # the first answer waits for the models to be loaded, which is not the usual
            tab.get_by_role("button", name="Ask").click()
            tab.wait_for_timeout(1000)
            tab.get_by_test_id("stSpinner").wait_for(state="hidden", timeout=120_000)
            tab.get_by_text("Answered in").last.wait_for(timeout=120_000)
    tab.wait_for_timeout(1500)


def _take(tab: Any, path: Path) -> None:
    content = tab.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    tab.set_viewport_size({"width": WIDTH, "height": max(LOWEST, min(HIGHEST, int(content)))})
    tab.wait_for_timeout(1200)
    tab.screenshot(path=path)
    tab.set_viewport_size({"width": WIDTH, "height": LOWEST})


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/") if len(sys.argv) > 1 else "http://localhost:8501")
