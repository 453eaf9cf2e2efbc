"""Batches under way, apart from the run that began them: a later writing at their place collects what is over."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "batches",
        sa.Column("tag", sa.String, primary_key=True),
        sa.Column("base_url", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("keys", sa.JSON, nullable=False),
        sa.Column("file", sa.String, nullable=False),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    )
