"""Fine-tune: choose, start, watch the loss, cancel; past trainings."""

from drone_ft import pipeline
from drone_ft.ui import frame, runs, session, tuning

frame.head(
    "Fine-tune",
    "The model reads your examples a few times and adjusts itself, until the right call is no surprise to it.",
)
ready = [example for example in session.store().examples() if example.status == "approved"]
training = runs.under_way("tune", "demo")
if training:
    runs.watch(training)
else:
    pipeline.catch_up(session.store())
    if len(ready) < tuning.LEAST_EXAMPLES:
        tuning.empty(ready)
    else:
        ended = tuning.outcome()
        tuning.settings(ready, first=not ended)
tuning.past(training)
