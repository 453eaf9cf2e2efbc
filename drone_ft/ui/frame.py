"""What every page shares: the list of pages, the sidebar, page heads, notices and the error boundary."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import streamlit as st

from drone_ft.errors import DroneFTError
from drone_ft.ui import session, words

log = logging.getLogger("drone_ft.ui")

ICON = str(Path(__file__).resolve().parents[2] / "docs" / "icon.svg")
_ENTERED = "frame.entered"
_NOTICE = "frame.notice"
_PROBLEM = "frame.problem"


def pages() -> dict[str, list[Any]]:
    """Every page by section, in the order of the work."""
    return {
        "": [
            st.Page(
                "pages/home.py",
                title="Home",
                icon=":material/home:",
                default=True,
                help="Where you are, what comes next, and a demo of the whole way.",
            ),
        ],
        "Prepare": [
            st.Page(
                "pages/catalog.py",
                title="Catalog",
                icon=":material/menu_book:",
                help="The functions a model may call. Read them, or load your own.",
            ),
            st.Page(
                "pages/permutations.py",
                title="Permutations",
                icon=":material/grid_view:",
                help="Every call the catalog allows, counted and listed.",
            ),
            st.Page(
                "pages/examples.py",
                title="Examples",
                icon=":material/forum:",
                help="People's words for each call: write, correct, approve and download them.",
            ),
        ],
        "Train and compare": [
            st.Page(
                "pages/fine_tune.py",
                title="Fine-tune",
                icon=":material/model_training:",
                help="Train a model on your examples and watch it learn.",
            ),
            st.Page(
                "pages/evaluate.py",
                title="Evaluate",
                icon=":material/balance:",
                help="Base and tuned model on requests neither was trained on.",
            ),
            st.Page(
                "pages/playground.py",
                title="Playground",
                icon=":material/play_circle:",
                help="Type one request and see both models answer it.",
            ),
        ],
        "More": [
            st.Page(
                "pages/settings.py",
                title="Settings",
                icon=":material/settings:",
                help="Where models live: this computer, OpenAI, Azure, servers of your own; and their keys.",
            ),
        ],
    }


def navigate() -> Any:
    """The page the address names, with the menu of all pages."""
    st.session_state[_ENTERED] = True
    # Own icon first: without one the browser would ask the internet for the page's.
    st.set_page_config(page_title="drone_ft", page_icon=ICON, layout="wide")
    return st.navigation(pages())


def sidebar() -> None:
    """The name of the app, what is loaded, and where the data stays; shows a waiting notice."""
    st.logo(ICON, size="large")
    notice = st.session_state.pop(_NOTICE, None)
    if notice:
        st.toast(notice[0], icon=notice[1])
    with st.sidebar:
        catalog = session.store().catalog()
        st.caption(f"Catalog: {words.title(catalog.name)}, {words.count(len(catalog.callable_functions), 'function')}")
        st.caption(":material/lock: Everything stays on this computer, unless you choose a hosted model.")


def head(title: str, caption: str) -> None:
    """The head of a page: what it is called and, in one sentence, what it is for."""
    if _ENTERED not in st.session_state:
        # The first visit after a start runs a page's script by itself where the address names it, because there is a
        # folder called pages; naming the pages once makes Streamlit go through app.py from then on.
        navigate()
        st.rerun()
    st.title(title, anchor=False)
    st.caption(caption)
    problem = st.session_state.pop(_PROBLEM, None)
    if problem:
        st.error(problem, icon=":material/error:")


def notify(message: str, icon: str = ":material/check_circle:") -> None:
    """Say something once, after the next rerun."""
    st.session_state[_NOTICE] = (message, icon)


def has_news() -> bool:
    """Whether something waits to be said; a fragment that rerun by itself does not come to where it is shown."""
    return _NOTICE in st.session_state or _PROBLEM in st.session_state


def empty(message: str, icon: str) -> Any:
    """The frame of an empty page: what is missing; the caller adds the button that mends it."""
    box = st.container(border=True, horizontal_alignment="center", gap="small")
    with box:
        st.space("small")
        st.markdown(f"# :blue[{icon}]", text_alignment="center", width="stretch")
        st.markdown(message, text_alignment="center", width="stretch")
    return box


@contextmanager
def boundary(say: bool = True) -> Iterator[None]:
    """Turns any error into a sentence for people; what an engineer needs goes to the log."""
    try:
        yield
    except Exception as error:
        sentence = _sentence(error)
        if say:
            st.error(sentence, icon=":material/error:")


def _sentence(error: Exception) -> str:
    if isinstance(error, DroneFTError):
        log.warning("%s: %s", type(error).__name__, error)
        return words.escape(str(error))
    log.error("A page failed", exc_info=error)
    return (
        "Something went wrong on this page. Your work is saved: reload the page to try again. "
        "If it happens again, the details are in the window where the app was started."
    )


def guarded(part: Callable[..., None]) -> Callable[..., None]:
    """The boundary for parts that rerun by themselves (fragments), which app.py's boundary does not enclose."""

    @functools.wraps(part)
    def inside(*args: Any, **kwargs: Any) -> None:
        with boundary():
            part(*args, **kwargs)

    return inside


def action(done: Callable[..., None]) -> Callable[..., None]:
    """The boundary for callbacks, which run before the page is drawn: their error is shown under its head."""

    @functools.wraps(done)
    def inside(*args: Any, **kwargs: Any) -> None:
        try:
            done(*args, **kwargs)
        except Exception as error:
            st.session_state[_PROBLEM] = _sentence(error)

    return inside
