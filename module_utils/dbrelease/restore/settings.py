"""Apply what a dump without --create omits, and read it back: a database's owner, ACL, comment and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..core.proof import Proof
from ..postgres.session import Row, select

SETTINGS_PROOF = "restore.settings"
# Settings whose value is a list of names that are quoted separately (the server's GUC_LIST_QUOTE).
LISTS = (
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
)
# A setting of an extension has a dot in its name, and any such name is valid. Not every role may read every setting,
# and the view pg_settings lacks some (role).
UNKNOWN = """
SELECT line FROM unnest(%s::text[]) AS line
WHERE split_part(line, '=', 1) !~ '[.]' AND CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE')
  THEN current_setting(split_part(line, '=', 1), true) IS NULL ELSE false END
"""
_ELEMENT = re.compile(r'"((?:[^"]|"")*)"|([^,\s]+)')
LARGE_OBJECTS_HELD = "large_objects_fingerprint"
COMPARED = (
    "owner",
    "comment",
    "encoding",
    "collate",
    "ctype",
    "locale_provider",
    "locale",
    "icu_rules",
    "connection_limit",
    "database_settings",
    "role_settings",
    "large_objects",
    LARGE_OBJECTS_HELD,
)


def create_statement(name: str, settings: Mapping[str, Any], major: int, tablespaces: Sequence[str]) -> sql.Composed:
    """Return CREATE DATABASE from template0, with the properties of the backed-up database."""
    parts: list[sql.Composable] = [
        sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {} ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
            sql.Identifier(name),
            sql.Identifier(settings["owner"]),
            *(sql.Literal(settings[key]) for key in ("encoding", "collate", "ctype")),
        )
    ]
    provider = {"i": ("icu", "ICU_LOCALE"), "b": ("builtin", "BUILTIN_LOCALE")}.get(
        settings.get("locale_provider") or "c"
    )
    if provider:
        parts.append(
            sql.SQL("LOCALE_PROVIDER {} {} {}").format(
                sql.SQL(provider[0]), sql.SQL(provider[1]), sql.Literal(settings["locale"])
            )
        )
        if settings.get("icu_rules"):
            parts.append(sql.SQL("ICU_RULES {}").format(sql.Literal(settings["icu_rules"])))
    elif major >= 15:
        parts.append(sql.SQL("LOCALE_PROVIDER libc"))
    if settings.get("tablespace") in tablespaces:
        parts.append(sql.SQL("TABLESPACE {}").format(sql.Identifier(settings["tablespace"])))
    return sql.SQL(" ").join(parts)


def create_closed(
    cursor: Cursor, name: str, settings: Mapping[str, Any], major: int, tablespaces: Sequence[str]
) -> None:
    """Create it so that only its owner, roles that may act as the owner, and superusers may connect.

    The owner of a table could otherwise change or lock its copy while the database is filled and compared.
    """
    created = create_statement(name, settings, major, tablespaces)
    cursor.execute(sql.SQL("{} ALLOW_CONNECTIONS false").format(created))
    cursor.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
    cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name)))


def apply_settings(cursor: Cursor, name: str, settings: Mapping[str, Any]) -> None:
    """Apply all but the owner, which CREATE DATABASE has set, and what apply_session_settings() applies."""
    database = sql.Identifier(name)
    if settings.get("acl") is None:
        # The server's default, before any grant.
        cursor.execute(sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO PUBLIC").format(database))
    else:
        cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
        cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(database, sql.Identifier(settings["owner"])))
        for grant in exploded(cursor, settings["acl"]):
            cursor.execute(
                sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                    sql.SQL(grant["privilege"]),
                    database,
                    sql.Identifier(grant["grantee"]) if grant["grantee"] else sql.SQL("PUBLIC"),
                    sql.SQL(" WITH GRANT OPTION" if grant["grantable"] else ""),
                )
            )
    if settings.get("comment") is not None:
        cursor.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, sql.Literal(settings["comment"])))
    if settings.get("connection_limit", -1) != -1:
        cursor.execute(
            sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(database, sql.Literal(settings["connection_limit"]))
        )


def apply_session_settings(cursor: Cursor, name: str, settings: Mapping[str, Any]) -> None:
    """Apply the settings of every session, which decide how some values are read and written: money, regclass."""
    database, (known, _) = sql.Identifier(name), of_this_server(cursor, settings)
    for line in known["database_settings"]:
        cursor.execute(sql.SQL("ALTER DATABASE {} SET {}").format(database, setting(line)))
    for role, lines in known["role_settings"].items():
        for line in lines:
            cursor.execute(
                sql.SQL("ALTER ROLE {} IN DATABASE {} SET {}").format(sql.Identifier(role), database, setting(line))
            )


def of_this_server(cursor: Cursor, settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings without the lines (`name=value`) that this newer server does not know; and those lines."""
    of_database, of_roles = settings.get("database_settings") or [], settings.get("role_settings") or {}
    lines = [*of_database, *(line for some in of_roles.values() for line in some)]
    unknown = [row["line"] for row in select(cursor, UNKNOWN, (lines,))]
    known = {
        "database_settings": [line for line in of_database if line not in unknown],
        "role_settings": {
            role: left for role, some in of_roles.items() if (left := [line for line in some if line not in unknown])
        },
    }
    return {**settings, **known}, unknown


