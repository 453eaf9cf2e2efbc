"""Evaluate: base and tuned model on the same unseen requests, with a verdict."""

from drone_ft.ui import evaluating, frame, models, runs, session

frame.head(
    "Evaluate", "The model before training (base) and after it (tuned) answer the same unseen requests. Did it help?"
)
asking = runs.under_way("evaluate", "demo")
found = session.store().reports(session.store().catalog().name)
if asking:
    runs.watch(asking)
elif not models.tuned() and not found:
    evaluating.empty()
else:
    evaluating.outcome()
    if models.tuned():
        evaluating.settings(session.store().catalog(), first=not found)
    if found:
        evaluating.show(evaluating.choose(found))
