"""A job's events in a table of their own: a list of jobs need not read them, saving a job need not write them again.

What a list tells of them, and of the data, stands in the job: the last loss, and how many examples it learns from.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Move the events out of the jobs."""
    events = op.create_table(
        "job_events",
        sa.Column("job", sa.String, primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True),
        sa.Column("body", sa.JSON, nullable=False),
    )
    jobs = sa.table("jobs", sa.column("id", sa.String), sa.column("body", sa.JSON), sa.column("train_jsonl", sa.Text))
    connection = op.get_bind()
    for job, body, lines in connection.execute(sa.select(jobs.c.id, jobs.c.body, jobs.c.train_jsonl)).all():
        said = body.pop("events", [])
        told = [{"job": job, "place": at, "body": event} for at, event in enumerate(said)]
        if told:
            connection.execute(events.insert(), told)
        body |= {"last_loss": _last_loss(said), "examples": lines.count("\n")}
        connection.execute(jobs.update().where(jobs.c.id == job).values(body=body))


def _last_loss(events: list[dict[str, Any]]) -> float | None:
    """The newest validation loss the events tell, else the newest training loss."""
    told = [event["data"] for event in events if isinstance(event.get("data"), dict)]
    losses = [data[name] for name in ("train_loss", "valid_loss") for data in told if data.get(name) is not None]
    return float(losses[-1]) if losses else None
