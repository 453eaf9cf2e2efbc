"""Catalog: the functions a model may call, as cards; load another."""

from drone_ft.ui import catalog, frame, session

frame.head(
    "Catalog", "The functions a model may call: what each does, what it needs to be told, and which values it takes."
)
current = session.store().catalog()
catalog.overview(current)
catalog.loader(current)
catalog.reset(current)
catalog.cards(current)
