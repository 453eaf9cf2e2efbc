"""The first tables: catalogs, examples, jobs, reports, runs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table; a later change is a migration of its own, so this one stays as it is."""
    op.create_table(
        "catalogs",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("is_current", sa.Boolean, nullable=False),
    )
    op.create_table(
        "examples",
        sa.Column("row", sa.Integer, primary_key=True),
        sa.Column("catalog", sa.String, nullable=False, index=True),
        sa.Column("id", sa.String, nullable=False, index=True),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("removal", sa.Integer, nullable=True),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("train_jsonl", sa.Text, nullable=False),
        sa.Column("validation_jsonl", sa.Text, nullable=False),
    )
    op.create_table(
        "reports",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False, index=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
    )
