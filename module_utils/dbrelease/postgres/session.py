"""The thin session with Postgres: connect, run what cannot write, and report an error in one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras
from psycopg2.extensions import (
    PYDATE,
    PYDATEARRAY,
    PYDATETIME,
    PYDATETIMEARRAY,
    PYDATETIMETZ,
    PYDATETIMETZARRAY,
    PYINTERVAL,
    PYINTERVALARRAY,
    TRANSACTION_STATUS_ACTIVE,
    TRANSACTION_STATUS_INERROR,
)

from ..core.errors import ReleaseError
from ..core.options import VERSION_TABLE
from ..core.redaction import Secret, learn
from ..core.signals import WAITS
from . import transport

Connection = psycopg2.extensions.connection
Row = dict[str, Any]

# Where a session's machine disappears, the server should notice within minutes, and release what it had locked.
LOST_CLIENT = {
    "client_connection_check_interval": "500",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
LOST_CLIENT_OPTIONS = " ".join(f"-c {name}={value}" for name, value in LOST_CLIENT.items())
# Docker gives a container 64 MB of shared memory, and parallel workers share a hash table or a sort there: what needs
# more than that ends with an error, on data that only grew. Without workers it needs none.
NO_WORKERS = {"max_parallel_workers_per_gather": "0", "max_parallel_maintenance_workers": "0"}
TIMEOUTS = (
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",
    "idle_session_timeout",
)
# What the role or the database has set for each session is for the application's short ones, and must not decide what
# a migration does: in which isolation, and whether it may write.
TRANSACTIONS = {
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "default_transaction_read_only": "off",
}
# Text forms (json, point, timestamps) must not depend on the connecting role, nor rights to write, nor time limits.
SESSION_SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lock_timeout": "0",
    "session_replication_role": "origin",
    **dict.fromkeys(TIMEOUTS, "0"),
    **TRANSACTIONS,
    **NO_WORKERS,
    **LOST_CLIENT,
}
# What our own statements run with. Others may make functions and operators in a schema on the role's own path, and the
# server takes theirs where they fit better than its own: with this path they are not found. Temporary tables come last.
# A view or a foreign table in the place of a table, which runs what its maker wrote in it, is not read either, where
# the server can refuse it.
PATH, KINDS = "search_path", "restrict_nonsystem_relation_kind"
OWN_SETTINGS = {PATH: "pg_catalog, pg_temp", KINDS: "view, foreign-table"}
# The first statement of a session, so no name in it is searched on the path.
PIN_SESSION = """
SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('search_path'),
       pg_catalog.current_setting('restrict_nonsystem_relation_kind', true),
       CASE WHEN pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) %(expected_pid)s
         THEN pg_catalog.set_config('search_path', %(path)s, false) END
"""
# A setting that this server does not know is not worth a failure; in a session of a pooler nothing is set.
BEGIN_SESSION = """
SELECT pg_backend_pid(), count(set_config(known.name, wanted.setting, false))
FROM unnest(%(names)s, %(settings)s) AS wanted (name, setting)
JOIN pg_settings known ON lower(known.name) = wanted.name AND pg_backend_pid() = %(expected_pid)s
  AND (known.context <> 'superuser' OR known.setting <> wanted.setting AND current_setting('is_superuser') = 'on')
