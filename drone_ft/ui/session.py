"""The UI's way to the store, and the names of what a browser tab remembers."""

from __future__ import annotations

import os

import streamlit as st

from drone_ft.store import Store


def _open(folder: str) -> Store:
    return Store()


_opened = st.cache_resource(_open, show_spinner=False)


def store() -> Store:
    """The one store of this process; another workspace folder means another store."""
    opened: Store = _opened(os.environ.get("DRONE_FT_WORKSPACE", ""))
    return opened
