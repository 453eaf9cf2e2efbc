"""Evaluate: base and tuned model on the same unseen requests, with a verdict."""

from drone_ft.ui import evaluating, frame, models, runs, session

frame.head(
    "Evaluate", "The model before training (base) and after it (tuned) answer the same unseen requests. Did it help?"
)
asking = runs.under_way("evaluate", "demo")
catalog = session.store().catalog()
found = session.store().reports(catalog.name)
if asking:
    runs.watch(asking)
elif not models.tuned() and not found:
    evaluating.empty()
else:
    evaluating.outcome()
    if models.tuned():
        evaluating.settings(catalog, first=not found)
    if found:
        evaluating.show(evaluating.choose(found), catalog)