"""
# What the driver makes of these, and of arrays of them.
MOMENTS = (
    (PYDATE, PYDATEARRAY),
    (PYDATETIME, PYDATETIMEARRAY),
    (PYDATETIMETZ, PYDATETIMETZARRAY),
    (PYINTERVAL, PYINTERVALARRAY),
)
_BLANK, _ESCAPED = re.compile(r"([\s\\])"), r"\\\1"
CONNECT_TIMEOUT_S = 10
POOLED = "a connection pooler answers there, behind which locks and settings may pass to another session"
# A server that answers begins with a level, in whichever language.
ANSWERED = re.compile(r"(?:^|:\s|\N{FULLWIDTH COLON})[^\W\d_]+:  ", re.MULTILINE)


@dataclass(frozen=True)
class Login:
    """Where a database is, which role connects, and where it keeps its revision; its repr never has the password."""

    host: str
    port: int
    user: str
    database: str
    password: str | None = field(default=None, repr=False)
    ssl_mode: str = "prefer"
    ssl_root_cert: str = ""
    version_table: str = VERSION_TABLE

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Login:
        """From the `login_*` options of a module; from then on the password is masked."""
        learn([Secret(params["login_password"] or "", params["login_user"])])
        return cls(
            host=params["login_host"],
            port=params["login_port"],
            user=params["login_user"],
            database=params["login_db"],
            password=params["login_password"],
            ssl_mode=params["ssl_mode"] or transport.default_ssl_mode(params["login_host"]),
            ssl_root_cert=params.get("ssl_root_cert") or "",
            version_table=params.get("bookkeeping_table") or VERSION_TABLE,
        )

    def to(self, database: str) -> Login:
        """The same server and role, another database."""
        return replace(self, database=database)

    @property
    def label(self) -> str:
        """For messages: user, database and address, no password."""
        return f"database {self.database} at {self.host}:{self.port} as {self.user}"


class Session(psycopg2.extensions.connection):
    """A session whose own statements find only the server's own objects.

    role_settings: the path, and the kinds of relations, with which its role resolves names; own_settings: what is set
    for our statements; declared: whether the role's settings are active now; planted: the objects of untrusted roles on
    the role's path, in words, None until they were read. version_table: where the database keeps its revision.
    """

    role_settings: Mapping[str, str]
    own_settings: Mapping[str, str]
    declared: bool = False
    planted: str | None = None
    version_table: str = VERSION_TABLE

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.role_settings = self.own_settings = {}
        WAITS.add(self)

    def interrupt(self) -> None:
        """Cancel the statement that is running, if there is one."""
        if self.get_transaction_status() == TRANSACTION_STATUS_ACTIVE:
            self.cancel()


def connect(login: Login, application_name: str, *, read_only: bool = False) -> Session:
    """A session with fixed text settings, in autocommit; raises ReleaseError with what to do.

    Our statements use the server's own functions, operators and types only: see as_declared(). With read_only no
    transaction writes unless it declares so itself.
    """
    try:
        connection: Session = psycopg2.connect(
            host=login.host,
            port=login.port,
            user=login.user,
            password=login.password,
            dbname=login.database,
            **transport.parameters(login.ssl_mode, login.ssl_root_cert),
            application_name=application_name,
            connect_timeout=CONNECT_TIMEOUT_S,
            # psycopg2 quotes names correctly in this encoding only, and takes SQL_ASCII for ASCII; the server converts.
            client_encoding="UTF8",
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
            # What was sent and is not acknowledged stops the keepalives.
            tcp_user_timeout=60_000,
            connection_factory=Session,
        )
    except psycopg2.OperationalError as error:
        raise ReleaseError(connect_failure(login, str(error)), could_not_run=True) from None
    connection.autocommit = True
    connection.version_table = login.version_table
    _take_every_moment(connection)
    # A server reports the process that serves the session; a pooler reports a number of its own.
    expected_pid = connection.info.backend_pid
    if begin_session(connection, expected_pid, read_only=read_only) != expected_pid:
        connection.close()
        raise ReleaseError(connect_failure(login, POOLED))
    return connection


@contextmanager
def session(login: Login, application_name: str) -> Iterator[psycopg2.extras.RealDictCursor]:
    """A cursor that gives rows as mappings, in a session of its own; each statement is a transaction."""
    with (
        closing(connect(login, application_name)) as connection,
        connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor,
    ):
        yield cursor


def _take_every_moment(connection: Connection) -> None:
    """No row of anybody's cannot be read: a moment or an interval that Python has no form for stays as it is written.

    That is an interval in the style that is set here, a year before 1 or after 9999, and infinity.
    """

    def or_as_written(cast: Callable[..., Any]) -> Callable[[Any, Any], Any]:
        def read(written: str | None, cursor: Any) -> Any:
            if written is None or written.endswith("infinity"):
                return written
            try:
                return cast(written, cursor)
            except (ValueError, psycopg2.NotSupportedError):
                return written

        return read

    for one, many in MOMENTS:
        kept = psycopg2.extensions.new_type(one.values, one.name, or_as_written(one))
        psycopg2.extensions.register_type(kept, connection)
        psycopg2.extensions.register_type(psycopg2.extensions.new_array_type(many.values, many.name, kept), connection)


def begin_session(connection: Session, expected_pid: int, *, read_only: bool = False) -> int:
    """Apply its settings if that process serves it; return the process that does."""
    settings = {**SESSION_SETTINGS, "default_transaction_read_only": "on" if read_only else "off"}
    with connection.cursor() as cursor:
        cursor.execute(PIN_SESSION, {"expected_pid": expected_pid, "path": OWN_SETTINGS[PATH]})
        ((serving, path, kinds, _),) = cursor.fetchall()
        if serving == expected_pid:
            connection.role_settings = {PATH: path} if kinds is None else {PATH: path, KINDS: kinds}
            connection.own_settings = {name: OWN_SETTINGS[name] for name in connection.role_settings}
            settings |= connection.own_settings
        cursor.execute(
            BEGIN_SESSION, {"names": list(settings), "settings": list(settings.values()), "expected_pid": expected_pid}
        )
        ((serving, _),) = cursor.fetchall()
    return int(serving)


def connect_failure(login: Login, text: str) -> str:
    """The sentence for a failed connection; libpq's own text never holds the password."""
    reason = " ".join(text.split())
    if reason == POOLED:
        advice = "set db_host and db_port to the address of the server itself"
    elif safer := transport.advice(reason):
        advice = safer
    elif "pg_hba.conf" in reason:
        advice = (
            f"let the server's pg_hba.conf admit {login.user} to {login.database} from there, and reload the server"
        )
    elif "password" in reason or "authentication" in reason:
        advice = "check db_user and db_password in the inventory"
    elif "does not exist" in reason:
        advice = "check db_name and db_user in the inventory"
    elif ANSWERED.search(text):
        advice = "check db_user, db_password and db_name in the inventory, and that the server accepts connections now"
    else:
        advice = "check that the database is running and that db_host and db_port are its address"
    return f"Connecting to {login.label} failed ({reason}): {advice}."


