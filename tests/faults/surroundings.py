"""The stack around a row of the table: as it was before, on small disks where they are to be full, and what is left."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ansible.module_utils.dbrelease.postgres.session import Login
from outside import BACKEND, POSTGRES, REDIS, ROOT, STATE, WORKER, Psql, docker
from own_sessions import connect

from faults.client import Key, Ledger, State
from faults.running import Running, kill_all, lines, until

ENDED = {"passed", "failed", "refused"}
CONTAINERS = (POSTGRES, REDIS, BACKEND, WORKER)
ASSOCIATIONS = "drawing_project_associations"
ALL_WELL = dict.fromkeys(CONTAINERS, "running healthy")
HEALTHY_S = 120


def login() -> Login:
    """The database as a release reaches it; a container that was started again may have another address."""
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}} {{range .Config.Env}}{{println .}}{{end}}"
    address, *environment = docker("inspect", "--format", form, POSTGRES).split()
    (password,) = [word.partition("=")[2] for word in environment if word.startswith("POSTGRES_PASSWORD=")]
    return Login(address, 5432, "user", "drawing_index", password)


def reset() -> None:
    """The stack as before the release."""
    done = subprocess.run(
        ["make", "--no-print-directory", "stack", "RESET=1"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def health() -> dict[str, str]:
    """How each container of the stack is; empty while the engine does not answer."""
    form = "{{.Name}} {{.State.Status}} {{.State.Health.Status}}"
    seen = subprocess.run(
        ["docker", "container", "inspect", "--format", form, *CONTAINERS], check=False, capture_output=True, text=True
    )
    parts = [line.lstrip("/").partition(" ") for line in seen.stdout.splitlines()]
    return {name: state for name, _, state in parts if name}


def wait_until_healthy() -> None:
    """Until all of the stack's containers are."""
    deadline = time.monotonic() + HEALTHY_S
    while (seen := health()) != ALL_WELL:
        assert time.monotonic() < deadline, f"the stack is not healthy: {seen}"
        time.sleep(0.2)


@contextmanager
def small_state_directory() -> Iterator[None]:
    """What the release keeps on the target is on a small disk of its own."""
    STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _small_disk([], STATE, "128m", mode="0700"):  # as much as preflight asks for, and some
        yield


