"""The stack from outside: the database by psql, playbooks as an operator runs them, and what a run leaves."""

from __future__ import annotations

import atexit
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from testinfra.host import Host

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".stack/app/backend/migrations/backups"
ARTIFACTS = ROOT / "artifacts/staging"
POSTGRES, REDIS = "drawing_postgres", "drawing_redis"
BACKEND, WORKER = "drawing_backend", "drawing_celery_worker"
SESSION_ENDS_S = 5
LONGEST_WAIT_S = 120
API = "http://localhost:8001/api/v1"
# By playbook, for tests of something else: what a rehearsal finds would keep a deploy from its fault.
UNREHEARSED = {"deploy_8_1a.yml": ("-e", "rehearsal=off")}


def until(condition: Callable[[], object], what: str, seconds: float = LONGEST_WAIT_S) -> None:
    """Return when the condition is true; after so many seconds the test fails, and says what did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"It did not happen within {seconds:g} s: {what}."
        time.sleep(0.1)


@dataclass(frozen=True)
class Psql:
    """The application's database, as an operator with psql sees it."""

    host: Host

    def lines(self, sql: str, database: str = "drawing_index") -> list[str]:
        """One line a row, columns parted by |."""
        answer = self.host.run(f"psql -X -v ON_ERROR_STOP=1 -U user -d {database} -At -c {shlex.quote(sql)}")
        assert answer.rc == 0, answer.stderr
        return str(answer.stdout).splitlines()

    def value(self, sql: str, database: str = "drawing_index") -> str:
        """The only value of the only row."""
        (line,) = self.lines(sql, database)
        return line

    def databases(self) -> list[str]:
        """Every database but the server's own and those of unit tests, which may run beside a scenario."""
        others = "^(postgres|template[01]|test_[0-9a-f]{12}.*)$"
        return self.lines(f"SELECT datname FROM pg_database WHERE datname !~ '{others}' ORDER BY 1")

    def left_sessions(self) -> list[str]:
        """The engine's sessions that do not end by themselves: a server is a moment behind the client that closed."""
        deadline = time.monotonic() + SESSION_ENDS_S
        while True:
            left = self.lines("SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'dbrelease%'")
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.1)

    def fingerprint(self) -> dict[str, str]:
        """Every user table's rows and content, and the catalog's shape: equal means that nothing was changed."""
        tables = self.lines(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"
        )
        seen = {
            table: self.value(
                f"SELECT count(*), md5(coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '')) FROM {table} t"
            )
            for table in tables
        }
        seen["databases"] = ",".join(self.databases())
        return seen


@dataclass(frozen=True)
class Playbook:
    """How a playbook ended: its status, what it printed, and the evidence that it left (empty when it left none)."""

    status: int
    output: str
    evidence: dict[str, Any] = field(default_factory=dict)


def play(
    name: str, *arguments: str, inventory: str = "staging", environment: Mapping[str, str] | None = None
) -> Playbook:
    """Run a playbook from the repository's root, as an operator does; a deploy is rehearsed where a test says so."""
    before = set(ARTIFACTS.glob("*/evidence.json"))
    done = subprocess.run(
        ["ansible-playbook", name, "-i", inventory, *UNREHEARSED.get(name, ()), *arguments],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    new = sorted(set(ARTIFACTS.glob("*/evidence.json")) - before)
    return Playbook(done.returncode, done.stdout, json.loads(new[-1].read_text()) if new else {})


@dataclass(frozen=True)
class Releases:
    """A copy of the releases that a test may edit; `arguments` make a playbook take it in place of the tree's."""

    folder: Path

    @classmethod
    def copied(cls) -> Releases:
        """A fresh copy, which goes with the tests."""
        copies = Path(tempfile.mkdtemp(prefix="releases-"))
        atexit.register(shutil.rmtree, copies)
        return cls(Path(shutil.copytree(ROOT / "releases", copies / "releases")))

    @property
    def arguments(self) -> tuple[str, ...]:
        """For ansible-playbook."""
        return "-e", f"run_releases={self.folder}"

    @contextmanager
    def edited(self, old: str, new: str, file: str = "release.yml") -> Iterator[None]:
        """Story 8.1a's release with this text in the place of that, for a while."""
        path = self.folder / "8_1a" / file
        text = path.read_text()
        assert old in text, old
        path.write_text(text.replace(old, new, 1))
        try:
            yield
        finally:
            path.write_text(text)


@cache
def patient() -> tuple[str, ...]:
    """Arguments with which slow answers are no fault: for tests of something else, on a machine that has much to do."""
    releases = Releases.copied()
    for path in releases.folder.glob("*/release.yml"):
        path.write_text(re.sub(r"floor_ms: \d+", "floor_ms: 60000", path.read_text()))
    return releases.arguments


def docker(*arguments: str) -> str:
    """What the docker client prints; an error is a failing test."""
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process has started, and theirs."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            listed = children.read_text().split()
        except OSError:
            continue
        for child in map(int, listed):
            yield child
            yield from descendants(child)


def journal() -> list[dict[str, Any]]:
    """Every line of the target's journal."""
    return [json.loads(line) for line in (STATE / "journal.jsonl").read_text().splitlines()]


def newest_evidence() -> dict[str, Any]:
    """The evidence of the newest run, as fetched to the controller."""
    newest = max(ARTIFACTS.glob("*/evidence.json"), key=lambda path: path.parent.name)
    evidence: dict[str, Any] = json.loads(newest.read_text())
    return evidence
