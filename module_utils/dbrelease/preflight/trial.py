"""Plan every declared query as it will run after the release, in a transaction that is always rolled back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import psycopg2
import psycopg2.errors
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..core.proof import Proof
from ..postgres.could_not_run import advised
from ..postgres.declared_checks import plan_checks
from ..postgres.declared_sql import advice, prepare
from ..postgres.session import Connection, server_reason, transaction
from ..release.requirements import Demands, Statement
from .catalog import LIMITS
from .facts import Database
from .stand_ins import MadeType, StandIn, found_first, stand_in_for_altered, stand_in_for_created

# Errors that a stand-in type may cause: function, type, cast, value, ambiguous function, object, syntax, schema.
BY_ITS_TYPE = ("42883", "42804", "42846", "22P02", "42725", "42704", "42601", "3F000")
# A missing column or key.
WITHOUT_THE_STAND_IN = ("42703", "42704")


def plan_statements(connection: Connection, demands: Demands, database: Database) -> list[Proof]:
    """Return one proof for each of `demands.statements`, in their order; raises ReleaseError where planning failed.

    Observations are planned on the database as it is, because they run before the release. For the others, stand-ins
    replace the tables that the release will create, and those that lack what it will add. Stand-ins are empty and
    reference nothing: they take no lock that a query would not take, and nothing remains, because nothing commits.
    """
    if not demands.statements:
        return []
    try:
        with transaction(connection, commit=False) as cursor:
            cursor.execute(LIMITS)
            cursor.execute("SET LOCAL lock_timeout = '250ms'")
            observations = _plan_queries(cursor, demands.observations)
            types = stand_in_for_created(cursor, demands, database)
            stand_ins = stand_in_for_altered(cursor, demands, database, types)
            with found_first(connection):
                planned = [
                    *_plan_queries(cursor, demands.queries),
                    *(_plan_step(cursor, step) for step in demands.steps),
                ]
            planned = [_undecided_by_type(proof, types) for proof in planned]
            return [*observations, *(_with_the_bare_name(proof, stand_ins) for proof in planned)]
    except psycopg2.Error as error:
        advice = advised(
            error,
            "check that db_user may create tables and temporary tables in this database, and check the server's log.",
        )
        if isinstance(error, psycopg2.errors.LockNotAvailable):
            advice = f"another session has locked a table that the release alters; {advice}"
        raise ReleaseError(f"Planning the declared queries failed ({server_reason(error)}): {advice}") from error


def _plan_queries(cursor: Cursor, queries: Sequence[Statement]) -> list[Proof]:
    return plan_checks(cursor, [{"name": query.place, "title": query.title, "sql": query.sql} for query in queries])


def _plan_step(cursor: Cursor, step: Statement) -> Proof:
    """Plan a scenario's step, which may write: it never runs, and the savepoint releases its locks."""
    name = f"preflight.checks_plan.{step.place}"
    cursor.execute("SAVEPOINT step")
    try:
        prepare(cursor, step.sql)
        return Proof(name, step.title, "pass", sql=step.sql)
    except psycopg2.OperationalError:
        raise
    except psycopg2.Error as error:
        detail = f"{step.place} cannot run: {server_reason(error)}."
        return Proof(name, step.title, "fail", detail=detail, remedy=advice(error, "Correct it."), sql=step.sql)
    finally:
        if not cursor.connection.closed:
            cursor.execute("ROLLBACK TO SAVEPOINT step")


def _undecided_by_type(proof: Proof, types: Sequence[MadeType]) -> Proof:
    """Return the proof, inconclusive where a stand-in type may have caused the error."""
    met = [one for one in types if _names(proof.sql, one.name) or _names(proof.sql, one.table.rpartition(".")[2])]
    if proof.status != "fail" or not met or not any(f"({code})" in proof.detail for code in BY_ITS_TYPE):
        return proof
    names = ", ".join(dict.fromkeys(one.name for one in met))
    detail = f"{proof.detail} It cannot be planned before the migration has created the type {names}."
    return replace(proof, status="inconclusive", detail=detail, remedy="")


def _names(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


def _with_the_bare_name(proof: Proof, stand_ins: Sequence[StandIn]) -> Proof:
    """Return the proof, with advice where the schema in a statement bypassed a stand-in."""
    if not any(f"({code})" in proof.detail for code in WITHOUT_THE_STAND_IN):
        return proof
    past = [one for one in stand_ins if _qualifies(one, proof.sql)]
    if any(one.qualified for one in past):
        names = " and ".join(f"{one.schema}.{one.name}" for one in past if one.qualified)
        later = f"It needs what the release adds to {names}, so the server can plan it only after the migration."
        return replace(proof, status="inconclusive", detail=f"{proof.detail} {later}")
    said = [
        f"What the release adds to {one.name} can be planned under its bare name only: write it without the schema "
        f"{one.schema}."
        for one in past
    ]
    return replace(proof, detail=" ".join([proof.detail, *said]))


def _qualifies(one: StandIn, statement: str) -> bool:
    """Whether a statement names the hidden table with its schema."""
    named = rf'(?<!\w)"?{re.escape(one.schema)}"?\s*\.\s*"?{re.escape(one.name)}"?(?!\w)'
    return re.search(named, statement, re.IGNORECASE) is not None
