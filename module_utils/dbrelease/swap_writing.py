"""The procedures of a replay script that write and delete rows; they ask the catalog of the database they run in."""

from __future__ import annotations

from .swap_procedures import CHANGED, DELETE, DELETE_EQUAL, DELETED, NEW, PLACE, REFUSE_USED, USES, WRITE

WRITING = rf"""
-- Rows of one table in one statement, at whose end a foreign key is checked: changed ones become what they were, new
-- ones never overwrite.
CREATE OR REPLACE PROCEDURE {WRITE}(nth int) LANGUAGE plpgsql AS $$
DECLARE
  target regclass;
  same text;
  changed text := '{CHANGED}' || nth;
  fresh text := '{NEW}' || nth;
  absent text;
  columns record;
  in_place text;
  detail text;
BEGIN
  SELECT p.target, p.same INTO target, same FROM pg_temp.dbrelease_planned AS p WHERE p.number = nth;
  absent := format('NOT EXISTS (SELECT FROM ONLY %s AS now WHERE %s)', target, same);
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

-- A query for the rows that the server would delete, or change, along with some of this table that are `gone`, and that
-- this script does not write or delete itself: where the row is that they refer to, and what table they are of.
CREATE OR REPLACE FUNCTION {USES}(target regclass, gone text, early bool) RETURNS text LANGUAGE sql AS $$
  SELECT coalesce(string_agg(format(
    'SELECT gone.{PLACE}, %1$L AS child FROM (%2$s) AS gone JOIN ONLY %1$s AS now ON %3$s%4$s',
    conrelid::regclass, gone, referring, replayed), ' UNION ALL '),
    'SELECT NULL::tid AS {PLACE}, NULL AS child WHERE false')
  FROM pg_constraint AS f
  CROSS JOIN LATERAL (
    SELECT string_agg(format('gone.%I OPERATOR(%I.%s) now.%I', parent.attname, o.oprnamespace::regnamespace, o.oprname,
      child.attname), ' AND ') AS referring
    FROM unnest(f.conkey, f.confkey, f.conpfeqop) AS part(child, parent, equal)
    JOIN pg_operator AS o ON o.oid = part.equal
    JOIN pg_attribute AS child ON child.attrelid = f.conrelid AND child.attnum = part.child
    JOIN pg_attribute AS parent ON parent.attrelid = f.confrelid AND parent.attnum = part.parent) AS joined
  CROSS JOIN LATERAL (
    SELECT string_agg(format(' AND NOT EXISTS (SELECT FROM %s%s AS saved WHERE %s)', staged, p.number, p.same), '')
      AS replayed
    FROM pg_temp.dbrelease_planned AS p CROSS JOIN (VALUES ('{DELETED}'), ('{CHANGED}')) AS place(staged)
    -- One that a deletion takes along is written anew, without what was not staged of it.
    WHERE p.target = f.conrelid AND (staged = '{DELETED}' OR early AND (f.confdeltype <> 'c' OR p.whole))) AS known
  WHERE f.contype = 'f' AND f.confrelid = $1 AND f.confdeltype IN ('c', 'n', 'd')
$$;

CREATE OR REPLACE PROCEDURE {REFUSE_USED}(target regclass, gone text) LANGUAGE plpgsql AS $$
DECLARE
  met record;
BEGIN
  EXECUTE format('SELECT count(*) AS rows, min(child) AS child FROM (%s) AS used', {USES}(target, gone, false))
  INTO met;
  IF met.rows > 0 THEN
    RAISE EXCEPTION USING MESSAGE = format('Replaying %s was refused (%s rows, such as of %s, that were written since '
      'refer to rows that it would delete, and would be deleted or changed with them), and nothing was changed: let '
      'them refer to others, or leave these deletions out.', target, met.rows, met.child);
  END IF;
END $$;

-- Rows that are gone.
CREATE OR REPLACE PROCEDURE {DELETE}(nth int, early bool) LANGUAGE plpgsql AS $$
DECLARE
  plan record;
  gone text;
  statement text;
  free record;
BEGIN
  SELECT * INTO plan FROM pg_temp.dbrelease_planned AS p WHERE p.number = nth;
  gone := format('SELECT now.*, saved.ctid AS {PLACE} FROM ONLY %s AS now JOIN {DELETED}%s AS saved ON %s',
    plan.target, nth, plan.same);
  statement := format('DELETE FROM ONLY %s AS now USING {DELETED}%s AS saved WHERE %s', plan.target, nth, plan.same);
  IF NOT early THEN
    CALL {REFUSE_USED}(plan.target, gone);
    EXECUTE statement;
    RETURN;
  END IF;
  FOR free IN EXECUTE format('SELECT ctid AS place FROM {DELETED}%s EXCEPT SELECT {PLACE} FROM (%s) AS used',
    nth, {USES}(plan.target, gone, true))
  LOOP
    BEGIN
      EXECUTE statement || ' AND saved.ctid = $1' USING free.place;
    EXCEPTION WHEN foreign_key_violation OR restrict_violation THEN
      NULL;  -- It goes at the end.
    END;
  END LOOP;
END $$;

-- One row of a table without a key: of those that are equal to it, whichever. Some types know no equality.
CREATE OR REPLACE PROCEDURE {DELETE_EQUAL}(target regclass, columns text[], texts text[]) LANGUAGE plpgsql AS $$
DECLARE
  place tid;
BEGIN
  EXECUTE format('SELECT ctid FROM ONLY %s WHERE ARRAY[%s]::text[] = $1 LIMIT 1', target,
    (SELECT string_agg(format('%I::text COLLATE "C"', name), ', ') FROM unnest(columns) AS name))
  INTO place USING texts;
  CALL {REFUSE_USED}(target, format('SELECT now.*, now.ctid AS {PLACE} FROM ONLY %s AS now WHERE now.ctid = %L', target,
    place));
  EXECUTE format('DELETE FROM ONLY %s WHERE ctid = $1', target) USING place;
END $$;

"""
