"""The fixed part of a replay script: procedures of its own session, that ask the catalog of the database it runs in."""

from __future__ import annotations

# Where the rows wait that are written at once, those of one table after the other.
CHANGED = "pg_temp.dbrelease_changed"
NEW = "pg_temp.dbrelease_new"

HOLD = "pg_temp.dbrelease_hold"
RELEASE = "pg_temp.dbrelease_release"
WRITE = "pg_temp.dbrelease_write"

PROCEDURES = rf"""
CREATE TEMPORARY TABLE dbrelease_held (statement text) ON COMMIT DROP;

-- Nobody else writes to these tables until the end, and what the database does by itself as one writes to them holds
-- still: the saved rows are what came of it. Foreign keys stay.
CREATE OR REPLACE PROCEDURE {HOLD}(tables text[]) LANGUAGE plpgsql AS $$
DECLARE
  held record;
BEGIN
  FOR held IN SELECT name::regclass AS target FROM unnest(tables) AS name LOOP
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', held.target);
  END LOOP;
  FOR held IN
    SELECT * FROM (
      SELECT tgrelid::regclass AS target, 'TRIGGER' AS kind, tgname AS name, tgenabled AS state
      -- Before version 15 those that a partition has of its table count as the server's own.
      FROM pg_trigger AS t LEFT JOIN pg_constraint AS c ON c.oid = t.tgconstraint
      WHERE NOT t.tgisinternal OR (t.tgparentid <> 0 AND coalesce(c.contype, 't') = 't')
      UNION ALL SELECT ev_class::regclass, 'RULE', rulename, ev_enabled FROM pg_rewrite) AS every
    WHERE target = ANY (tables::regclass[]) AND state <> 'D'
  LOOP
    EXECUTE format('ALTER TABLE ONLY %s DISABLE %s %I', held.target, held.kind, held.name);
    INSERT INTO pg_temp.dbrelease_held VALUES (format('ALTER TABLE ONLY %s ENABLE %s%s %I', held.target,
      CASE held.state WHEN 'R' THEN 'REPLICA ' WHEN 'A' THEN 'ALWAYS ' ELSE '' END, held.kind, held.name));
  END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = format(
    'Replaying was refused (%s), and nothing was changed: run this as the owner of the tables, as their triggers and '
    'rules must hold still meanwhile.', SQLERRM);
END $$;

-- Each is again what it was.
CREATE OR REPLACE PROCEDURE {RELEASE}() LANGUAGE plpgsql AS $$
DECLARE
  held record;
BEGIN
  FOR held IN SELECT statement FROM pg_temp.dbrelease_held LOOP
    EXECUTE held.statement;
  END LOOP;
END $$;

-- Rows of one table in one statement, at whose end a foreign key is checked: changed ones become what they were, new
-- ones never overwrite.
CREATE OR REPLACE PROCEDURE {WRITE}(target regclass, key text[]) LANGUAGE plpgsql AS $$
DECLARE
  same text := (SELECT string_agg(format('now.%1$I = saved.%1$I', name), ' AND ') FROM unnest(key) AS name);
  absent text := format('NOT EXISTS (SELECT FROM ONLY %s AS now WHERE %s)', target, same);
  columns record;
  in_place text;
  detail text;
BEGIN
  SELECT string_agg(quote_ident(a.attname), ', ') FILTER (WHERE saved) AS names,
         string_agg(format('saved.%I', a.attname), ', ') FILTER (WHERE saved) AS values,
         -- What only this database has stays as it is.
         string_agg(format(', %I', a.attname), '') FILTER (WHERE NOT saved) AS other_names,
         string_agg(format(', now.%I', a.attname), '') FILTER (WHERE NOT saved) AS other_values,
         string_agg(format('%1$I = saved.%1$I', a.attname), ', ')
           FILTER (WHERE saved AND a.attname <> ALL (key) AND a.attidentity <> 'a') AS assigned,
         -- Values that must be unique, that can be taken away meanwhile, and that no other row refers to.
         string_agg(format('%I = NULL', a.attname), ', ') FILTER (WHERE saved AND NOT a.attnotnull
           AND EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = target AND (i.indisunique OR i.indisexclusion)
                       AND a.attnum = ANY (i.indkey))
           AND NOT EXISTS (SELECT FROM pg_constraint AS f WHERE f.confrelid = target AND a.attnum = ANY (f.confkey))
           ) AS set_aside
  INTO columns
  FROM pg_attribute AS a CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM pg_attribute AS s
    WHERE s.attrelid = to_regclass('{CHANGED}') AND s.attnum > 0 AND s.attname = a.attname) AS saved) AS known
  WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';

  -- What must be done first is counted by what comes after it.
  in_place := 'WITH written AS (' || coalesce(format('UPDATE ONLY %s AS now SET ', target) || columns.assigned
    || format(' FROM {CHANGED} AS saved WHERE %s RETURNING 1', same), 'SELECT 1')
    || format(') INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM (TABLE {CHANGED} UNION ALL TABLE {NEW})'
    ' AS saved WHERE (SELECT count(*) FROM written) >= 0 AND ', target, columns.names, columns.values) || absent;
  BEGIN
    EXECUTE in_place;
    RETURN;
  EXCEPTION WHEN unique_violation OR exclusion_violation THEN
    NULL;  -- Rows may have handed on a value among themselves, so that there is no order to update them in.
  END;
  IF NOT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = target AND confdeltype <> 'a') THEN
    -- Nothing is done to the rows that refer to them as they are taken out and come again.
    EXECUTE format('WITH gone AS (DELETE FROM ONLY %s AS now USING {CHANGED} AS saved WHERE %s RETURNING now.*), ',
      target, same)
      || format('back AS (INSERT INTO %s (%s%s) OVERRIDING SYSTEM VALUE SELECT %s%s FROM {CHANGED} AS saved'
      ' LEFT JOIN gone AS now ON %s WHERE (SELECT count(*) FROM gone) >= 0 RETURNING 1) ',
      target, columns.names, columns.other_names, columns.values, columns.other_values, same)
      || format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM {NEW} AS saved'
      ' WHERE (SELECT count(*) FROM back) >= 0 AND ', target, columns.names, columns.values) || absent;
  ELSE
    IF columns.set_aside IS NOT NULL THEN
      EXECUTE format('UPDATE ONLY %s AS now SET %s FROM {CHANGED} AS saved WHERE %s', target, columns.set_aside, same);
    END IF;
    EXECUTE in_place;
  END IF;
EXCEPTION WHEN unique_violation OR exclusion_violation THEN
  GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
  RAISE EXCEPTION USING ERRCODE = SQLSTATE, DETAIL = detail, MESSAGE = format(
    'Replaying %s was refused (%s), and nothing was changed: a row that was written since has that value, or the saved '
    'rows exchanged it and cannot be taken out meanwhile without those that refer to them; write them by hand.',
    target, SQLERRM);
END $$;

"""
