"""Create components

Revision ID: 7e42b9d06c13
Revises: 1c5d0e8f7a21
Create Date: 2025-04-22 15:40:03
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "7e42b9d06c13"
down_revision = "1c5d0e8f7a21"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "components",
        sa.Column("id", sa.BigInteger, sa.Identity(always=False), primary_key=True),
        sa.Column(
            "drawing_id",
            postgresql.UUID(as_uuid=True),
            sa.ForeignKey("drawings.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("label", sa.String(120), nullable=False),
        sa.Column("quantity", sa.Numeric(12, 3), nullable=False, server_default="1"),
        sa.Column("attributes", postgresql.JSON),
    )
    op.create_index("ix_components_drawing_id", "components", ["drawing_id"])


def downgrade() -> None:
    op.drop_table("components")
