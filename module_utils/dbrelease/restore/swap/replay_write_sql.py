"""The procedures of a replay script that write and delete rows; they read the catalog of their own database."""

from __future__ import annotations

from .replay_names import CHANGED, DELETE, DELETE_EQUAL, DELETED, NEW, PLACE, STAGED, STANDS, USES, WRITE

REPLAY_WRITE_SQL = rf"""
-- Write the rows of one table in one statement, at whose end a foreign key is checked: changed rows get their saved
-- values, new rows never overwrite.
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
         -- Unique values that can be NULL meanwhile, and that no other row refers to.
         string_agg(format('%I = NULL', a.attname), ', ') FILTER (WHERE saved AND NOT a.attnotnull
           AND EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = target AND (i.indisunique OR i.indisexclusion)
                       AND a.attnum = ANY (i.indkey))
           AND NOT EXISTS (SELECT FROM pg_constraint AS f WHERE f.confrelid = target AND a.attnum = ANY (f.confkey))
           ) AS set_aside
  INTO columns
  FROM pg_attribute AS a CROSS JOIN LATERAL (SELECT {STAGED}(nth, a.attname) AS saved) AS known
  WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';

  -- A table that was empty has no statistics, and would be scanned for each of the rows.
  PERFORM set_config('enable_nestloop', CASE WHEN pg_relation_size(target) < 1000000 THEN 'off' ELSE 'on' END, true);
  -- The second part counts the first one, which therefore runs first.
  in_place := 'WITH written AS (' || coalesce(format('UPDATE ONLY %s AS now SET ', target) || columns.assigned
    || format(' FROM %s AS saved WHERE %s RETURNING 1', changed, same), 'SELECT 1')
    || format(') INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM (TABLE %s UNION ALL TABLE %s)'
    ' AS saved WHERE (SELECT count(*) FROM written) >= 0 AND ', target, columns.names, columns.values, changed, fresh)
    || absent;
  BEGIN
    EXECUTE in_place;
    RETURN;
  EXCEPTION WHEN unique_violation OR exclusion_violation THEN
    NULL;  -- Rows may have exchanged unique values, so that no order of updates works.
  END;
  IF NOT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = target AND confdeltype <> 'a') THEN
    -- Rows that refer to them do not change while they are deleted and inserted.
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
    'Replaying %s was refused (%s), and nothing was changed: a row that was written since has that value, or '
    'another of the saved rows has it, and cannot be deleted meanwhile without those that refer to it; write them '
    'manually.',
    target, SQLERRM);
END $$;

-- Delete rows.
CREATE OR REPLACE PROCEDURE {DELETE}(nth int, early bool) LANGUAGE plpgsql AS $$
DECLARE
  plan record;
  statement text;
  deed text := 'early';
  done int;
  free record;
BEGIN
  SELECT * INTO plan FROM pg_temp.dbrelease_planned AS p WHERE p.number = nth;
  statement := format('DELETE FROM ONLY %s AS now USING {DELETED}%s AS saved WHERE %s', plan.target, nth, plan.same);
  IF NOT early THEN
    EXECUTE statement;
    RETURN;
  ELSIF NOT {STANDS}(nth) THEN
    RETURN;
  END IF;
  -- A row that is deleted along may delete or change others along, which the script does not write.
  IF EXISTS (SELECT FROM pg_constraint AS x JOIN pg_constraint AS y ON y.confrelid = x.conrelid
             WHERE x.confrelid = plan.target AND x.confdeltype = 'c' AND y.confdeltype IN ('c', 'n', 'd')) THEN
    deed := 'alone';
  END IF;
  LOOP
    done := 0;
    FOR free IN EXECUTE format('SELECT saved.ctid AS place FROM {DELETED}%1$s AS saved JOIN ONLY %2$s AS now ON %3$s'
      '%4$s', nth, plan.target, plan.same, ' EXCEPT SELECT {PLACE} FROM (' || {USES}(nth, deed) || ') AS used')
    LOOP
      BEGIN
        EXECUTE statement || ' AND saved.ctid = $1' USING free.place;
        done := done + 1;
      EXCEPTION WHEN foreign_key_violation OR restrict_violation THEN
        NULL;  -- It is deleted at the end.
      END;
    END LOOP;
    -- In a tree the leaves are deleted first.
    EXIT WHEN done = 0 OR deed = 'early';
  END LOOP;
END $$;

-- Delete rows of a table without a key: as many of the equal rows as were deleted, whichever.
CREATE OR REPLACE PROCEDURE {DELETE_EQUAL}(nth int) LANGUAGE plpgsql AS $$
DECLARE
  plan record;
BEGIN
  SELECT * INTO plan FROM pg_temp.dbrelease_planned AS p WHERE p.number = nth;
  EXECUTE format('DELETE FROM ONLY %1$s WHERE ctid IN (SELECT place FROM (SELECT now.ctid AS place, %2$s AS texts,'
    ' row_number() OVER (PARTITION BY %2$s) AS place_in FROM ONLY %1$s AS now'
    ' WHERE %2$s IN (SELECT texts FROM {DELETED}%3$s)) AS equal'
    ' JOIN (SELECT texts, count(*) AS many FROM {DELETED}%3$s GROUP BY texts) AS saved USING (texts)'
    ' WHERE place_in <= many)', plan.target, plan.texts, nth);
END $$;

"""
