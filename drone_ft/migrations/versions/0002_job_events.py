"""A job's events in a table of their own: a list of jobs need not read them, saving a job need not write them again."""

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
    jobs = sa.table("jobs", sa.column("id", sa.String), sa.column("body", sa.JSON))
    connection = op.get_bind()
    for job, body in connection.execute(sa.select(jobs.c.id, jobs.c.body)).all():
        told = [{"job": job, "place": at, "body": event} for at, event in enumerate(body.pop("events", []))]
        if told:
            connection.execute(events.insert(), told)
        connection.execute(jobs.update().where(jobs.c.id == job).values(body=body))
