-- The same rows every time, for psql --set=rows=N: N drawings, N/8 projects, N/5 components. Ids are hashes of the
-- row's number, so a foreign key is computed rather than looked up.
\set ON_ERROR_STOP 1
-- Workers share memory, of which the container has Docker's 64 MB: not enough for an index or a vacuum of millions of rows.
SET max_parallel_workers_per_gather = 0;
SET max_parallel_maintenance_workers = 0;
BEGIN;
SET LOCAL synchronous_commit = off;
-- The keys below are right by construction: no trigger need look each one up (a third of the time).
SET LOCAL session_replication_role = replica;

INSERT INTO projects (id, name, code, description, created_at, updated_at)
SELECT md5('project ' || n)::uuid,
       (ARRAY['Bridge', 'O''Hare "North"', 'Straßenbahn', '100% Solar', '東京タワー', 'C:\Plant\Nord'])[1 + n % 6] || ' ' || n,
       CASE WHEN n % 7 > 0 THEN 'P-' || lpad(n::text, 6, '0') END,
       CASE WHEN n % 3 > 0 THEN 'Line one of ' || n || E'\nline two, with a tab\there' END,
       timestamptz '2024-01-01 08:00:00Z' + n * interval '97 seconds',
       timestamptz '2024-06-01 08:00:00Z' + n * interval '53 seconds'
FROM generate_series(1, greatest(1, :rows / 8)) AS n;

-- One drawing in ten has no project; one project in twenty has no drawing.
INSERT INTO drawings (id, title, file_path, processing_status, upload_date, project_id, metadata, created_at, updated_at)
SELECT md5('drawing ' || n)::uuid,
       (ARRAY['Floor plan', 'Section "A-A"', 'Owner''s copy', '50% issue, %s and %(x)s', 'Détail Ø12 – Türblatt', 'Pumpe 🛠️ 図面',
              'Path C:\new\table', E'Two\nlines', 'Semicolon; -- DROP', '   padded   ', '$1 {{ jinja }}'])[1 + n % 11] || ' ' || n,
       '/drawings/' || n % 100 || '/' || n || (ARRAY['.pdf', '.dwg', '.dxf'])[1 + n % 3],
       (ARRAY['failed', 'processing', 'pending', 'pending'] || array_fill('completed'::text, ARRAY[16]))[1 + n % 20],
       timestamptz '2024-02-01 00:00:00Z' + n::bigint * 7919 % 31536000 * interval '1 second',
       CASE WHEN n % 10 <> 3
            THEN md5('project ' || 1 + n::bigint * 2654435761 % greatest(1, :rows / 8 * 19 / 20))::uuid END,
       jsonb_build_object('sheet', n % 40, 'scale', '1:' || 50 * (1 + n % 4)),
       timestamptz '2024-02-01 00:00:00Z' + n * interval '1 second',
       timestamptz '2024-08-01 00:00:00Z' + n * interval '1 second'
FROM generate_series(1, :rows) AS n;

INSERT INTO components (drawing_id, label, quantity, attributes)
SELECT md5('drawing ' || n)::uuid, 'Component ' || n, n % 1000 / 8.0, json_build_object('material', 'S' || 235 + n % 3 * 60)
FROM generate_series(5, :rows, 5) AS n;
COMMIT;
VACUUM ANALYZE projects, drawings, components;
