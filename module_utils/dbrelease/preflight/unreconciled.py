"""Whether an interrupted reconcile left a foreign key to repair, which the next deploy does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import psycopg2

from ..core.errors import ReleaseError
from ..core.stages import RECONCILED
from ..postgres.catalog import read_catalog
from ..postgres.foreign_keys import plan
from ..postgres.session import Login, connect, transaction
from .catalog import LIMITS
from .judge import ENDS


def is_cut_short(lines: Sequence[Mapping[str, Any]], release: str, environment: str) -> bool:
    """Whether the newest reconcile has not passed, and no run has verified the release or rolled it back since."""
    begun = False
    for line in lines:
        if (line["release"], line["environment"]) != (release, environment):
            continue
        if line["step"] == RECONCILED:
            begun = line["event"] != "passed"
        elif line["event"] == "passed" and line["step"] in ENDS:
            begun = False
    return begun


def has_wrong_key(login: Login, created: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a declared foreign key of the tables is missing, not as declared, or not valid yet.

    The rows are not checked: what the application has written since is drift, which a deploy leaves to reconcile.
    """
    try:
        with (
            closing(connect(login, "dbrelease preflight")) as connection,
            transaction(connection, read_only=True) as cursor,
        ):
            cursor.execute(LIMITS)
            return any(
                key.wrong
                for table, declared in created.items()
                for key in plan(table, declared.get("constraints") or {}, read_catalog(cursor, table))
            )
    except ReleaseError:
        return False  # reconcile does not repair this; the verification reports it
    except psycopg2.Error:
        return True  # the table may be locked: reconcile reads it again, and waits longer
