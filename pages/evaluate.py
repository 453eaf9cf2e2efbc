"""Evaluate: base and tuned model on the same unseen requests, with a verdict."""

from drone_ft.ui import evaluating, frame, models, runs, session

frame.head(
    "Evaluate", "The model before training (base) and after it (tuned) answer the same unseen requests. Did it help?"
)
asking = runs.under_way("evaluate", "demo")
catalog = session.store().catalog()
found, jobs = session.store().reports(catalog.name), session.store().jobs(catalog.name)
tuned = models.tuned(jobs)
if asking:
    runs.watch(asking)
elif not tuned and not found:
    evaluating.empty()
else:
    evaluating.outcome()
    if tuned:
        evaluating.settings(catalog, jobs, first=not found)
    if found:
        evaluating.show(evaluating.choose(found, jobs), catalog, jobs)
