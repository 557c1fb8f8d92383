"""A database as story 8.1a leaves it, for the tests of what the story declares."""

from __future__ import annotations

from pathlib import Path

import psycopg2.extensions

Session = psycopg2.extensions.connection
RELEASE = Path(__file__).resolve().parents[1]

SCHEMA = """
CREATE TABLE projects (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255) NOT NULL, code varchar(50), description text,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE drawings (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title varchar(500) NOT NULL, file_path varchar(1000) NOT NULL,
    processing_status varchar(20) NOT NULL DEFAULT 'pending', upload_date timestamptz NOT NULL DEFAULT now(),
    project_id uuid REFERENCES projects ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ix_drawings_project_id ON drawings (project_id);
CREATE TABLE drawing_project_associations (
    id uuid DEFAULT gen_random_uuid() PRIMARY KEY, drawing_id uuid NOT NULL, project_id uuid NOT NULL,
    assigned_at timestamptz NOT NULL DEFAULT now(), assigned_by varchar(255),
    CONSTRAINT uq_drawing_project_association UNIQUE (drawing_id, project_id),
    CONSTRAINT drawing_project_associations_drawing_id_fkey
        FOREIGN KEY (drawing_id) REFERENCES drawings ON DELETE CASCADE,
    CONSTRAINT drawing_project_associations_project_id_fkey
        FOREIGN KEY (project_id) REFERENCES projects ON DELETE CASCADE);
CREATE INDEX idx_dpa_drawing_id ON drawing_project_associations (drawing_id);
CREATE INDEX idx_dpa_project_id ON drawing_project_associations (project_id);
"""
ROWS = """
INSERT INTO projects (id, name) SELECT md5('project ' || n)::uuid, 'Project ' || n
    FROM generate_series(1, greatest(1, {rows} / 8)) n;
INSERT INTO drawings (id, title, file_path, project_id)
    SELECT md5('drawing ' || n)::uuid, 'Drawing ' || n, '/d/' || n,
        CASE WHEN n % 10 > 0 THEN md5('project ' || 1 + n % greatest(1, {rows} / 10))::uuid END
    FROM generate_series(1, {rows}) n;
INSERT INTO drawing_project_associations (drawing_id, project_id, assigned_by)
    SELECT id, project_id, 'migration_8.1a' FROM drawings WHERE project_id IS NOT NULL;
"""
DRAWING, OTHER, WITHOUT = (f"md5('drawing {number}')::uuid" for number in (1, 2, 10))
PROJECT_OF_DRAWING, PROJECT_OF_OTHER = (f"md5('project {number}')::uuid" for number in (2, 3))


def execute(session: Session, *statements: str) -> None:
    with session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
