-- Story 8.1a, phase A: the way back where Alembic cannot be used. It leaves what `alembic downgrade 0ab370a9afb6` leaves:
-- psql -f rollback_phase_a.sql
--
-- Only while phase B is not deployed and drawings.project_id is still there: what only the associations know is lost.
-- One block, so one transaction, whether psql stops at errors or not: all of it happens, or nothing.
DO $rollback$
DECLARE
    revisions text[];
    -- Whoever counted beforehand what would be lost says when (the oldest transaction that went on: a row of that one, or
    -- of a later one, need not be counted) and which table of which database, of which start of the server. age() of what
    -- is newer than this transaction is negative.
    counted_at xid := nullif(current_setting('dbrelease.counted_at', true), '')::xid;
    here text := concat_ws('@', (SELECT oid FROM pg_database WHERE datname = current_database()),
                           extract(epoch FROM pg_postmaster_start_time()),
                           to_regclass('drawing_project_associations')::oid);
    changed uuid[];
    projects uuid[];
    uncounted bigint;
BEGIN
    -- A statement that waits for a lock makes every later writer wait behind it: give up early, and run it again.
    -- Locks are taken one after another, and all who come later wait for all of them.
    PERFORM set_config('lock_timeout', least(nullif(setting::int, 0), 100)::text || 'ms', true)
    FROM pg_settings WHERE name = 'lock_timeout';

    -- No policy on rows may hide one.
    SET LOCAL row_security = off;

    LOCK TABLE alembic_version IN SHARE ROW EXCLUSIVE MODE;
    SELECT array_agg(version_num ORDER BY version_num) INTO revisions FROM alembic_version;
    IF revisions IS DISTINCT FROM ARRAY['f4c8a2b5e1d9'] THEN
        RAISE EXCEPTION 'Phase A is not rolled back: the database is at revision %, and only f4c8a2b5e1d9 can be rolled back by this file',
            coalesce(array_to_string(revisions, ', '), '(none)')
            USING HINT = 'Nothing was changed. `alembic current` shows the revision.';
    END IF;

    -- Dropping a foreign key locks the table that it references: every lock first, in the order of a project's delete.
    LOCK TABLE projects, drawings, drawing_project_associations IN ACCESS EXCLUSIVE MODE;
    IF counted_at IS NULL THEN
        IF EXISTS (SELECT FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name LIKE 'dbrelease-lock-%'
                     AND has_table_privilege(usesysid, 'drawing_project_associations', 'DELETE')) THEN
            RAISE EXCEPTION 'Phase A is not rolled back: a run acts here, and did not tell this session when it counted'
                USING HINT = 'Nothing was changed. Run it when that run has ended.';
        END IF;
    ELSE
        IF current_setting('dbrelease.counted_in', true) IS DISTINCT FROM here THEN
            RAISE EXCEPTION 'Phase A is not rolled back: what it loses was counted in another database or server'
                USING HINT = 'Nothing was changed. Let the backend and db_name lead to the same database, and count again.';
        END IF;
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            RAISE EXCEPTION 'Phase A is not rolled back: it must be READ COMMITTED to see what was written while it waited'
                USING HINT = 'Nothing was changed. Leave the isolation level of the migration''s engine as it is.';
        END IF;
        SELECT count(*) INTO uncounted FROM drawing_project_associations a LEFT JOIN drawings d ON d.id = a.drawing_id
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
        JOIN drawing_project_associations a ON a.drawing_id = d.id WHERE d.project_id IS DISTINCT FROM a.project_id;
        IF uncounted > 0 THEN
            RAISE EXCEPTION
                'Phase A is not rolled back: % associations differ from drawings written since they were counted',
                uncounted
                USING HINT = 'Nothing was changed. Count again; if it stays so, a transaction from before that goes on.';
        END IF;
    END IF;
    DROP TABLE drawing_project_associations;
    UPDATE alembic_version SET version_num = '0ab370a9afb6';
    RAISE NOTICE 'Phase A rolled back: drawing_project_associations is dropped, the revision is 0ab370a9afb6';
END
$rollback$;