@contextmanager
def small_tmp_of_database() -> Iterator[None]:
    """The /tmp of the database's container is a small disk of its own."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", POSTGRES).strip()
    with _small_disk(["nsenter", f"--target={pid}", "--mount", "--pid", "--"], Path("/tmp"), "24m", mode="1777"):
        yield


def state_directory() -> Path:
    """Where that is."""
    return STATE


def tmp_of_database() -> Path:
    """The same /tmp, as this machine sees it."""
    return Path(f"/proc/{docker('inspect', '--format', '{{.State.Pid}}', POSTGRES).strip()}/root/tmp")


@contextmanager
def _small_disk(inside: list[str], path: Path, size: str, *, mode: str) -> Iterator[None]:
    options = f"size={size},mode={mode}"
    subprocess.run([*inside, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run([*inside, "umount", "--lazy", str(path)], check=True)


@contextmanager
def after_a_killed_run() -> Iterator[None]:
    """A deploy was killed before, so that the next one has something to settle."""
    run = Running("deploy")
    until(lambda: run.has("preflight", "started"), run, "preflight")
    kill_all(run)
    run.wait()
    yield


@contextmanager
def foreign_key_not_valid() -> Iterator[None]:
    """A foreign key of the release is as a reconcile leaves it that was killed before it validated what it rebuilt."""
    key = f"CONSTRAINT {ASSOCIATIONS}_drawing_id_fkey"
    as_declared = "FOREIGN KEY (drawing_id) REFERENCES drawings (id) ON DELETE CASCADE NOT VALID"
    with closing(connect(login(), "faults place")) as session, session.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {ASSOCIATIONS} DROP {key}, ADD {key} {as_declared}")
    yield


def catalog(database: str = "drawing_index") -> str:
    """The shape of a database."""
    dump = docker("exec", POSTGRES, "pg_dump", "-U", "user", "-d", database, "--schema-only")
    return "\n".join(line for line in dump.splitlines() if not line.startswith(("\\", "--")))


def catalog_once_restored() -> str:
    """The shape of the live database after a dump and a restore: the server then writes some constraints otherwise."""
    copy = "faults_copy"
    docker("exec", POSTGRES, "createdb", "-U", "user", "-T", "template0", copy)
    try:
        load = f"pg_dump -U user -d drawing_index --schema-only | psql -q -v ON_ERROR_STOP=1 -U user -d {copy}"
        docker("exec", POSTGRES, "sh", "-c", load)
        return catalog(copy)
    finally:
        docker("exec", POSTGRES, "dropdb", "-U", "user", copy)


def seeded_rows(psql: Psql) -> str:
    """The drawings and projects that no client of these tests has made."""
    return psql.value(
        "SELECT (SELECT count(*) || md5(string_agg(concat_ws('|', id, title, file_path, project_id), '~' ORDER BY id))"
        " FROM drawings WHERE title NOT LIKE 'fault %') || '/' ||"
        " (SELECT count(*) || md5(string_agg(concat_ws('|', id, name, code, description), '~' ORDER BY id))"
        " FROM projects WHERE name NOT LIKE 'fault %')"
    )


def rows_of(psql: Psql, ledger: Ledger, databases: list[str]) -> dict[Key, State]:
    """The client's rows: those of the first database, and those that only the others have."""
    found: dict[Key, State] = {}
    for database in reversed(databases):
        for line in psql.lines(
            f"SELECT 'drawings', title, project_id::text FROM drawings WHERE title LIKE '{ledger.prefix}%'"
            f" UNION ALL SELECT 'projects', name, description FROM projects WHERE name LIKE '{ledger.prefix}%'",
            database,
        ):
            kind, name, state = line.split("|")
            found[kind, name] = state or None
    return found


def others_out_of_line(psql: Psql, ledger: Ledger) -> list[str]:
    """Drawings whose associations are not their project, but for the client's: the old code writes no association."""
    if psql.value(f"SELECT to_regclass('{ASSOCIATIONS}') IS NULL") == "t":
        return []
    return psql.lines(
        f"SELECT d.id, d.project_id, a.project_id FROM drawings d FULL JOIN {ASSOCIATIONS} a ON a.drawing_id = d.id"
        f" WHERE a.project_id IS DISTINCT FROM d.project_id AND coalesce(d.title, '') NOT LIKE '{ledger.prefix}%'"
    )


def server_crashes(since: str) -> int:
    """How often the server has ended every session since then, because one of its processes had crashed."""
    log = subprocess.run(
        ["docker", "logs", "--since", since, POSTGRES], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return log.stdout.count(b"terminating any other active server processes")


def nothing_is_left(psql: Psql, kept: set[str]) -> None:
    """No session, lock, database, program, file or stopped container; the journal has an end for every beginning."""
    assert psql.left_sessions() == []
    assert psql.lines("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []
    assert set(psql.databases()) == {"drawing_index", *kept}
    assert not list(STATE.rglob("*.tmp*")) and not (STATE / "run.lock").exists()
    for dump in STATE.glob("*.dump"):
        assert dump.with_suffix(".manifest.json").exists(), f"{dump} has no manifest"
    for container in (POSTGRES, BACKEND):
        assert not re.search("pg_dump|pg_restore|alembic", docker("top", container, "-eo", "pid,args"))
    assert docker("exec", POSTGRES, "sh", "-c", "ls /tmp | grep dbrelease || :") == ""
    ours = f"label=dbrelease.rehearsal.target={STATE}"
    assert docker("ps", "--all", "--quiet", "--filter", ours) == ""
    assert docker("network", "ls", "--quiet", "--filter", ours) == ""
    assert health() == ALL_WELL
    begun = {(line["run_id"], line["step"]) for line in lines() if line["event"] == "started"}
    ended = {(line["run_id"], line["step"]) for line in lines() if line["event"] in ENDED}
    assert begun <= ended, begun - ended