def setting(line: str) -> sql.Composed:
    """Return `name = value` as SQL, of a line of the catalog (`search_path="$user", public`)."""
    name, _, value = line.partition("=")
    values = [value]
    if name.lower() in LISTS:
        values = [quoted.replace('""', '"') or bare for quoted, bare in _ELEMENT.findall(value)] or [""]
    # In the name of an extension's setting each part is an identifier.
    return sql.SQL("{} = {}").format(
        sql.Identifier(*name.split(".")), sql.SQL(", ").join(sql.Literal(one) for one in values)
    )


def exploded(cursor: Cursor, acl: Sequence[str] | None, owner: str = "") -> list[Row]:
    """List an ACL's grants, one privilege each, without the grantor, because the owner grants them again.

    Without an ACL they are the server's defaults.
    """
    return select(
        cursor,
        "SELECT DISTINCT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END AS grantee,"
        " a.privilege_type AS privilege, a.is_grantable AS grantable"
        " FROM aclexplode(coalesce(%s::aclitem[],"
        " (SELECT acldefault('d', oid) FROM pg_roles WHERE rolname = %s))) a ORDER BY 1 NULLS FIRST, 2, 3",
        (None if acl is None else list(acl), owner),
    )


def prove_settings(
    cursor: Cursor, backed_up: Mapping[str, Any], seen: Mapping[str, Any], left_out: Sequence[str] = ()
) -> Proof:
    """Compare all that the manifest records and this server supports; left_out: what else to report as left out."""
    expected, unknown = of_this_server(cursor, backed_up)
    omitted = [
        *(f"the setting {line.partition('=')[0]}, which this server does not have" for line in unknown),
        *left_out,
    ]
    unread = expected.get("large_objects") and None in (
        expected.get(LARGE_OBJECTS_HELD, ""),
        seen.get(LARGE_OBJECTS_HELD, ""),
    )
    if unread:
        omitted.append(f"the content of its {expected['large_objects']} large objects, which the user may not read")
    differing: dict[str, Any] = {
        key: {"expected": _comparable(expected, key), "observed": _comparable(seen, key)}
        for key in COMPARED
        if key in backed_up
        and not (unread and key == LARGE_OBJECTS_HELD)
        and _comparable(expected, key) != _comparable(seen, key)
    }
    granted = [
        exploded(cursor, one.get("acl"), one.get("owner") or seen.get("owner") or "") for one in (expected, seen)
    ]
    if granted[0] != granted[1]:
        differing["acl"] = {"expected": expected.get("acl"), "observed": seen.get("acl")}
    return Proof(
        SETTINGS_PROOF,
        "Owner, rights, comment and settings are those of the backup",
        "fail" if differing else "inconclusive" if unread else "pass",
        expected={key: expected.get(key) for key in ("owner", "encoding", "collate", "ctype")},
        observed=differing or "equal",
        detail=(f"Different: {', '.join(differing)}." if differing else "Applied, and read back equal.")
        + (f" Left out: {'; '.join(omitted)}." if omitted else ""),
    )


def _comparable(settings: Mapping[str, Any], key: str) -> Any:
    value = settings.get(key)
    if key == "locale_provider":
        return value or "c"  # version 14 has no other provider, and does not name it
    if key == "locale" and value is not None and settings.get("locale_provider") == "i":
        # Version 15 keeps it as given, later ones as a language tag: de_DE@collation=phonebook, de-DE-u-co-phonebk.
        return re.split("@|-u-", value)[0].replace("_", "-").lower()
    if isinstance(value, Mapping):
        return {key: sorted(lines) for key, lines in value.items()}
    return sorted(value) if isinstance(value, list) else value
