-- Story 8.1a, phase A: the way back where Alembic cannot be used. It leaves what `alembic downgrade 0ab370a9afb6` leaves:
-- psql -f rollback_phase_a.sql
--
-- Only while phase B is not deployed and drawings.project_id is still there: what only the associations know is lost.
-- One block, so one transaction, whether psql stops at errors or not: all of it happens, or nothing.
DO $rollback$
DECLARE
    revisions text[];
    -- Whoever counted beforehand what would be lost says when: the next transaction id, and those that ran.
    counted_at text[] := string_to_array(nullif(current_setting('dbrelease.counted_at', true), ''), ',');
    uncounted bigint;
BEGIN
    -- A statement that waits for a lock makes every later writer wait behind it: give up early, and run it again.
    IF current_setting('lock_timeout') = '0' THEN
        PERFORM set_config('lock_timeout', '500ms', true);
    END IF;

    LOCK TABLE alembic_version IN SHARE ROW EXCLUSIVE MODE;
    SELECT array_agg(version_num ORDER BY version_num) INTO revisions FROM alembic_version;
    IF revisions IS DISTINCT FROM ARRAY['f4c8a2b5e1d9'] THEN
        RAISE EXCEPTION 'Phase A is not rolled back: the database is at revision %, and only f4c8a2b5e1d9 can be rolled back by this file',
            coalesce(array_to_string(revisions, ', '), '(none)')
            USING HINT = 'Nothing was changed. `alembic current` shows the revision.';
    END IF;

    -- Dropping a foreign key locks the table that it references: every lock first, in the order of a project's delete.
    LOCK TABLE projects, drawings, drawing_project_associations IN ACCESS EXCLUSIVE MODE;
    IF counted_at IS NOT NULL THEN
        SELECT count(*) INTO uncounted FROM drawing_project_associations
        WHERE age(xmin) BETWEEN 0 AND age(counted_at[1]::xid) OR xmin = ANY (counted_at[2:]::xid[]);
        IF uncounted > 0 THEN
            RAISE EXCEPTION 'Phase A is not rolled back: % associations were written since they were counted', uncounted
                USING HINT = 'Nothing was changed. Count again what would be lost.';
        END IF;
    END IF;
    DROP TABLE drawing_project_associations;
    UPDATE alembic_version SET version_num = '0ab370a9afb6';
    RAISE NOTICE 'Phase A rolled back: drawing_project_associations is dropped, the revision is 0ab370a9afb6';
END
$rollback$;
