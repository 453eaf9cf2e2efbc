"""What hosted models bring: paid answers, endpoints, what each model can do.

An answer's key is the digest of where, whom and what was asked, so that nothing is ever asked twice. An endpoint has no
key beside it: keys reach no database.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the three tables."""
    op.create_table(
        "answers",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("base_url", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("purpose", sa.String, nullable=False, index=True),
        sa.Column("request", sa.String, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("input_tokens", sa.Integer, nullable=False),
        sa.Column("cached_tokens", sa.Integer, nullable=False),
        sa.Column("output_tokens", sa.Integer, nullable=False),
        sa.Column("by_batch", sa.Boolean, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    )
    op.create_table(
        "endpoints",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("base_url", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
    )
    op.create_table(
        "abilities",
        sa.Column("base_url", sa.String, primary_key=True),
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("body", sa.JSON, nullable=False),
    )
