"""The catalog page's parts: loading a catalog, and functions as cards people can read."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from drone_ft.catalog import REJECT, Catalog, Function, default_catalog, parse_catalog, parse_text, read_catalog
from drone_ft.errors import CatalogError
from drone_ft.ui import frame, parameters, session, words

READY_MADE = Path(__file__).resolve().parents[2] / "data" / "catalogs"

_HINT = (
    "A JSON file with a list of functions, each with a name, a description and parameters (a JSON Schema). "
    "The tools of an OpenAI request work as they are."
)


def overview(catalog: Catalog) -> None:
    """What is loaded, in a line, and what the model is told before every request."""
    commands = words.count(len(catalog.callable_functions), "command")
    rejecting = f"and one way to say no (`{catalog.reject}`)" if catalog.reject else "and no way to say no"
    st.markdown(f"**{words.escape(words.title(catalog.name))}** holds {commands} {rejecting}.")
    if not catalog.reject:
        st.warning(
            "Without a function for impossible requests the model has to call something every time, even where nothing "
            f"fits. With one more function, {REJECT}, it can learn to say no.",
            icon=":material/warning:",
        )
        if REJECT not in [function.name for function in catalog.functions] and st.button(
            "Add a way to say no", icon=":material/block:", key="catalog.reject"
        ):
            _teach_no(catalog)
    with st.expander("What the model is told before every request", icon=":material/chat:"):
        st.markdown(
            words.escape(catalog.system_prompt)
            if catalog.system_prompt
            else "Nothing: this catalog has no instructions."
        )


def with_reject(catalog: Catalog) -> Catalog:
    """The catalog with a function for impossible requests, and instructions that tell when to call it."""
    functions = [function.to_json() for function in catalog.functions]
    reject = default_catalog().function(REJECT)
    before = parse_catalog(functions, catalog.name).system_prompt
    after = parse_catalog([*functions, reject.to_json()], catalog.name).system_prompt
    prompt = f"{catalog.system_prompt}{after.removeprefix(before)}".strip()
    return Catalog(catalog.name, prompt, (*catalog.functions, reject), REJECT)


def _teach_no(catalog: Catalog) -> None:
    """Load the catalog with a way to say no; its examples come along, its models and reports stay with the old one."""
    here = session.store().examples()
    new = session.store().set_catalog(with_reject(catalog))
    if here:
        session.store().replace_examples(here, new.name)
    frame.notify(
        f"{words.title(new.name)} is loaded, with a way to say no. Next, add impossible requests on the examples page."
    )
    st.rerun()


def loader(catalog: Catalog) -> None:
    """Load another catalog: a ready-made or saved one, a file, or pasted text."""
    with st.expander("Load another catalog", icon=":material/folder_open:", key="catalog.loader"):
        ready, upload, paste = st.tabs(["Ready-made and saved", "Upload a file", "Paste"])
        with ready:
            _choose(catalog)
        with upload:
            file = st.file_uploader("Catalog file", type="json", key="catalog.file", help=_HINT)
            if file is not None:
                with frame.boundary():
                    _offer(_decoded(file.getvalue(), file.name), file.name, catalog, "catalog.use_file")
        with paste:
            text = st.text_area(
                "Catalog as JSON",
                key="catalog.text",
                height=180,
                placeholder='[{"name": "open_door", "description": …}]',
                help=_HINT,
            )
            st.button("Check", key="catalog.check", icon=":material/rule:")
            if text and text.strip():
                _offer(text, "pasted", catalog, "catalog.use_text")


def reset(catalog: Catalog) -> None:
    """The way back to the drone catalog, shown where another one is loaded."""
    if catalog.name != default_catalog().name and st.button(
        "Back to the drone catalog", icon=":material/undo:", key="catalog.reset"
    ):
        _use(default_catalog())


def cards(catalog: Catalog) -> None:
    """All functions as cards, the reject function last; a search narrows them."""
    wanted = ""
    if len(catalog.functions) > 6:
        wanted = (
            st.text_input(
                "Search functions",
                type="search",
                key="catalog.search",
                placeholder="Search functions",
                label_visibility="collapsed",
            )
            or ""
        )
    ordered = [*catalog.callable_functions, *[f for f in catalog.functions if f.name == catalog.reject]]
    found = [f for f in ordered if wanted.lower() in f"{f.name} {words.title(f.name)} {f.description}".lower()]
    if not found:
        st.caption(f"No function matches “{words.escape(wanted)}”. Clear the search to see them all.")
    with st.grid(2, min_column_width=470):
        for function in found:
            with st.container(border=True, height="stretch"):
                _card(function, function.name == catalog.reject)


def _card(function: Function, rejects: bool) -> None:
    st.subheader(words.title(function.name), anchor=False)
    badge = "  :orange-badge[:material/block: for impossible requests]" if rejects else ""
    st.markdown(f"`{function.name}`{badge}")
    st.markdown(words.escape(function.description) or "No description.")
    rows = parameters.rows(function.parameters)
    if not rows:
        st.caption("Takes no parameters.")
        return
    table = {
        "Parameter": [_named(row) for row in rows],
        "Takes": [words.escape(row.takes) for row in rows],
        "Needed": [words.escape(row.needed) for row in rows],
    }
    st.table(table, border="horizontal", hide_index=True, alt=f"Parameters of {function.name}")


def _named(row: parameters.Row) -> str:
    meaning = f"  \n:small[:gray[{words.escape(row.meaning)}]]" if row.meaning else ""
    return f"**{words.escape(row.name)}**{meaning}"


def _choose(catalog: Catalog) -> None:
    ready = [
        default_catalog().name,
        *[p.stem for p in sorted(READY_MADE.glob("*.json")) if p.stem != default_catalog().name],
    ]
    saved = [name for name in session.store().catalogs() if name not in ready]
    name = st.selectbox("Catalog", [*ready, *saved], key="catalog.name", format_func=_label)
    if name == catalog.name:
        st.caption("This one is loaded now.")
    elif st.button("Use this catalog", key="catalog.use_ready", icon=":material/check:"):
        if name in saved:
            _after(session.store().choose_catalog(name))
        else:
            _use(read_catalog(READY_MADE / f"{name}.json"))


def _label(name: str) -> str:
    return f"{words.title(name)} (default)" if name == default_catalog().name else words.title(name)


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CatalogError(
            f"{name} is not a text file, so it was not loaded. Save the catalog as JSON in UTF-8."
        ) from None


def _offer(text: str, name: str, now: Catalog, key: str) -> None:
    """Show what a text holds as a catalog, and a button to use it; or say in one sentence what is wrong with it."""
    try:
        found = parse_text(text, name)
    except CatalogError as error:
        st.error(words.escape(str(error)), icon=":material/error:")
        return
    if found.functions == now.functions:
        st.caption("These functions are loaded now.")
        return
    st.success(
        f"Found {words.count(len(found.functions), 'function')}: {_some([f.name for f in found.functions])}.",
        icon=":material/check_circle:",
    )
    if st.button("Use this catalog", key=key, type="primary"):
        _use(found)


def _some(names: list[str]) -> str:
    shown = [f"`{name}`" for name in names[:6]]
    return ", ".join(shown) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _use(catalog: Catalog) -> None:
    _after(session.store().set_catalog(catalog))


def _after(catalog: Catalog) -> None:
    frame.notify(f"{words.title(catalog.name)} is loaded. The examples of the catalog before are kept with it.")
    st.rerun()
