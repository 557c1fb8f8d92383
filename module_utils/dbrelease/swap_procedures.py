"""The fixed part of a replay script: procedures of its own session, that ask the catalog of the database it runs in."""

from __future__ import annotations

# Where the rows of a table wait; its number follows. Beside each is the hash of what was in its place as it was saved.
CHANGED = "pg_temp.dbrelease_changed_"
NEW = "pg_temp.dbrelease_new_"
DELETED = "pg_temp.dbrelease_deleted_"
STATE = "dbrelease_state"

HOLD = "pg_temp.dbrelease_hold"
RELEASE = "pg_temp.dbrelease_release"
CHECK = "pg_temp.dbrelease_check"
WRITE = "pg_temp.dbrelease_write"
DELETE = "pg_temp.dbrelease_delete"

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

-- What is there must be what was there as the rows were saved, or have been written by this already.
CREATE OR REPLACE PROCEDURE {CHECK}(target regclass, number int, key text[], state text) LANGUAGE plpgsql AS $$
DECLARE
  same text := (SELECT string_agg(format('now.%1$I = saved.%1$I', name), ' AND ') FROM unnest(key) AS name);
  there text := format('(SELECT (%s)::text FROM ONLY %s AS now WHERE %s)', state, target, same);
  wanted text := format('(SELECT (%s)::text FROM (SELECT saved.*) AS row_of)', state);
  named text := (SELECT string_agg(format('saved.%I', name), ', ') FROM unnest(key) AS name);
  met record;
BEGIN
  -- A key that its type calls equal to another one, as of text that ignores case: not gone and new, but changed.
  EXECUTE format('UPDATE {NEW}%1$s AS saved SET {STATE} = now.{STATE} FROM {DELETED}%1$s AS now WHERE %2$s',
    number, same);
  EXECUTE format('DELETE FROM {DELETED}%1$s AS saved USING {NEW}%1$s AS now WHERE %2$s', number, same);
  EXECUTE format('WITH moved AS (DELETE FROM {NEW}%1$s WHERE {STATE} IS NOT NULL RETURNING *)'
    ' INSERT INTO {CHANGED}%1$s TABLE moved', number);
  EXECUTE format('SELECT count(*) AS rows, min(concat_ws('', '', %1$s)) AS key FROM ('
    ' SELECT %1$s FROM {CHANGED}%2$s AS saved WHERE coalesce(%3$s NOT IN ({STATE}, %4$s), true)'
    ' UNION ALL SELECT %1$s FROM {NEW}%2$s AS saved WHERE %3$s <> %4$s'
    ' UNION ALL SELECT %1$s FROM {DELETED}%2$s AS saved WHERE %3$s <> {STATE}) AS saved',
    named, number, there, wanted) INTO met;
  IF met.rows > 0 THEN
    RAISE EXCEPTION USING MESSAGE = format('Replaying %s was refused (of %s saved rows, such as (%s)=(%s), the row '
      'there was written or deleted since, or is another one), and nothing was changed: compare them, and write these '
      'by hand.', target, met.rows, array_to_string(key, ', '), met.key);
  END IF;
END $$;

-- Rows of one table in one statement, at whose end a foreign key is checked: changed ones become what they were, new
-- ones never overwrite.
CREATE OR REPLACE PROCEDURE {WRITE}(target regclass, number int, key text[]) LANGUAGE plpgsql AS $$
DECLARE
  changed text := '{CHANGED}' || number;
  fresh text := '{NEW}' || number;
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
           FILTER (WHERE saved AND a.attidentity <> 'a') AS assigned,
         -- Values that must be unique, that can be taken away meanwhile, and that no other row refers to.
         string_agg(format('%I = NULL', a.attname), ', ') FILTER (WHERE saved AND NOT a.attnotnull
           AND EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = target AND (i.indisunique OR i.indisexclusion)
                       AND a.attnum = ANY (i.indkey))
           AND NOT EXISTS (SELECT FROM pg_constraint AS f WHERE f.confrelid = target AND a.attnum = ANY (f.confkey))
           ) AS set_aside
  INTO columns
  FROM pg_attribute AS a CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM pg_attribute AS s
    WHERE s.attrelid = to_regclass(changed) AND s.attnum > 0 AND s.attname = a.attname) AS saved) AS known
  WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';

  -- What must be done first is counted by what comes after it.
  in_place := 'WITH written AS (' || coalesce(format('UPDATE ONLY %s AS now SET ', target) || columns.assigned
    || format(' FROM %s AS saved WHERE %s RETURNING 1', changed, same), 'SELECT 1')
    || format(') INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM (TABLE %s UNION ALL TABLE %s)'
    ' AS saved WHERE (SELECT count(*) FROM written) >= 0 AND ', target, columns.names, columns.values, changed, fresh)
    || absent;
  BEGIN
    EXECUTE in_place;
    RETURN;
  EXCEPTION WHEN unique_violation OR exclusion_violation THEN
    NULL;  -- Rows may have handed on a value among themselves, so that there is no order to update them in.
  END;
  IF NOT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = target AND confdeltype <> 'a') THEN
    -- Nothing is done to the rows that refer to them as they are taken out and come again.
    EXECUTE format('WITH gone AS (DELETE FROM ONLY %s AS now USING %s AS saved WHERE %s RETURNING now.*), ',
      target, changed, same)
      || format('back AS (INSERT INTO %s (%s%s) OVERRIDING SYSTEM VALUE SELECT %s%s FROM %s AS saved'
      ' LEFT JOIN gone AS now ON %s WHERE (SELECT count(*) FROM gone) >= 0 RETURNING 1) ',
      target, columns.names, columns.other_names, columns.values, columns.other_values, changed, same)
      || format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s AS saved'
      ' WHERE (SELECT count(*) FROM back) >= 0 AND ', target, columns.names, columns.values, fresh) || absent;
  ELSE
    IF columns.set_aside IS NOT NULL THEN
      EXECUTE format('UPDATE ONLY %s AS now SET %s FROM %s AS saved WHERE %s',
        target, columns.set_aside, changed, same);
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

-- Rows that are gone.
CREATE OR REPLACE PROCEDURE {DELETE}(target regclass, number int, key text[], early bool) LANGUAGE plpgsql AS $$
DECLARE
  same text := (SELECT string_agg(format('now.%1$I = saved.%1$I', name), ' AND ') FROM unnest(key) AS name);
  statement text := format('DELETE FROM ONLY %s AS now USING {DELETED}%s AS saved WHERE %s', target, number, same);
  place record;
BEGIN
  IF NOT early THEN
    EXECUTE statement;
    RETURN;
  END IF;
  FOR place IN EXECUTE format('SELECT ctid FROM {DELETED}%s', number) LOOP
    BEGIN
      EXECUTE statement || ' AND saved.ctid = $1' USING place.ctid;
    EXCEPTION WHEN foreign_key_violation OR restrict_violation THEN
      NULL;  -- It goes at the end.
    END;
  END LOOP;
END $$;

"""
