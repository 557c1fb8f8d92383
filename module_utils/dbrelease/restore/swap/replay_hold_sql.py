"""The procedures of a replay script that lock the tables, and check them before and after it writes."""

from __future__ import annotations

from .replay_names import CHANGED, CHECK, DELETED, HOLD, NEW, PLACE, PLAN, RELEASE, STAGED, STANDS, STATE, USES, VERIFY

REPLAY_HOLD_SQL = rf"""
CREATE TEMPORARY TABLE dbrelease_held (statement text) ON COMMIT DROP;
CREATE TEMPORARY TABLE dbrelease_planned (number int, target regclass, same text,
  -- The columns of `key` to `wanted` are for a table with a key; `texts` identifies the rows of one without.
  key text[], named text, there text, wanted text, texts text,
  -- Whether every column that takes a value is staged.
  whole bool) ON COMMIT DROP;

-- Whether the staged rows of the table have that column.
CREATE OR REPLACE FUNCTION {STAGED}(nth int, name name) RETURNS bool LANGUAGE sql AS $$
  SELECT EXISTS (SELECT FROM pg_attribute AS s
    WHERE s.attrelid = to_regclass('{CHANGED}' || nth) AND s.attnum > 0 AND s.attname = $2)
$$;

-- Plan a table that is written to; state hashes a row of it, and is NULL for a table without a key.
CREATE OR REPLACE PROCEDURE {PLAN}(target regclass, number int, key text[], state text) LANGUAGE plpgsql AS $$
DECLARE
  same text;
  -- Some types have no equality operator.
  texts text := format('ARRAY[%s]::text[]', (SELECT string_agg(format(
    'CASE WHEN now.%1$I IS DISTINCT FROM NULL THEN concat(now.%1$I) END COLLATE "C"', name), ', ')
    FROM unnest(key) AS name));
BEGIN
  IF state IS NULL THEN
    INSERT INTO pg_temp.dbrelease_planned (number, target, same, texts, whole)
    VALUES (number, target, texts || ' = saved.texts', texts, false);
    RETURN;
  END IF;
  -- By the operators of the key's index: a type may have another one of the same name, or in another schema.
  SELECT string_agg(format('now.%1$I%3$s OPERATOR(%2$s) saved.%1$I%3$s', name, coalesce(equal, 'pg_catalog.='), base),
    ' AND ')
  INTO same FROM unnest(key) AS name LEFT JOIN LATERAL (
    SELECT format('%I.%s', o.oprnamespace::regnamespace, o.oprname) AS equal,
      (SELECT '::' || format_type(t.typbasetype, -1) FROM pg_type AS t
       WHERE t.oid = a.atttypid AND t.typtype = 'd') AS base
    FROM pg_index AS i CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) AS part(attnum, opclass)
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = part.attnum
    JOIN pg_opclass AS c ON c.oid = part.opclass
    JOIN pg_amop AS m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3
      AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
    JOIN pg_operator AS o ON o.oid = m.amopopr
    WHERE i.indrelid = target AND i.indisunique AND a.attname = name
    ORDER BY i.indisprimary DESC LIMIT 1) AS found ON true;
  INSERT INTO pg_temp.dbrelease_planned VALUES (number, target, same, key,
    (SELECT string_agg(format('saved.%I', name), ', ') FROM unnest(key) AS name),
    format('(SELECT (%s)::text FROM ONLY %s AS now WHERE %s)', state, target, same),
    format('(SELECT (%s)::text FROM (SELECT saved.*) AS row_of)', state), NULL,
    NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
      AND a.attgenerated = '' AND NOT {STAGED}(number, a.attname)));
END $$;

-- Whether a deleted row of the table may conflict with one that has another key.
CREATE OR REPLACE FUNCTION {STANDS}(nth int) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
  stands bool;
BEGIN
  EXECUTE format('SELECT EXISTS (SELECT FROM {DELETED}%s)', nth) INTO stands;
  RETURN stands AND EXISTS (SELECT FROM pg_temp.dbrelease_planned AS p JOIN pg_index AS i ON i.indrelid = p.target
    WHERE p.number = nth AND p.key IS NOT NULL AND NOT i.indisprimary AND (i.indisunique OR i.indisexclusion));
END $$;

-- A query for the rows that the server would delete or change automatically along with rows of this table, and for what
-- these refer to; without those that the script writes or deletes anyway. NULL if the server never does.
-- delete: rows are deleted; update: they get another key; early: they are deleted before others are written, so that
-- what is deleted along with them is lost except for what is staged of it; alone: the same, and nothing may be deleted
-- along with them.
CREATE OR REPLACE FUNCTION {USES}(nth int, deed text) RETURNS text LANGUAGE sql AS $$
  SELECT string_agg(format('SELECT gone.{PLACE}, %1$L AS child FROM ('
      'SELECT now.*, saved.ctid AS {PLACE} FROM ONLY %2$s AS now JOIN %3$s%4$s AS saved ON %5$s%6$s) AS gone '
      'JOIN %7$s %1$s AS now ON %8$s%9$s', f.conrelid::regclass, plan.target,
      CASE deed WHEN 'update' THEN '{CHANGED}' ELSE '{DELETED}' END, nth, plan.same,
      CASE deed WHEN 'update' THEN format(' AND ROW(%s)::text COLLATE "C" <> ROW(%s)::text', now_keys, saved_keys) END,
      -- The rows of a partitioned table are those of its partitions.
      CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY' END, referring, replayed), ' UNION ALL ')
  FROM pg_temp.dbrelease_planned AS plan
  JOIN pg_constraint AS f ON f.confrelid = plan.target AND f.contype = 'f' JOIN pg_class AS c ON c.oid = f.conrelid
  CROSS JOIN LATERAL (
    SELECT string_agg(format('gone.%I OPERATOR(%I.%s) now.%I', parent.attname, o.oprnamespace::regnamespace, o.oprname,
        child.attname), ' AND ') AS referring,
      string_agg(format('now.%I', parent.attname), ', ') FILTER (WHERE staged) AS now_keys,
      string_agg(format('saved.%I', parent.attname), ', ') FILTER (WHERE staged) AS saved_keys
    FROM unnest(f.conkey, f.confkey, f.conpfeqop) AS part(child, parent, equal)
    JOIN pg_operator AS o ON o.oid = part.equal
    JOIN pg_attribute AS child ON child.attrelid = f.conrelid AND child.attnum = part.child
    JOIN pg_attribute AS parent ON parent.attrelid = f.confrelid AND parent.attnum = part.parent
    CROSS JOIN LATERAL (SELECT {STAGED}(nth, parent.attname) AS staged) AS known) AS joined
  CROSS JOIN LATERAL (
    SELECT string_agg(format(' AND NOT EXISTS (SELECT FROM %s%s AS saved WHERE now.tableoid = %s AND %s)', place,
      p.number, p.target::oid, p.same), '') AS replayed
    FROM pg_temp.dbrelease_planned AS p CROSS JOIN (VALUES ('{DELETED}'), ('{CHANGED}')) AS places(place)
    WHERE (p.target = f.conrelid OR p.target IN (SELECT relid FROM pg_partition_tree(f.conrelid))) AND deed <> 'alone'
      -- A changed row refers to another one by then, if its referring columns are written.
      AND (place = '{DELETED}' OR p.whole OR (deed <> 'early' AND p.key IS NOT NULL AND NOT EXISTS (
        SELECT FROM unnest(f.conkey) AS part JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = part
        WHERE NOT {STAGED}(p.number, a.attname))))) AS known
  WHERE plan.number = nth AND CASE deed WHEN 'update' THEN now_keys IS NOT NULL AND f.confupdtype IN ('c', 'n', 'd')
    ELSE f.confdeltype IN ('c', 'n', 'd') END
$$;

-- Until the end no other session writes to these tables, and their triggers and rules are disabled, because the saved
-- rows already contain the results. Foreign keys stay; those that no order of writing satisfies are checked at the end.
CREATE OR REPLACE PROCEDURE {HOLD}(deadline interval) LANGUAGE plpgsql AS $$
DECLARE
  tables regclass[] := (SELECT array_agg(target ORDER BY number) FROM pg_temp.dbrelease_planned);
  until timestamptz := clock_timestamp() + deadline;
  held record;
  holders text;
BEGIN
  -- Other writers queue behind this lock, so it never waits for long.
  PERFORM set_config('lock_timeout', '500ms', true);
  LOOP
    BEGIN
      EXECUTE coalesce('LOCK TABLE ' || (SELECT string_agg(format('ONLY %s', name), ', ') FROM unnest(tables) AS name)
        || ' IN SHARE ROW EXCLUSIVE MODE', 'SELECT');
      FOR held IN
        SELECT target, format('DISABLE %s %I', kind, name) AS hold, format('ENABLE %s%s %I',
          CASE state WHEN 'R' THEN 'REPLICA ' WHEN 'A' THEN 'ALWAYS ' ELSE '' END, kind, name) AS release
        FROM (
          SELECT tgrelid::regclass AS target, 'TRIGGER' AS kind, tgname AS name, tgenabled AS state
          -- Before version 15 those that a partition has of its table count as the server's own.
          FROM pg_trigger AS t LEFT JOIN pg_constraint AS c ON c.oid = t.tgconstraint
          WHERE NOT t.tgisinternal OR (t.tgparentid <> 0 AND coalesce(c.contype, 't') = 't')
          UNION ALL SELECT ev_class::regclass, 'RULE', rulename, ev_enabled FROM pg_rewrite) AS every
        WHERE target = ANY (tables) AND state <> 'D'
        UNION ALL
        SELECT conrelid::regclass, format('ALTER CONSTRAINT %I DEFERRABLE INITIALLY DEFERRED', conname),
          format('ALTER CONSTRAINT %I NOT DEFERRABLE', conname)
        FROM pg_constraint JOIN pg_class AS c ON c.oid = conrelid
        JOIN pg_temp.dbrelease_planned AS child ON child.target = conrelid
        JOIN pg_temp.dbrelease_planned AS parent ON parent.target = confrelid
        WHERE contype = 'f' AND NOT condeferrable AND conparentid = 0 AND pg_has_role(relowner, 'USAGE')
          AND (parent.number > child.number OR {STANDS}(parent.number))
      LOOP
        EXECUTE format('ALTER TABLE ONLY %s %s', held.target, held.hold);
        INSERT INTO pg_temp.dbrelease_held VALUES (format('ALTER TABLE ONLY %s %s', held.target, held.release));
      END LOOP;
      EXIT;
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
      IF clock_timestamp() > until THEN
        SELECT string_agg(DISTINCT format('%s (%L)', pid, coalesce(nullif(application_name, ''), usename, '?')), ', ')
        INTO holders FROM pg_locks AS l LEFT JOIN pg_stat_activity USING (pid)
        WHERE l.granted AND l.relation = ANY (tables) AND pid <> pg_backend_pid()
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database());
        RAISE EXCEPTION USING ERRCODE = 'lock_not_available', MESSAGE = format(
          'Replaying was refused (for %s s other sessions locked its tables: %s), and nothing was changed: wait for '
          'these sessions or terminate them, and run the script again.', extract(epoch FROM deadline)::int,
          coalesce(holders, 'they have just released them'));
      END IF;
    END;
    PERFORM pg_sleep(0.5);
  END LOOP;
  PERFORM set_config('lock_timeout', '5s', true);
EXCEPTION WHEN insufficient_privilege THEN
  RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = format(
    'Replaying was refused (%s), and nothing was changed: run this as the owner of the tables, because their triggers '
    'and rules must be disabled meanwhile.', SQLERRM);
END $$;

-- Restore each to its previous state.
CREATE OR REPLACE PROCEDURE {RELEASE}() LANGUAGE plpgsql AS $$
DECLARE
  held record;
BEGIN
  FOR held IN SELECT statement FROM pg_temp.dbrelease_held LOOP
    EXECUTE held.statement;
  END LOOP;
END $$;

-- The rows in the tables must be those that were there when the rows were saved, or already be written by this script;
-- and no new row may refer to one that is deleted or gets another key: the server would delete or change it as well.
CREATE OR REPLACE PROCEDURE {CHECK}() LANGUAGE plpgsql AS $$
DECLARE
  plan record;
  met record;
  uses text;
BEGIN
  FOR plan IN SELECT * FROM pg_temp.dbrelease_planned WHERE key IS NOT NULL ORDER BY number LOOP
    -- A key that its type compares as equal to another one, such as text that ignores case: the row was changed.
    EXECUTE format('UPDATE {NEW}%1$s AS saved SET {STATE} = now.{STATE} FROM {DELETED}%1$s AS now WHERE %2$s',
      plan.number, plan.same);
    EXECUTE format('DELETE FROM {DELETED}%1$s AS saved USING {NEW}%1$s AS now WHERE %2$s', plan.number, plan.same);
    EXECUTE format('WITH moved AS (DELETE FROM {NEW}%1$s WHERE {STATE} IS NOT NULL RETURNING *)'
      ' INSERT INTO {CHANGED}%1$s TABLE moved', plan.number);
    EXECUTE format('SELECT count(*) AS rows, min(concat_ws('', '', %1$s)) AS key FROM ('
      ' SELECT %1$s FROM {CHANGED}%2$s AS saved WHERE coalesce(%3$s NOT IN ({STATE}, %4$s), true)'
      ' UNION ALL SELECT %1$s FROM {NEW}%2$s AS saved WHERE %3$s <> %4$s'
      ' UNION ALL SELECT %1$s FROM {DELETED}%2$s AS saved WHERE %3$s <> {STATE}) AS saved',
      plan.named, plan.number, plan.there, plan.wanted) INTO met;
    IF met.rows > 0 THEN
      RAISE EXCEPTION USING MESSAGE = format('Replaying %s was refused (of %s saved rows, such as (%s)=(%s), the row '
        'there was written or deleted since, or is another one), and nothing was changed: compare them, and write '
        'these manually.', plan.target, met.rows, array_to_string(plan.key, ', '), met.key);
    END IF;
  END LOOP;
  FOR plan IN SELECT p.*, deed, staged FROM pg_temp.dbrelease_planned AS p
    CROSS JOIN (VALUES ('delete', '{DELETED}'), ('update', '{CHANGED}')) AS deeds(deed, staged)
    WHERE key IS NOT NULL OR deed = 'delete' ORDER BY number
  LOOP
    uses := {USES}(plan.number, plan.deed);
    CONTINUE WHEN uses IS NULL;
    -- Wait for transactions that refer to one of them and have not committed; no other can from now on.
    EXECUTE format('SELECT count(*) FROM (SELECT FROM ONLY %s AS now JOIN %s%s AS saved ON %s FOR UPDATE OF now)'
      ' AS held', plan.target, plan.staged, plan.number, plan.same);
    EXECUTE format('SELECT count(*) AS rows, min(child) AS child FROM (%s) AS used', uses) INTO met;
    IF met.rows > 0 THEN
      RAISE EXCEPTION USING MESSAGE = format('Replaying %s was refused (%s rows of %s refer to rows that it would %s, '
        'and would be deleted or changed with them, but are not among the saved ones), and nothing was changed: let '
        'them refer to others, or write these manually.', plan.target, met.rows, met.child,
        CASE plan.deed WHEN 'delete' THEN 'delete' ELSE 'give another key' END);
    END IF;
  END LOOP;
END $$;

-- At the end each row must be what was saved.
CREATE OR REPLACE PROCEDURE {VERIFY}() LANGUAGE plpgsql AS $$
DECLARE
  plan record;
  met record;
BEGIN
  FOR plan IN SELECT * FROM pg_temp.dbrelease_planned WHERE key IS NOT NULL ORDER BY number LOOP
    EXECUTE format('SELECT count(*) AS rows, min(concat_ws('', '', %1$s)) AS key FROM ('
      ' SELECT %1$s FROM (TABLE {CHANGED}%2$s UNION ALL TABLE {NEW}%2$s) AS saved WHERE %3$s IS DISTINCT FROM %4$s'
      ' UNION ALL SELECT %1$s FROM {DELETED}%2$s AS saved WHERE %3$s IS NOT NULL) AS saved',
      plan.named, plan.number, plan.there, plan.wanted) INTO met;
    IF met.rows > 0 THEN
      RAISE EXCEPTION USING MESSAGE = format('Replaying %s was refused (%s rows, such as (%s)=(%s), would not become '
        'what was saved), and nothing was changed: write these manually.',
        plan.target, met.rows, array_to_string(plan.key, ', '), met.key);
    END IF;
  END LOOP;
END $$;

"""
