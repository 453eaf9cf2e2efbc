"""Examples: people's words for each call; filter, edit, add, approve, remove, download."""

import streamlit as st

from drone_ft.ui import composing, example_editor, examples, frame, runs, session

frame.head(
    "Examples",
    "People's words, each with the call they mean. This is all a model learns from, so correct what sounds wrong.",
)
catalog = session.store().catalog()
every = session.store().examples()
writing = runs.under_way("write", "compose")
if writing:
    runs.watch(writing)
elif not examples.failed_writing() and not every:
    examples.empty(catalog, first=not (composing.is_open() or composing.goes_on()))
if not writing:
    composing.outcome()
    composing.offer(catalog)
if every and not writing:
    examples.summary(every, catalog)
    examples.toolbar(every, catalog)
    wanted = examples.filters(every, catalog)
    shown = examples.matching(every, wanted, catalog)
    st.caption(f"{len(shown):,} of {len(every):,} shown")
    above = st.container()  # what can be done stands in sight, not below the table
    selected = examples.table(shown, catalog)
    with above:
        example_editor.panel(selected, every, catalog)
