"""The whole catalog of a database as sorted lines of text: two of them are equal where nobody could tell them apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from psycopg2.extensions import cursor as Cursor

from .session import OWN_SETTINGS, PATH, select

# Names are written out in full, whoever asks. What belongs to an extension is named by the extension's version. Of a
# setting only the hash is kept, for it may be a secret. As JSON stands what one server has and an older one has not. Of
# the server's own objects, below 16384, only schemas are anyone's to comment on.
LINES = """
WITH schemas AS (
    SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), members AS (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), relations AS (
    SELECT c.*, format('%I.%I', s.nspname, c.relname) AS name,
           CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
               WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table'
               WHEN 'c' THEN 'composite type' END AS kind
    FROM pg_class c JOIN schemas s ON s.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND c.relpersistence <> 't'
      AND NOT EXISTS (SELECT FROM members m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)
)
SELECT format('schema %I: owner %s, grants %s', s.nspname, pg_get_userbyid(n.nspowner), n.nspacl::text) AS line
FROM schemas s JOIN pg_namespace n ON n.oid = s.oid
UNION ALL
SELECT format('%s %s: owner %s, grants %s, persistence %s, options %s, row security %s %s, replica identity %s, '
              'tablespace %s, access method %s', kind, name, pg_get_userbyid(relowner), relacl::text, relpersistence,
              reloptions::text, relrowsecurity, relforcerowsecurity, relreplident,
              (SELECT p.spcname FROM pg_tablespace p WHERE p.oid = reltablespace),
              (SELECT m.amname FROM pg_am m WHERE m.oid = relam))
FROM relations
UNION ALL
SELECT format('%s %s, column %s %I: %s, nullable %s, default %s, identity %L, generated %L, collation %s, grants %s, '
              'statistics %s, storage %s, compression %L, options %s', r.kind, r.name,
              (SELECT count(*) FROM pg_attribute b
               WHERE b.attrelid = a.attrelid AND b.attnum BETWEEN 1 AND a.attnum AND NOT b.attisdropped),
              a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
              a.attidentity, a.attgenerated,
              CASE WHEN a.attcollation <> 0 THEN a.attcollation::regcollation END, a.attacl::text,
              coalesce(a.attstattarget, -1), a.attstorage, a.attcompression, a.attoptions::text)
FROM relations r
JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE r.relkind <> 'S'
UNION ALL
SELECT format('index %s: %s, valid %s, ready %s, replica identity %s, clustered %s, tablespace %s, statistics %s',
              i.indexrelid::regclass, pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready, i.indisreplident,
              i.indisclustered, (SELECT p.spcname FROM pg_tablespace p WHERE p.oid = c.reltablespace),
              (SELECT string_agg(coalesce(a.attstattarget, -1)::text, ' ' ORDER BY a.attnum)
               FROM pg_attribute a WHERE a.attrelid = c.oid))
FROM relations r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class c ON c.oid = i.indexrelid
UNION ALL
SELECT format('constraint %I of %s: %s, validated %s', x.conname, r.name, pg_get_constraintdef(x.oid),
              x.convalidated)
