-- Story 8.1a, phase A: bring the associations in line with drawings.project_id. Run it as often as you like, while the
-- application writes: psql -f data_migration_phase_a.sql
--
-- Adds what is missing; removes what the migration itself added and is no longer so (the drawing is gone, has another
-- project or none). Associations that somebody else made (assigned_by) stay. One statement, so one instant and all or
-- nothing; the rows that it changed are its result. FOR KEY SHARE keeps the few drawings and projects concerned from being
-- deleted before their association is in; whoever sets dbrelease.batch_rows has at most so many of each, and repeats it.
WITH missing AS (
    SELECT d.id AS drawing_id, d.project_id
    FROM drawings d
    JOIN projects p ON p.id = d.project_id
    WHERE d.project_id IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM ONLY drawing_project_associations a WHERE a.drawing_id = d.id AND a.project_id = d.project_id)
    LIMIT nullif(current_setting('dbrelease.batch_rows', true), '')::bigint
    FOR KEY SHARE OF d, p
), added AS (
    INSERT INTO drawing_project_associations (drawing_id, project_id, assigned_by)
    SELECT drawing_id, project_id, 'migration_8.1a' FROM missing
    ON CONFLICT DO NOTHING
    RETURNING drawing_id, project_id
), stale AS (
    SELECT a.id FROM ONLY drawing_project_associations a
    WHERE a.assigned_by = 'migration_8.1a'
      AND NOT EXISTS (SELECT 1 FROM drawings d WHERE d.id = a.drawing_id AND d.project_id = a.project_id)
    LIMIT nullif(current_setting('dbrelease.batch_rows', true), '')::bigint
), removed AS (
    -- Again: whoever was waited for may have made it an association of its own.
    DELETE FROM ONLY drawing_project_associations a USING stale WHERE a.id = stale.id AND a.assigned_by = 'migration_8.1a'
    RETURNING a.drawing_id, a.project_id
)
SELECT 'removed' AS change, drawing_id, project_id FROM removed
UNION ALL
SELECT 'added', drawing_id, project_id FROM added;
