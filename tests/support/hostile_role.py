"""A role that may connect and create in `public`, as everyone may by default up to PostgreSQL 14, and what it plants.

Each trap fits better than what is the server's own, for an argument that has to be converted: an oid beside an integer,
a name beside a text. Whoever meets one makes its maker a superuser, if he can, and sees that.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect

PASSWORD = "nobody"
CAUGHT = "a trap of the stranger was met"
SPRING = """
CREATE FUNCTION public.spring() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  IF current_setting('is_superuser') = 'on' AND current_setting('transaction_read_only') = 'off' THEN
    EXECUTE format('ALTER ROLE %I SUPERUSER', '{role}');
  END IF;
  RAISE LOG 'sprung';
  RAISE EXCEPTION '{caught}';
END $$;
"""
PLANT = """
CREATE FUNCTION pg_temp.plant(made text[]) RETURNS int LANGUAGE plpgsql SET search_path = pg_catalog AS $plant$
DECLARE
  one text;
  planted int := 0;
BEGIN
  FOREACH one IN ARRAY made LOOP
    BEGIN
      EXECUTE one;
      planted := planted + 1;
    EXCEPTION WHEN OTHERS THEN
      NULL;  -- There is no such type, or the server has one of that kind itself.
    END;
  END LOOP;
  RETURN planted;
END $plant$;
SELECT pg_temp.plant(%s)
"""
# (left, right) that the server itself has no operator for, and converts.
PAIRS = (
    ("oid", "integer"), ("integer", "oid"), ("oid", "smallint"), ("oid", "bigint"), ("bigint", "oid"),
    ("name", "varchar"), ("varchar", "varchar"), ("text", "varchar"), ("varchar", "text"), ("regclass", "regclass"),
    ("regclass", "oid"), ("oid", "regclass"), ("regnamespace", "regnamespace"), ("oid", "regnamespace"),
    ("xid", "xid8"), ("text", "name[]"), ("integer", "numeric"), ("bigint", "numeric"), ("name", "regclass"),
    ("text", "regclass"), ("text", "integer"), ("information_schema.sql_identifier", "text"),
)  # fmt: skip
OPERATORS = ("=", "<>", "<", ">", "<=", ">=", "||", "-", "+", "*", "/", "~", "!~", "&", "~~", "!~~", "->>", "->")
# Functions by what our statements call with arguments that have to be converted.
FUNCTIONS = (
    "format(text, name)", "format(text, name, name)", "format(text, text, name)", "format(text, text)",
    "format(text, oid)", "format(text, regclass)", "concat_ws(text, oid)", "concat_ws(text, text)",
    "concat(text, text)", "concat_ws(text, oid, numeric, text)", "md5(name)", "mod(bigint, integer)",
    "mod(integer, bigint)", "count(integer)", "count(text)", "to_regclass(varchar)", "to_regclass(name)",
    "quote_ident(name)", "quote_literal(name)", "format_type(oid, smallint)", "format_type(regtype, integer)",
    "pg_get_indexdef(regclass)", "pg_get_userbyid(regrole)", "left(text, smallint)", "left(varchar, integer)",
    "set_config(text, varchar, boolean)", "set_config(varchar, text, boolean)", "current_setting(varchar)",
    "current_setting(name)", "has_table_privilege(oid, oid, varchar)", "pg_terminate_backend(integer)",
    "pg_try_advisory_lock(integer)", "age(varchar)", "row_to_json(name)",
    "array_position(smallint[], smallint)", "pg_describe_object(regclass, oid, integer)",
    "split_part(name, text, integer)", "starts_with(name, name)", "starts_with(varchar, varchar)",
    "pg_has_role(varchar, text)", "pg_has_role(oid, text)", "pg_get_expr(pg_node_tree, regclass)",
    "pg_total_relation_size(oid)", "sum(name)", "hashtextextended(varchar, bigint)",
    "hashtextextended(text, integer)", "hash_record_extended(record, integer)", "host(cidr)",
    "to_char(timestamptz, varchar)", "to_char(timestamp, varchar)", "json_build_array(name, name)",
    "pg_size_bytes(varchar)", "pg_blocking_pids(oid)", "pg_partition_tree(oid)", "unnest(oidvector)",
    "unnest(int2vector)", "to_jsonb(name)", "pg_xact_status(xid)",
    "query_to_xml(varchar, boolean, boolean, varchar)", "query_to_xml(varchar, boolean, boolean, text)",
)  # fmt: skip


@dataclass(frozen=True)
class Stranger:
    """The role, and who asks whether it has got what it wanted."""

    role: str
    login: Login
    server: Login

    def runs(self, *statements: str) -> None:
        """As itself."""
        with closing(connect(self.login, "a stranger")) as session, session.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def plants(self) -> int:
        """Every trap that the server lets it make; how many those are."""
        made = [
            f"CREATE FUNCTION public.trap_{number}({left}, {right}) RETURNS boolean LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM public.spring(); RETURN true; END $$"
            for number, (left, right) in enumerate(PAIRS)
        ]
        made += [
            f"CREATE OPERATOR public.{operator} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = public.trap_{number})"
            for number, (left, right) in enumerate(PAIRS)
            for operator in OPERATORS
        ]
        made += [
            f"CREATE FUNCTION public.{signature} RETURNS {'text[]' if signature.startswith('unnest') else 'text'} "
            "LANGUAGE plpgsql AS $$ BEGIN PERFORM public.spring(); RETURN NULL; END $$"
            for signature in FUNCTIONS
        ]
        with closing(connect(self.login, "a stranger")) as session, session.cursor() as cursor:
            cursor.execute(SPRING.format(role=self.role, caught=CAUGHT))
            cursor.execute(PLANT, (made,))
            ((planted,),) = cursor.fetchall()
        return int(planted)

    @property
    def is_superuser(self) -> bool:
        """Whether a trap was met by one who could make it a superuser."""
        with closing(connect(self.server, "tests")) as session, session.cursor() as cursor:
            cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (self.role,))
            ((found,),) = cursor.fetchall()
        return bool(found)


@contextmanager
def stranger_in(database: Login, server: Login) -> Iterator[Stranger]:
    """A role that owns nothing in the database, and is a member of nothing; gone afterwards with what it made."""
    role = f"stranger_{secrets.token_hex(4)}"
    with closing(connect(server, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
        try:
            with closing(connect(database, "tests")) as inside, inside.cursor() as granting:
                granting.execute("GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC")
            yield Stranger(role, replace(database, user=role, password=PASSWORD), server)
        finally:
            with closing(connect(database, "tests")) as inside, inside.cursor() as dropping:
                dropping.execute(f"DROP OWNED BY {role} CASCADE")
            cursor.execute(f"DROP ROLE {role}")
