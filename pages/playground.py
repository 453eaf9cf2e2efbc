"""Playground: one request, base and tuned answer beside each other."""

from drone_ft.ui import frame, models, playing, session

frame.head(
    "Playground",
    "Say it in your own words and see what each model makes of it. Nothing flies: the calls are only shown.",
)
catalog = session.store().catalog()
if not models.tuned():
    playing.empty()
prompt = playing.request(catalog)
playing.answers(catalog, prompt)
