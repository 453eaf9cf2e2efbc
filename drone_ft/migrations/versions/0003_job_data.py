"""A job's frozen data in a table of their own, compressed: every row of them repeats the tools.

Beside the job they were written again each time the job changed: 140 MB every two seconds while it trained. The old
columns stay, empty: a process that was started before the update still writes them.
"""

import zlib

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Move the data out of the jobs, one job after the other."""
    data = op.create_table(
        "job_data",
        sa.Column("job", sa.String, primary_key=True),
        sa.Column("train", sa.LargeBinary, nullable=False),
        sa.Column("validation", sa.LargeBinary, nullable=False),
    )
    jobs = sa.table("jobs", *(sa.column(name, sa.Text) for name in ("id", "train_jsonl", "validation_jsonl")))
    connection = op.get_bind()
    for job in connection.scalars(sa.select(jobs.c.id)).all():
        train, validation = connection.execute(
            sa.select(jobs.c.train_jsonl, jobs.c.validation_jsonl).where(jobs.c.id == job)
        ).one()
        moved = {"train": zlib.compress(train.encode()), "validation": zlib.compress(validation.encode())}
        connection.execute(data.insert().values(job=job, **moved))
        connection.execute(jobs.update().where(jobs.c.id == job).values(train_jsonl="", validation_jsonl=""))