FROM relations r JOIN pg_constraint x ON x.conrelid = r.oid
UNION ALL
SELECT format('trigger %I of %s: %s, enabled %s', t.tgname, r.name, pg_get_triggerdef(t.oid), t.tgenabled)
FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal
UNION ALL
SELECT format('rule %I of %s: %s', w.rulename, r.name, md5(pg_get_ruledef(w.oid)))
FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid
UNION ALL
SELECT format('policy %I of %s: %s %s %s using %s check %s', p.polname, r.name, p.polcmd, p.polpermissive,
              p.polroles::regrole[]::text, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
UNION ALL
SELECT format('sequence %s: %s from %s by %s, %s to %s, cache %s, cycle %s, owned by %s', r.name,
              format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache, q.seqcycle,
              (SELECT format('%s.%I', d.refobjid::regclass, a.attname)
               FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
               WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
                 AND d.deptype IN ('a', 'i')))
FROM relations r JOIN pg_sequence q ON q.seqrelid = r.oid
UNION ALL
SELECT format('inheritance of %s: %s, %s', r.name, h.inhparent::regclass, pg_get_expr(r.relpartbound, r.oid))
FROM relations r JOIN pg_inherits h ON h.inhrelid = r.oid
UNION ALL
SELECT format('function %s: owner %s, grants %s, body %s', f.oid::regprocedure, pg_get_userbyid(f.proowner),
              f.proacl::text, CASE WHEN f.prokind = 'a' THEN 'aggregate' ELSE md5(pg_get_functiondef(f.oid)) END)
FROM pg_proc f JOIN schemas s ON s.oid = f.pronamespace
WHERE NOT EXISTS (SELECT FROM members m WHERE m.classid = 'pg_proc'::regclass AND m.objid = f.oid)
UNION ALL
SELECT format('type %I.%I: %s, owner %s, grants %s, labels %s, base %s, nullable %s, default %s, checks %s', s.nspname,
              t.typname, t.typtype, pg_get_userbyid(t.typowner), t.typacl::text,
              (SELECT string_agg(quote_literal(e.enumlabel), ' ' ORDER BY e.enumsortorder)
               FROM pg_enum e WHERE e.enumtypid = t.oid),
              CASE WHEN t.typbasetype <> 0 THEN format_type(t.typbasetype, t.typtypmod) END, NOT t.typnotnull,
              t.typdefault,
              (SELECT string_agg(format('%I %s', x.conname, pg_get_constraintdef(x.oid)), ' ' ORDER BY x.conname)
               FROM pg_constraint x WHERE x.contypid = t.oid))
FROM pg_type t JOIN schemas s ON s.oid = t.typnamespace
WHERE t.typtype IN ('e', 'd', 'r')
  AND NOT EXISTS (SELECT FROM members m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid)
UNION ALL
SELECT format('extension %I: version %s, schema %s', x.extname, x.extversion, x.extnamespace::regnamespace)
FROM pg_extension x
UNION ALL
SELECT format('default grants of %s in %s for %s: %s', pg_get_userbyid(a.defaclrole),
              CASE WHEN a.defaclnamespace <> 0 THEN a.defaclnamespace::regnamespace END, a.defaclobjtype,
              a.defaclacl::text)
FROM pg_default_acl a
UNION ALL
SELECT format('statistics %I.%I: %s, owner %s, target %s', s.nspname, x.stxname, pg_get_statisticsobjdef(x.oid),
              pg_get_userbyid(x.stxowner), coalesce(x.stxstattarget, -1))
FROM pg_statistic_ext x JOIN schemas s ON s.oid = x.stxnamespace
UNION ALL
SELECT format('publication %I: owner %s, options %s', p.pubname, pg_get_userbyid(p.pubowner),
              to_jsonb(p) - '{oid,pubname,pubowner}'::text[])
FROM pg_publication p
UNION ALL
SELECT format('publication %I of %I.%I: %s', t.pubname, t.schemaname, t.tablename,
              to_jsonb(t) - '{pubname,schemaname,tablename}'::text[])
FROM pg_publication_tables t
UNION ALL
SELECT format('event trigger %I: %s on %s, enabled %s, owner %s, tags %s', e.evtname, e.evtfoid::regproc, e.evtevent,
              e.evtenabled, pg_get_userbyid(e.evtowner), e.evttags::text)
FROM pg_event_trigger e
UNION ALL
SELECT format('comment on %s: %L', pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description)
FROM pg_description d
WHERE (d.objoid >= 16384 OR d.classoid = 'pg_namespace'::regclass)
  AND d.classoid <> 'pg_largeobject'::regclass
  AND NOT EXISTS (SELECT FROM members m WHERE m.classid = d.classoid AND m.objid = d.objoid)
  AND NOT EXISTS (SELECT FROM pg_class c
                  WHERE d.classoid = 'pg_class'::regclass AND c.oid = d.objoid AND c.relpersistence = 't')
UNION ALL
SELECT format('database: owner %s, grants %s, connections %s, comment %L', pg_get_userbyid(b.datdba),
              (SELECT string_agg(g::text, ' ' ORDER BY g::text) FROM unnest(b.datacl) AS g), b.datconnlimit,
              shobj_description(b.oid, 'pg_database'))
FROM pg_database b WHERE b.datname = current_database()
UNION ALL
SELECT format('setting %s of %s: %s', split_part(g, '=', 1),
              CASE WHEN s.setrole = 0 THEN 'the database' ELSE pg_get_userbyid(s.setrole)::text END, md5(g))
FROM pg_db_role_setting s JOIN pg_database b ON b.oid = s.setdatabase, unnest(s.setconfig) AS g
WHERE b.datname = current_database()
"""


# Anybody may write a comment of any length, and every line is kept in the journal: of a long one the beginning, and a
# hash that changes with the rest.
LONGEST, SHOWN = 4000, 1000
BOUNDED = f"""
SELECT CASE WHEN length(line) > {LONGEST} THEN concat(left(line, {SHOWN}), '... ', length(line), ' characters, md5 ',
                                                      md5(line)) ELSE line END AS line
FROM ({LINES}) AS every (line)
"""


def read_lines(cursor: Cursor) -> list[str]:
    """The lines as the transaction of the cursor sees them; its settings stay what they were."""
    (kept,) = select(cursor, "SELECT current_setting('search_path') AS path, current_setting('jit') AS jit")
    set_both = "SELECT set_config('search_path', %s, true), set_config('jit', %s, true)"
    # To compile this statement takes seconds, and to run it milliseconds.
    cursor.execute(set_both, (OWN_SETTINGS[PATH], "off"))
    lines = sorted(str(row["line"]) for row in select(cursor, BOUNDED))
    cursor.execute(set_both, (kept["path"], kept["jit"]))
    return lines


def bounded(line: str) -> str:
    """As the server bounds one, for a line that was recorded when there was no bound."""
    if len(line) <= LONGEST:
        return line
    hashed = hashlib.md5(line.encode(), usedforsecurity=False).hexdigest()
    return f"{line[:SHOWN]}... {len(line)} characters, md5 {hashed}"


def fingerprint(lines: Sequence[str]) -> str:
    """One sha256 for all of them."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
