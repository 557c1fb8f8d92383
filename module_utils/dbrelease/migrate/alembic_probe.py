"""Read Alembic's revisions and the settings of its sessions by a small program that runs beside it.

The output of `alembic heads` and `alembic current` is for people, and env.py may print between its lines. The program
uses Alembic's own command line for its options, and answers in JSON behind a mark that no other output has.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ..host.commands import Finished

PROBE = r"""
import json, os, sys
from alembic.config import CommandLine
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

mark, *arguments = sys.argv[1:]
answers = os.dup(1)
SESSION = (
    "SELECT current_setting('application_name') AS application_name, current_setting('dbrelease.probe', true) AS probe,"
    " (SELECT setting FROM pg_settings WHERE name = 'lock_timeout') AS lock_timeout,"
    " CAST(current_user AS text) AS role, CAST(current_database() AS text) AS database"
)

def of_session(connection):
    if connection is None or connection.dialect.name != "postgresql":
        return None
    from sqlalchemy import text
    try:
        return [value if value is None else str(value) for value in connection.execute(text(SESSION)).fetchone()]
    except Exception:
        return None

def heads(script):
    real = list(getattr(script.revision_map, "_real_heads", None) or script.get_heads())
    return {"heads": real, "history": {one.revision: list(one._all_down_revisions) for one in script.walk_revisions()}}

def current(config, script):
    seen = []
    try:
        known = heads(script)  # with the same start, as each start takes a second
    except Exception:
        known = {}
    def read(revisions, context):
        script.get_all_current(revisions)
        rows = [revisions] if isinstance(revisions, str) else list(revisions or ())
        table = [context.version_table_schema, context.version_table]
        seen.append({"revisions": rows, "table": table, "session": of_session(context.connection)})
        return []
    with EnvironmentContext(config, script, fn=read, dont_mutate=True):
        script.run_env()
    return {**known, "databases": seen}

def answer(config, options):
    script = ScriptDirectory.from_config(config)
    said = heads(script) if arguments[-1] == "heads" else current(config, script)
    os.write(answers, ("\n" + mark + json.dumps(said) + "\n").encode())

line = CommandLine(prog="alembic")
line.run_cmd = answer
line.main(arguments)
"""
NAMED = "dbrelease-probe-"
# Further settings of its session: one to recognize, and one that keeps env.py from writing.
PROBE_SETTINGS = {"dbrelease.probe": "arrived", "default_transaction_read_only": "on"}
# Such settings give a downgrade the counted rows.
COUNTING = "dbrelease.*"
# The first line of a console script names the interpreter that has Alembic.
BY_SCRIPT = (
    "sh",
    "-c",
    'read -r first < "$(command -v "$1")"; case $first in "#!"*python*) ;; *) exit 127 ;; esac; '
    'program=$2; shift 2; exec ${first#"#!"} -c "$program" "$@"',
    "sh",
)


@dataclass(frozen=True)
class AlembicSession:
    """The settings and the role of a session of Alembic; lock_timeout in milliseconds."""

    application_name: str
    probe: str
    lock_timeout: str
    role: str
    database: str

    def lacks(self, lock_timeout_ms: int) -> list[str]:
        """Which of the given settings did not reach the session."""
        arrived = {
            "application_name": self.application_name.startswith(NAMED),
            "lock_timeout": self.lock_timeout == str(lock_timeout_ms),
            COUNTING: bool(self.probe),
        }
        return [name for name, there in arrived.items() if not there]


def probe_name(run_id: str) -> str:
    """The application_name of the probe's session."""
    return f"{NAMED}{run_id}"[:63]


def asked(command: Sequence[str], mark: str, verb: str) -> list[str] | None:
    """Return the command line that runs the probe instead of the declared command; None where that has no Alembic."""
    words = list(command)
    for index, word in enumerate(words):
        if word == "-m" and words[index + 1 : index + 2] == ["alembic"]:
            return [*words[:index], "-c", PROBE, mark, *words[index + 2 :], verb]
    for index, word in enumerate(words):
        if PurePosixPath(word).name == "alembic":
            rest = [mark, *words[index + 1 :], verb]
            return [*words[:index], "python", "-c", PROBE, *rest] if index else [*BY_SCRIPT, word, PROBE, *rest]
    return None


def ask(
    command: Sequence[str], verb: str, run: Callable[[Sequence[str]], Finished]
) -> tuple[dict[str, Any] | None, Finished | None]:
    """Return the probe's answer to `heads`, or to `current` (which has that of `heads`), or None; and how it ended."""
    mark = f"dbrelease-{secrets.token_hex(16)} "
    argv = asked(command, mark, verb)
    if argv is None:
        return None, None
    finished = run(argv)
    said = [line.removeprefix(mark) for line in finished.stdout.splitlines() if line.startswith(mark)]
    if finished.status != 0 or not said:
        return None, finished
    try:
        answer = json.loads(said[-1])
    except (ValueError, RecursionError):
        return None, finished
    return (answer if isinstance(answer, dict) else None), finished


def session_of(answer: Mapping[str, Any] | None) -> AlembicSession | None:
    """The session that the probe used, if it was exactly one on a PostgreSQL server."""
    sessions = [seen.get("session") for seen in (answer or {}).get("databases") or () if isinstance(seen, dict)]
    if len(sessions) != 1 or not isinstance(sessions[0], list) or len(sessions[0]) != 5:
        return None
    return AlembicSession(*(str(value or "") for value in sessions[0]))
