"""Create projects and drawings

Revision ID: 1c5d0e8f7a21
Revises:
Create Date: 2025-03-04 09:12:44
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "1c5d0e8f7a21"
down_revision = None
branch_labels = None
depends_on = None


def row_id() -> sa.Column[object]:
    return sa.Column("id", postgresql.UUID(as_uuid=True), primary_key=True, server_default=sa.text("gen_random_uuid()"))


def moment(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()"))


def upgrade() -> None:
    op.create_table(
        "projects",
        row_id(),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("code", sa.String(50)),
        sa.Column("description", sa.Text),
        moment("created_at"),
        moment("updated_at"),
    )
    op.create_table(
        "drawings",
        row_id(),
        sa.Column("title", sa.String(500), nullable=False),
        sa.Column("file_path", sa.String(1000), nullable=False),
        sa.Column("processing_status", sa.String(20), nullable=False, server_default="pending"),
        moment("upload_date"),
        sa.Column("project_id", postgresql.UUID(as_uuid=True), sa.ForeignKey("projects.id", ondelete="SET NULL")),
        moment("created_at"),
        moment("updated_at"),
    )


def downgrade() -> None:
    op.drop_table("drawings")
    op.drop_table("projects")
