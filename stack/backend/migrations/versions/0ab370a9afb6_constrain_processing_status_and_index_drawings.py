"""Constrain processing_status and index drawings

Revision ID: 0ab370a9afb6
Revises: 93fa1d6c58e0
Create Date: 2025-08-19 08:31:57
"""

from __future__ import annotations

from alembic import op

revision = "0ab370a9afb6"
down_revision = "93fa1d6c58e0"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_check_constraint(
        "ck_drawings_processing_status",
        "drawings",
        "processing_status IN ('pending', 'processing', 'completed', 'failed')",
    )
    op.create_index("ix_drawings_project_id", "drawings", ["project_id"])
    op.create_index("ix_drawings_upload_date", "drawings", ["upload_date"])


def downgrade() -> None:
    op.drop_index("ix_drawings_upload_date", "drawings")
    op.drop_index("ix_drawings_project_id", "drawings")
    op.drop_constraint("ck_drawings_processing_status", "drawings")
