"""What holds for all pages: they open in every state, say so when the disk fails, and never show a traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import seed
from seen import ROOT, labels, primary, said
from streamlit.testing.v1 import AppTest

from drone_ft.errors import StoreError
from drone_ft.store import Store

PAGES = sorted(path.stem for path in (ROOT / "pages").glob("*.py"))
SOURCES = [ROOT / "app.py", *sorted((ROOT / "pages").glob("*.py")), *sorted((ROOT / "drone_ft" / "ui").glob("*.py"))]


def stopped(store):
    seed.examples(store, 8)
    seed.job(store, "failed")
    for kind in ("demo", "tune", "evaluate", "write"):
        seed.run(store, kind, "failed", "The disk is full. Free some space and try again.")


def stopped_at_once(store):
    for kind in ("demo", "tune", "evaluate", "write"):
        seed.run(store, kind, "failed", "The disk is full. Free some space and try again.")


def under_way(store):
    seed.examples(store, 40)
    seed.job(store, "running")
    seed.run(store, "demo", "running", job_id="job1")


@pytest.mark.parametrize(
    "state",
    [lambda store: None, seed.full, stopped, stopped_at_once, under_way],
    ids=["empty", "full", "failed", "failed at once", "running"],
)
@pytest.mark.parametrize("page", PAGES)
def test_opens_in_every_state(page, state, store, open_page):
    state(store)
    at = open_page(page)
    assert at.title[0].value
    assert not [e.value for e in at.error if "Something went wrong" in e.value]
    assert len(primary(at)) <= 1, "one thing to do at a time"


@pytest.mark.parametrize("page", ["examples", "fine_tune", "evaluate", "home"])
def test_an_empty_page_has_the_button_that_fills_it(page, open_page):
    assert len(primary(open_page(page))) == 1


@pytest.mark.parametrize("page", PAGES)
def test_a_failing_disk_is_a_sentence(page, open_page, monkeypatch):
    def fail(self, *args):
        raise StoreError("The database refused: disk I/O error. Check that the disk is not full.")

    monkeypatch.setattr(Store, "catalog", fail)
    monkeypatch.setattr(Store, "jobs", fail)
    monkeypatch.setattr(Store, "endpoints", fail)
    at = open_page(page)
    assert [e.value for e in at.error if "disk is not full" in e.value] == [e.value for e in at.error]
    assert len(at.error) == 1


def test_a_bug_is_a_calm_sentence_and_its_details_are_in_the_log(open_page, monkeypatch, caplog):
    monkeypatch.setattr(Store, "examples", lambda self: 1 / 0)
    at = open_page("examples")
    assert "Something went wrong on this page. Your work is saved" in said(at)
    assert "division" not in said(at)
    assert "ZeroDivisionError" in caplog.text


def test_a_start_that_fails_is_said_under_the_title(open_page, monkeypatch):
    def fail(store, kind, settings):
        raise StoreError("The folder cannot be written. Choose another one.")

    monkeypatch.setattr("drone_ft.work.start", fail)
    at = open_page("home")
    at.button(key="home.demo").click().run()
    assert "The folder cannot be written" in said(at) and "home.demo" in [b.key for b in at.button]


def test_the_sidebar_shows_work_under_way_on_every_page(store, open_page):
    under_way(store)
    links = [link.value for link in open_page("catalog").sidebar.page_link]
    assert links == ["The demo is running"]


def test_pages_are_thin_and_use_no_injected_html():
    for path in SOURCES:
        text = path.read_text()
        assert not re.search(r"unsafe_allow_html|st\.html|use_container_width|components\.v1", text), path
        assert path.parent.name != "pages" or len(text.splitlines()) <= 60, path


def test_every_table_and_chart_has_words_for_those_who_cannot_see_it():
    for path in SOURCES:
        text = path.read_text()
        drawn = len(re.findall(r"st\.(?:dataframe|table|plotly_chart)\(", text))
        assert drawn == text.count("alt="), path


def test_the_pages_never_load_the_engine(tmp_path: Path):
    modules = ", ".join(
        f"drone_ft.ui.{path.stem}" for path in (ROOT / "drone_ft" / "ui").glob("*.py") if path.stem != "__init__"
    )
    heavy = "[m for m in ('torch', 'transformers', 'drone_ft.local') if m in sys.modules]"
    check = f"import sys, {modules}; sys.exit(str({heavy}) if {heavy} else 0)"
    subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, check=True, env={"DRONE_FT_WORKSPACE": str(tmp_path), "PATH": ""}
    )


def test_nothing_is_pressed_by_opening_pages(store, started, open_page):
    seed.full(store)
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30).run()
    for page in PAGES:
        at.switch_page(f"pages/{page}.py").run()
    assert started == [] and labels(at)
