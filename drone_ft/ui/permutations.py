"""The permutations page's parts: how many calls each function allows, and the calls themselves."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import streamlit as st

from drone_ft import charts, permutations
from drone_ft.catalog import Catalog, Function
from drone_ft.permutations import CallTemplate
from drone_ft.ui import words

ON_A_PAGE = 20
# More than this is not listed but sampled: nobody reads ten thousand calls, and a browser would choke on a million.
MOST_LISTED = 2_000
MOST_DOWNLOADED = 50_000


def counts(catalog: Catalog) -> dict[str, int]:
    """Calls per function; said in a sentence and drawn."""
    found = permutations.count_catalog(catalog)
    total = sum(found.values())
    st.markdown(
        f"**{words.big(total)} {words.form(total, 'kind')} of call** across {words.count(len(found), 'function')}. "
        "A value that can be anything in a range, such as a number, counts once."
    )
    none = [words.title(name) for name, number in found.items() if number == 0]
    if none:
        st.warning(
            f"No call is possible for {words.listed(none, 'and')}: what they ask for contradicts itself. "
            "Correct them in the catalog.",
            icon=":material/warning:",
        )
    most = max(found, key=lambda name: found[name]) if found else ""
    st.plotly_chart(
        charts.calls_per_function(found, words.title),
        key="permutations.chart",
        config={"displayModeBar": False},
        alt=f"Calls per function, most for {words.title(most)}",
    )
    return found


def choose(catalog: Catalog, found: dict[str, int]) -> tuple[Function | None, str, str]:
    """The filter row: a function or all, words to look for, and how to show the calls."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox(
            "Function",
            list(found),
            None,
            key="permutations.function",
            placeholder="All functions",
            width=280,
            format_func=lambda n: f"{words.title(n)} ({words.big(found[n])})",
        )
        text = st.text_input(
            "Look for", type="search", key="permutations.text", placeholder="Search the calls", width=260
        )
        view = st.segmented_control(
            "Show as", ["Sentences", "JSON"], default="Sentences", required=True, key="permutations.view"
        )
    return (catalog.function(name) if name else None), text or "", view or "Sentences"


def listing(catalog: Catalog, function: Function | None, text: str, found: dict[str, int]) -> list[CallTemplate]:
    """The calls to show: all of them, or an even sample where there are too many."""
    functions = [function] if function else list(catalog.callable_functions)
    share = max(1, MOST_LISTED // max(1, len(functions)))
    shown: list[CallTemplate] = []
    sampled = False
    for one in functions:
        many = found[one.name] > (MOST_LISTED if function else share)
        sampled = sampled or many
        shown += permutations.sample(one, MOST_LISTED if function else share, 0) if many else permutations.iterate(one)
    if sampled:
        st.caption(
            f"There are too many to list. These are {len(shown):,}, drawn evenly; "
            f"the download holds up to {MOST_DOWNLOADED:,}."
        )
    return [call for call in shown if text.lower() in f"{words.title(call.function)} {call.sentence()}".lower()]


def browse(calls: list[CallTemplate], view: str) -> None:
    """One page of calls, with the page switch below."""
    if not calls:
        st.caption("No call matches. Change the words you look for, or choose all functions.")
        return
    slot = st.container()
    pages = -(-len(calls) // ON_A_PAGE)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.caption(words.count(len(calls), "kind of call", "kinds of call"), width="content")
        page = st.pagination(pages, key=f"permutations.page.{pages}", max_visible_pages=None) if pages > 1 else 1
    part = calls[(page - 1) * ON_A_PAGE : page * ON_A_PAGE]
    with slot:
        if view == "JSON":
            st.code(
                "\n".join(json.dumps(plain(call), ensure_ascii=False) for call in part),
                language="json",
                wrap_lines=True,
            )
        else:
            rows = [{"Function": words.title(call.function), "Call": _said(call)} for call in part]
            st.dataframe(
                rows,
                hide_index=True,
                height="content",
                alt="Calls as sentences",
                column_config={
                    "Function": st.column_config.TextColumn(width=200),
                    "Call": st.column_config.TextColumn(width="large"),
                },
            )


def _said(call: CallTemplate) -> str:
    """A call's sentence without its function's name, which has a column of its own."""
    return call.sentence().removeprefix(f"{call.function}: ")


def download(catalog: Catalog, function: Function | None, name: str) -> None:
    """All calls as JSON lines, made when asked for."""
    functions = [function] if function else list(catalog.callable_functions)
    st.download_button(
        "Download calls",
        lambda: _lines(functions),
        f"{name}-calls.jsonl",
        "application/jsonl",
        icon=":material/download:",
        key="permutations.download",
        on_click="ignore",
    )


def _lines(functions: list[Function]) -> str:
    every: Iterator[CallTemplate] = itertools.chain.from_iterable(permutations.iterate(one) for one in functions)
    return "".join(
        json.dumps(plain(call), ensure_ascii=False) + "\n" for call in itertools.islice(every, MOST_DOWNLOADED)
    )


def plain(call: CallTemplate) -> dict[str, Any]:
    """A call as data: its fixed arguments, and under `open` what each blank takes."""
    blanks = {".".join(path): words.takes(schema) for path, schema in call.blanks.items()}
    return {"name": call.function, "arguments": call.fixed, **({"open": blanks} if blanks else {})}
