"""What a person sees on a page: its words and its buttons."""

from __future__ import annotations

from pathlib import Path

from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parents[2]


def said(at: AppTest) -> str:
    """All words on a page, but those of its tables and charts."""
    kinds = ("title", "header", "subheader", "markdown", "caption", "info", "success", "warning", "error", "toast")
    return "\n".join(str(element.value) for kind in kinds for element in getattr(at, kind))


def labels(at: AppTest) -> list[str]:
    """The buttons of a page, those that start something and those that can be pressed only once alike."""
    return [button.label for button in at.main.button]


def primary(at: AppTest) -> list[str]:
    """The buttons a page wants to be pressed."""
    return [button.label for button in at.main.button if button.proto.type == "primary"]