@contextmanager
def transaction(
    connection: Connection, *, read_only: bool = False, isolation: str = "READ COMMITTED", commit: bool = True
) -> Iterator[psycopg2.extras.RealDictCursor]:
    """One explicit transaction on an autocommit session; rolled back on any error, or always with commit=False."""
    with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        cursor.execute(f"BEGIN ISOLATION LEVEL {isolation} READ {'ONLY' if read_only else 'WRITE'}")
        try:
            # A table with row security must answer with an error, not with fewer rows.
            cursor.execute("SET LOCAL row_security = off")
            yield cursor
        except BaseException:
            if not connection.closed:
                cursor.execute("ROLLBACK")
            raise
        cursor.execute("COMMIT" if commit else "ROLLBACK")


def options_of(settings: Mapping[str, str]) -> str:
    """The settings as PGOPTIONS, for the sessions of programs; a backslash there escapes a blank."""
    return " ".join(f"-c {name}={_BLANK.sub(_ESCAPED, value)}" for name, value in settings.items())


@contextmanager
def giving_back_locks(cursor: psycopg2.extensions.cursor) -> Iterator[None]:
    """Release what is locked within the block at its end, and not only at the end of the transaction.

    A table that is read takes a lock, and so does each of its indexes: thousands of tables in one transaction fill the
    lock table of the whole server. What is written within the block is undone, and the cursor loses its result.
    """
    cursor.execute("SAVEPOINT dbrelease_slice")
    try:
        yield
    finally:
        if not cursor.connection.closed:
            # Only a savepoint that is rolled back releases its locks; one that is released passes them on.
            cursor.execute("ROLLBACK TO SAVEPOINT dbrelease_slice; RELEASE SAVEPOINT dbrelease_slice")


def without_timeouts(cursor: psycopg2.extensions.cursor, *, local: bool = True) -> None:
    """No timeout of the server, the database or the role ends this transaction, or session, which may take hours."""
    cursor.execute("SELECT set_config(name, '0', %s) FROM pg_settings WHERE name = ANY(%s)", (local, list(TIMEOUTS)))


def select(
    cursor: psycopg2.extensions.cursor, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> list[Row]:
    """Rows of one of the engine's own statements, as dicts."""
    cursor.execute(sql, parameters or None)
    return [dict(row) for row in cursor.fetchall()]


@contextmanager
def as_declared(cursor: psycopg2.extensions.cursor) -> Iterator[None]:
    """Resolve names within the block as the role itself does: for what a release declares, and nothing else.

    Our own text that runs here names the schema of each function, operator and type. A failed statement leaves the
    role's settings to the rollback, of the transaction or to a savepoint from before the block. Sessions that connect()
    did not make are left unchanged. The cursor keeps its result.
    """
    session = cursor.connection
    if not isinstance(session, Session) or session.declared:
        yield
        return
    _set(session, session.role_settings)
    session.declared = True
    try:
        yield
    finally:
        session.declared = False
        if not session.closed and session.info.transaction_status != TRANSACTION_STATUS_INERROR:
            _set(session, session.own_settings)


def _set(session: Session, settings: Mapping[str, str]) -> None:
    if settings:
        values = ", ".join("pg_catalog.set_config(%s, %s, false)" for _ in settings)
        with session.cursor() as cursor:
            cursor.execute(f"SELECT {values}", [part for pair in settings.items() for part in pair])


def select_as_declared(
    cursor: psycopg2.extensions.cursor, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> list[Row]:
    """As select(), with names found as the role finds them: the text names the schema of all that is the server's."""
    with as_declared(cursor):
        return select(cursor, sql, parameters)


def strip_terminator(sql: str) -> str:
    """The statement without white space and one closing semicolon at its end."""
    return sql.strip().removesuffix(";")


def server_reason(error: psycopg2.Error) -> str:
    """The server's primary message and its SQLSTATE, on one line: `relation "x" does not exist (42P01)`."""
    text = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    return f"{text} ({error.pgcode})" if error.pgcode else text
