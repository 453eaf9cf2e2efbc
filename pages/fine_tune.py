"""Fine-tune: choose, start, watch the loss, cancel; past trainings."""

from drone_ft import pipeline
from drone_ft.ui import frame, runs, session, tuning

frame.head(
    "Fine-tune",
    "The model reads your examples and adjusts itself, until the right call is no surprise to it.",
)
ready = pipeline.ready(session.store().examples())
training = runs.under_way("tune", "demo")
if not training:
    tuning.catch_up()
jobs = session.store().jobs()
if training:
    runs.watch(training)
elif not pipeline.is_enough(ready):
    tuning.empty(ready)
else:
    ended = tuning.outcome(jobs)
    tuning.settings(ready, jobs, first=not ended)
tuning.past(training, jobs)
