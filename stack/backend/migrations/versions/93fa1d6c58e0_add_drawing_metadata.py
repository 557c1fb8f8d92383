"""Add drawing metadata

Revision ID: 93fa1d6c58e0
Revises: 7e42b9d06c13
Create Date: 2025-06-11 11:05:29
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "93fa1d6c58e0"
down_revision = "7e42b9d06c13"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "drawings", sa.Column("metadata", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'::jsonb"))
    )


def downgrade() -> None:
    op.drop_column("drawings", "metadata")
