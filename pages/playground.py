"""Playground: one request, base and tuned answer beside each other."""

from drone_ft.ui import frame, models, playing, session

frame.head(
    "Playground",
    "Say one command in your own words and see what each model makes of it. Calls are only shown, never carried out.",
)
catalog = session.store().catalog()
jobs = session.store().jobs(catalog.name)
if not models.tuned(jobs):
    playing.empty()
prompt = playing.request(catalog)
playing.answers(catalog, jobs, prompt)
