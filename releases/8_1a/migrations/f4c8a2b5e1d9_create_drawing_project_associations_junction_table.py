"""Create drawing_project_associations junction table (Phase A)

Revision ID: f4c8a2b5e1d9
Revises: 0ab370a9afb6
Create Date: 2025-10-03 09:00:00

Writers of drawings and projects go on while this runs. A foreign key locks the table that it references against writes
until the commit, so the two foreign keys come last and NOT VALID; only milliseconds are left between them and the
commit. Drawings that are written during the copy, and the validation, are for what follows the commit: the finalize
steps of release.yml.
"""

from __future__ import annotations

import sys

import sqlalchemy as sa
from alembic import op, util
from sqlalchemy.dialects import postgresql

revision = "f4c8a2b5e1d9"
down_revision = "0ab370a9afb6"
branch_labels = None
depends_on = None

TABLE = "drawing_project_associations"

# Whoever sets no lock_timeout gets one: a statement that waits for a lock makes every later writer wait behind it. It
# is shorter than deadlock_timeout (1 s), so that it is never the application's transaction which has to give way.
BOUND_LOCK_WAITS = """
    SELECT set_config('lock_timeout', '500ms', true) WHERE current_setting('lock_timeout') = '0'
"""

COPY = f"""
    INSERT INTO {TABLE} (drawing_id, project_id, assigned_by)
    SELECT id, project_id, 'migration_8.1a' FROM drawings WHERE project_id IS NOT NULL
"""

# Locks are taken one after another, and all who come later wait for all of them.
BOUND_EACH_OF_MANY = """
    SELECT set_config('lock_timeout', least(nullif(setting::int, 0), 100)::text || 'ms', true)
    FROM pg_settings WHERE name = 'lock_timeout'
"""

# Whoever counted beforehand what would be lost says when (the oldest transaction that went on: a row of that one, or of
# a later one, need not be counted) and which table of which database, of which start of the server. age() of what is
# newer than this transaction is negative.
REFUSE_UNCOUNTED = f"""
DO $uncounted$
DECLARE
    counted_at xid := nullif(current_setting('dbrelease.counted_at', true), '')::xid;
    here text := concat_ws('@', (SELECT oid FROM pg_database WHERE datname = current_database()),
                           extract(epoch FROM pg_postmaster_start_time()),
                           to_regclass('{TABLE}')::oid);
    changed uuid[];
    projects uuid[];
    uncounted bigint;
BEGIN
    -- No policy on rows may hide one.
    SET LOCAL row_security = off;
    IF counted_at IS NULL THEN
        IF EXISTS (SELECT FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name LIKE 'dbrelease-lock-%'
                     AND has_table_privilege(usesysid, '{TABLE}', 'DELETE')) THEN
            RAISE EXCEPTION 'Phase A is not rolled back: a run acts here, and did not tell this session when it counted'
                USING HINT = 'Nothing was changed. Let PGOPTIONS reach the server, or use the SQL file.';
        END IF;
        RETURN;
    END IF;
    IF current_setting('dbrelease.counted_in', true) IS DISTINCT FROM here THEN
        RAISE EXCEPTION 'Phase A is not rolled back: what it loses was counted in another database or server'
            USING HINT = 'Nothing was changed. Let the backend and db_name lead to the same database, and count again.';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'Phase A is not rolled back: it must be READ COMMITTED to see what was written while it waited'
            USING HINT = 'Nothing was changed. Leave the isolation level of the migration''s engine as it is.';
    END IF;
    SELECT count(*) INTO uncounted FROM {TABLE} a LEFT JOIN drawings d ON d.id = a.drawing_id
    WHERE age(a.xmin) <= age(counted_at)
      AND (a.assigned_by IS DISTINCT FROM 'migration_8.1a' OR d.project_id IS DISTINCT FROM a.project_id);
    IF uncounted > 0 THEN
        RAISE EXCEPTION
            'Phase A is not rolled back: % associations that would be lost were written since they were counted',
            uncounted
            USING HINT = 'Nothing was changed. Count again; if it stays so, a transaction from before that goes on.';
    END IF;
    SELECT array_agg(id), array_agg(project_id) INTO changed, projects FROM drawings WHERE age(xmin) <= age(counted_at);
    SELECT count(*) INTO uncounted FROM unnest(changed, projects) AS d (id, project_id)
    JOIN {TABLE} a ON a.drawing_id = d.id WHERE d.project_id IS DISTINCT FROM a.project_id;
    IF uncounted > 0 THEN
        RAISE EXCEPTION
            'Phase A is not rolled back: % associations differ from drawings written since they were counted',
            uncounted
            USING HINT = 'Nothing was changed. Count again; if it stays so, a transaction from before that goes on.';
    END IF;
END
$uncounted$
"""


def upgrade() -> None:
    """Build it, in the order that spares writers."""
    op.execute(BOUND_LOCK_WAITS)
    op.create_table(  # fails when the table is there already: its rows are not ours to merge with
        TABLE,
        sa.Column("id", postgresql.UUID(as_uuid=True), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("drawing_id", postgresql.UUID(as_uuid=True), nullable=False),
        sa.Column("project_id", postgresql.UUID(as_uuid=True), nullable=False),
        sa.Column("assigned_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("assigned_by", sa.String(255)),
    )
    migrated = copy_associations()
    op.create_primary_key(f"{TABLE}_pkey", TABLE, ["id"])
    op.create_unique_constraint("uq_drawing_project_association", TABLE, ["drawing_id", "project_id"])
    op.create_index("idx_dpa_drawing_id", TABLE, ["drawing_id"])
    op.create_index("idx_dpa_project_id", TABLE, ["project_id"])
    # Projects before drawings, the order in which deleting a project locks them.
    for column, referenced in (("project_id", "projects"), ("drawing_id", "drawings")):
        op.create_foreign_key(
            f"{TABLE}_{column}_fkey",
            TABLE,
            referenced,
            [column],
            ["id"],
            ondelete="CASCADE",
            postgresql_not_valid=True,
        )
    if migrated is not None:
        # Alembic's own writer: an output that cannot show the tick must not undo the migration.
        message = f"✓ Phase A Complete: Migrated {migrated} drawing-project associations"
        util.write_outstream(sys.stdout, message, "\n")


def copy_associations() -> int | None:
    """Copy, and count the rows; None where the SQL is only printed."""
    if op.get_context().as_sql:
        op.execute(COPY)
        return None
    return op.get_bind().execute(sa.text(COPY)).rowcount


def downgrade() -> None:
    """Drop it, and nothing else."""
    op.execute(BOUND_EACH_OF_MANY)
    # Dropping a foreign key locks the table that it references: every lock first, in the order of a project's delete.
    op.execute(f"LOCK TABLE projects, drawings, {TABLE} IN ACCESS EXCLUSIVE MODE")
    op.execute(REFUSE_UNCOUNTED)
    op.drop_table(TABLE)
