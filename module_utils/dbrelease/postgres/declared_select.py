"""A SELECT that a release declares: it finds names as its role does, and changes nothing."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg2.extensions

from .outside_functions import refuse_reaching_out
from .session import Row, as_declared, strip_terminator
from .strangers import refuse_planted

_LINE = re.compile(r"<line>(.*?)</line>", re.DOTALL)


@contextmanager
def only_reading(cursor: psycopg2.extensions.cursor) -> Iterator[None]:
    """Within the block neither the caller's transaction nor a function that it calls can write."""
    cursor.execute("SAVEPOINT dbrelease_reading")
    try:
        # It ends with the savepoint, which nothing else can end.
        cursor.execute("SET LOCAL transaction_read_only = on")
        yield
    except BaseException:
        if not cursor.connection.closed:
            cursor.execute("ROLLBACK TO SAVEPOINT dbrelease_reading")
            cursor.execute("RELEASE SAVEPOINT dbrelease_reading")
        raise
    cursor.execute("RELEASE SAVEPOINT dbrelease_reading")


def select_declared(cursor: psycopg2.extensions.cursor, sql: str, *, limit: int | None = None) -> list[Row]:
    """Rows of a SELECT that a release declares, in the caller's transaction.

    The text reaches the server as a *value*: query_to_xml() plans it read-only, so that a second statement, a COMMIT,
    a DELETE or a COPY in it is refused by the server itself, whatever the session may do. A function that it calls
    cannot write either, as the transaction is read-only meanwhile. A function that reaches beyond the database is
    refused where the text names it.
    """
    refuse_reaching_out(sql)
    refuse_planted(cursor)
    # With .* a column of the same name is not mistaken for the row.
    wrapped = (
        "SELECT pg_catalog.row_to_json(declared.*)::pg_catalog.text AS line FROM (\n"
        f"{strip_terminator(sql)}\n) AS declared"
    )
    if limit is not None:
        wrapped += f" LIMIT {int(limit)}"
    with only_reading(cursor), as_declared(cursor):
        cursor.execute("SELECT pg_catalog.query_to_xml(%s, true, true, '') AS document", (wrapped,))
        answer = cursor.fetchone()
    document = answer["document"] if isinstance(answer, Mapping) else answer[0]  # type: ignore[index]
    return [json.loads(html.unescape(line)) for line in _LINE.findall(document)]
