"""Playground: one request, base and tuned answer beside each other."""

from drone_ft.ui import frame, models, playing, session

frame.head(
    "Playground",
    "Say one command in your own words and see what each model makes of it. Nothing flies: calls are only shown.",
)
catalog = session.store().catalog()
if not models.tuned():
    playing.empty()
prompt = playing.request(catalog)
playing.answers(catalog, prompt)
