"""The examples page's parts: what there is, table and filters, and the ways in and out."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import streamlit as st

from drone_ft import dataset
from drone_ft.catalog import Call, Catalog, problems
from drone_ft.dataset import Example
from drone_ft.errors import DatasetError
from drone_ft.ui import frame, runs, session, words

SETS = {"train": "Training", "test": "Testing", None: "Not assigned"}
ORIGINS = {"phrasebook": "Phrasebook", "plain": "Plain wording", "person": "You", "model": "A model", "file": "A file"}
STATUSES = {"approved": "Approved", "draft": "Draft"}
ADDING = "examples.adding"
EDITING = "examples.editing"  # the id of the example in the editor, whatever is ticked meanwhile
START = "examples.start"  # words and call that a new example begins with
SAVED = "examples.saved"  # the id of the one added last, which stands first in the table
_ADDED = "examples.added"
_FILTERS = {name: f"examples.{name}" for name in ("text", "function", "kind", "split", "status", "origin")}


@dataclass(frozen=True)
class Filter:
    """What the table is narrowed to; an empty value narrows nothing."""

    text: str = ""
    function: str | None = None
    kind: str | None = None
    split: str | None = None
    status: str | None = None
    origin: str | None = None

    def keeps(self, example: Example, reject: str | None) -> bool:
        """Whether an example passes."""
        impossible = example.call.name == reject
        return (
            self.text.lower() in example.prompt.lower()
            and self.function in (None, example.call.name)
            and self.kind in (None, "Impossible" if impossible else "Possible")
            and self.split in (None, SETS.get(example.split))
            and self.status in (None, STATUSES.get(example.status, example.status))
            and self.origin in (None, ORIGINS.get(example.origin, example.origin))
        )


def narrow(function: str | None, kind: str | None = None) -> None:
    """Have the table, when it is shown next, narrowed to a function or a kind and to nothing else."""
    for key in _FILTERS.values():
        st.session_state[key] = None
    st.session_state[_FILTERS["text"]] = ""
    st.session_state[_FILTERS["function"]], st.session_state[_FILTERS["kind"]] = function, kind


def begin(prompt: str, call: Call | None) -> None:
    """Go to the examples page with the form for a new example open and begun."""
    st.session_state[ADDING], st.session_state[EDITING], st.session_state[START] = True, None, (prompt, call)
    st.switch_page("pages/examples.py")


def added(id: str) -> None:
    """An example was added: it is to stand first in the table, with no filter in its way."""
    st.session_state[SAVED], st.session_state[_ADDED] = id, True


def edited(examples: list[Example]) -> Example | None:
    """The example that stands in the editor."""
    wanted = st.session_state.get(EDITING)
    return next((example for example in examples if example.id == wanted), None)


def matching(examples: list[Example], wanted: Filter, catalog: Catalog) -> list[Example]:
    """The examples that pass the filter, the one added last before all others."""
    last = st.session_state.get(SAVED)
    return sorted((e for e in examples if wanted.keeps(e, catalog.reject)), key=lambda e: e.id != last)


def empty(catalog: Catalog, first: bool = True) -> None:
    """No examples yet: why they matter, and the button that writes them, `first` where no other one comes before it."""
    box = frame.empty(
        "**No examples yet**  \nA model learns from pairs: a person's words, and the call they mean. "
        f"Writing them for {words.count(len(catalog.callable_functions), 'function')} takes a few seconds.",
        ":material/forum:",
    )
    with box, st.container(horizontal=True, horizontal_alignment="center"):
        runs.start_button(
            "Write examples",
            "write",
            dict,
            "examples.write",
            type="primary" if first else "secondary",
            icon=":material/edit_note:",
        )
        load(catalog)
        undo()


def summary(examples: list[Example], catalog: Catalog) -> None:
    """How many there are of what, and which functions have only plain wordings."""
    impossible = sum(e.call.name == catalog.reject for e in examples)
    drafts = sum(e.status == "draft" for e in examples)
    kept = sum(e.split == "test" for e in examples)
    said = f"**{words.count(len(examples), 'example')}**: {len(examples) - impossible:,} possible requests "
    said += f"and {impossible:,} impossible, unclear or incomplete ones. {kept:,} of them are kept aside for testing."
    if any(e.origin in ("phrasebook", "plain") for e in examples):
        said += " Small talk, slang and slips of the finger are there on purpose: people write like that."
    if drafts:
        said += f" {words.count(drafts, 'draft')} will be left out of training until approved."
    st.markdown(said)
    said_for = {e.call.name for e in examples}
    wordless = [f.name for f in catalog.callable_functions if f.name not in said_for]
    if wordless:
        st.warning(
            f"There are no words yet for {_named(wordless)}. Add some, or the model will not learn to call "
            f"{words.form(len(wordless), 'it', 'them')}.",
            icon=":material/warning:",
        )
    plain = list(dict.fromkeys(e.call.name for e in examples if e.origin == "plain" and e.call.name != catalog.reject))
    if plain:
        st.info(
            f"The words for {_named(plain)} are plain: made from names and descriptions, not by a person. "
            "Rewrite some as your people would say them, and the model will understand people better.",
            icon=":material/info:",
        )


def _named(functions: list[str]) -> str:
    """A few functions by name, and how many more there are."""
    more = [f"{len(functions) - 5} more"] if len(functions) > 5 else []
    return words.escape(words.listed([words.title(name) for name in functions[:5]] + more, "and"))


def toolbar(examples: list[Example], catalog: Catalog) -> None:
    """Add, write anew, undo, load and download."""
    with st.container(horizontal=True):
        busy = edited(examples) is not None
        if st.button(
            "Add an example",
            icon=":material/add:",
            key="examples.add",
            disabled=busy,
            help="First save or close the one you are editing." if busy else None,
        ):
            st.session_state[ADDING] = True
        load(catalog)
        _download(examples, catalog)
        with st.popover("Write anew", icon=":material/edit_note:"):
            st.markdown("Fresh examples take the place of all these. Those you wrote can be brought back.")
            runs.start_button("Write all anew", "write", dict, "examples.rewrite")
        undo()


def undo() -> None:
    """Bring back what was removed last."""
    removed = session.store().last_removed()
    if removed and st.button(
        "Undo the last removal",
        icon=":material/undo:",
        type="tertiary",
        key="examples.undo",
    ):
        back = session.store().undo_remove(removed[0])
        frame.notify(f"{words.count(back, 'example')} brought back.", ":material/undo:")
        st.rerun()


def load(catalog: Catalog) -> None:
    """Add examples from a JSONL file."""
    with st.popover("Load a file", icon=":material/upload_file:"):
        file = st.file_uploader(
            "File of examples (JSONL)",
            type=["jsonl", "json", "txt"],
            key="examples.file",
            help="One conversation a line, as OpenAI's fine-tuning takes it, with tools or the older functions.",
        )
        if file is None:
            return
        with frame.boundary():
            _offer(file, catalog)


def _offer(file: Any, catalog: Catalog) -> None:
    """What a file holds that is new here, and the button that adds it."""
    found = _read(file.getvalue(), file.name, catalog)
    here = [example.id for example in session.store().examples()]
    fresh = [example for example in found if example.id not in here]
    st.success(
        f"{file.name} holds {words.count(len(found), 'example')}; {len(fresh):,} of them are new here.",
        icon=":material/check_circle:",
    )
    if fresh and st.button(f"Add {words.count(len(fresh), 'example')}", type="primary", key="examples.load"):
        session.store().add_examples(dataset.place(fresh, session.store().examples()))
        frame.notify(f"{words.count(len(fresh), 'example')} added.")
        st.rerun()


def _read(data: bytes, name: str, catalog: Catalog) -> list[Example]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError(f"{name} is not a text file, so it was not loaded. Save it as JSONL in UTF-8.") from None
    found, _ = dataset.from_jsonl(text, name)
    for number, example in enumerate(found, 1):
        wrong = problems(catalog, example.call)
        if wrong:
            raise DatasetError(
                f"{name} was not loaded: example {number} does not fit this catalog. "
                f"{words.first_up(wrong[0]).rstrip('.')}. Load its catalog first, or correct the file."
            )
    return list({example.id: example for example in found}.values())


def filters(examples: list[Example], catalog: Catalog) -> Filter:
    """The filter row; it is as it was left when one comes back to the page."""
    if st.session_state.pop(_ADDED, False):
        narrow(None)
    functions = [name for name in dict.fromkeys(e.call.name for e in examples) if name != catalog.reject]
    origins = list(dict.fromkeys(ORIGINS.get(e.origin, e.origin) for e in examples))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input(
            "Words",
            type="search",
            key=_FILTERS["text"],
            placeholder="Search",
            width=155,
            persist_state="session",
        )
        function = _one_of("Function", functions, "function", "All functions", 180)
        kind = _one_of("Kind", ["Possible", "Impossible"], "kind", "Both", 145)
        split = _one_of("Used for", ["Training", "Testing"], "split", "Both", 130)
        drafts = any(e.status == "draft" for e in examples)
        status = _one_of("State", list(STATUSES.values()), "status", "Both", 140) if drafts else None
        origin = _one_of("Written by", origins, "origin", "Anybody", 145) if len(origins) > 1 else None
    return Filter(text or "", function, kind, split, status, origin)


def _one_of(label: str, options: list[str], name: str, placeholder: str, width: int) -> str | None:
    """One choice of the filter row, or none; a choice that is no longer offered is forgotten."""
    key = _FILTERS[name]
    if st.session_state.get(key) not in options:
        st.session_state[key] = None
    chosen: str | None = st.selectbox(
        label,
        options,
        None,
        format_func=words.title if name == "function" else str,
        key=key,
        placeholder=placeholder,
        width=width,
        persist_state="session",
    )
    return chosen


def table(shown: list[Example], catalog: Catalog) -> list[Example]:
    """The examples as a table; returns the selected ones."""
    if not shown:
        st.caption("No example matches. Change or clear the filter above to see more.")
        return []
    rows = [
        {
            "Words": e.prompt,
            "Call": words.call(e.call, catalog.reject),
            "Used for": SETS.get(e.split, e.split),
            "State": STATUSES.get(e.status, e.status),
            "Written by": ORIGINS.get(e.origin, e.origin),
        }
        for e in shown
    ]
    event = st.dataframe(
        rows,
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        height=430 if len(shown) > 11 else "content",
        column_config={
            "Words": st.column_config.TextColumn(width=340),
            "Call": st.column_config.TextColumn(width=250),
            **dict.fromkeys(("Used for", "State", "Written by"), st.column_config.TextColumn(width=90)),
            **({} if any(e.status == "draft" for e in shown) else {"State": None}),
        },
        alt="Examples: words and the call they mean",
    )
    return [shown[i] for i in event.selection.rows if i < len(shown)]


def _download(examples: list[Example], catalog: Catalog) -> None:
    good = [e for e in examples if e.status == "approved"]
    with st.popover("Download", icon=":material/download:"):
        form = st.segmented_control(
            "Format",
            ["tools", "functions"],
            default="tools",
            required=True,
            key="examples.form",
            format_func={"tools": "Today's (tools)", "functions": "Older (functions)"}.__getitem__,
        )
        for split, name in (("train", "Training"), ("test", "Testing")):
            part = [e for e in dataset.complete_split(good) if e.split == split] if good else []
            st.download_button(
                f"{name}: {words.count(len(part), 'example')}",
                functools.partial(dataset.to_jsonl, part, catalog, form),
                f"{split}.jsonl",
                "application/jsonl",
                key=f"examples.download.{split}",
                on_click="ignore",
                width="stretch",
                disabled=not part,
            )
        st.caption("JSONL, as fine-tuning takes it. Drafts are left out.")


def failed_writing() -> bool:
    """Why the last writing stopped, if it did, and the button that tries again. Whether it did."""
    last = runs.latest("write")
    if last is None or last.status != "failed":
        return False
    runs.stopped(last)
    return True
