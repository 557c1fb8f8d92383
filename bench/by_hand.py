"""A deploy beside the runbook by hand, and a rehearsal beside the same acts by hand, at 1,000,000 rows.

By hand the obvious revision is applied, as the runbook does it; the deploy applies the revision of the release.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from .measurement import ROOT, Measurement, newest_evidence, parts_of, play, run, stack
from .rehearsal import REHEARSED, REVISION, ROWS, releases

TIMES = 3
DUMP, KEPT = "/tmp/by_hand.dump", "/tmp/by_hand_kept.dump"  # noqa: S108 - in the container, and on a machine of tests
SERVER, NETWORK = "by_hand_postgres", "by_hand"
VERSIONS = "/app/migrations/versions"
STATE = """
SELECT count(*) FROM drawings;
SELECT count(*) FROM drawings WHERE project_id IS NOT NULL;
SELECT d.id, d.title, d.project_id, p.name FROM drawings d LEFT JOIN projects p ON d.project_id = p.id LIMIT 5;
SELECT count(*) FROM projects;
"""
VERIFY = """
SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'drawing_project_associations';
SELECT count(*) FROM drawings WHERE project_id IS NOT NULL;
SELECT count(*) FROM drawing_project_associations;
SELECT count(*) FROM drawings d WHERE d.project_id IS NOT NULL AND NOT EXISTS (
  SELECT 1 FROM drawing_project_associations a WHERE a.drawing_id = d.id AND a.project_id = d.project_id);
SELECT count(*) FROM drawing_project_associations a LEFT JOIN drawings d ON a.drawing_id = d.id WHERE d.id IS NULL
UNION ALL
SELECT count(*) FROM drawing_project_associations a LEFT JOIN projects p ON a.project_id = p.id WHERE p.id IS NULL;
EXPLAIN ANALYZE SELECT d.*, p.name FROM drawings d JOIN drawing_project_associations a ON d.id = a.drawing_id
JOIN projects p ON a.project_id = p.id WHERE a.project_id = (SELECT id FROM projects LIMIT 1);
"""
FINALIZE = """
ANALYZE drawing_project_associations;
ALTER TABLE drawing_project_associations VALIDATE CONSTRAINT %s;
"""
NOT_VALID = "SELECT conname FROM pg_constraint WHERE NOT convalidated ORDER BY 1"
ASK = """
from urllib.request import urlopen
for path in ("drawings", "projects"):
    urlopen("http://127.0.0.1:8000/api/v1/" + path).read()
"""


class Parts:
    """Commands, one after the other, and how long each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, *argv: str, patience_s: float = 0.0) -> None:
        """Run a command; with patience again and again until it succeeds."""
        begun = time.monotonic()
        while True:
            try:
                run(list(argv))
                break
            except SystemExit:
                if time.monotonic() - begun >= patience_s:
                    raise
                time.sleep(0.1)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun

    def total(self, title: str) -> float:
        """All of them, which are printed."""
        whole = sum(self.seconds.values())
        print(f"{title}, {whole:.1f} s: " + ", ".join(f"{name} {part:.1f} s" for name, part in self.seconds.items()))
        return whole


def psql(container: str, sql: str) -> list[str]:
    """The statements as `docker exec` passes them."""
    commands = [word for line in sql.strip().split(";\n") for word in ("-c", line)]
    return ["docker", "exec", container, "psql", "-X", "-q", "-U", "user", "-d", "drawing_index", *commands]


def runbook() -> float:
    """The runbook's commands for the obvious revision, without the time that reading and typing takes."""
    stack(ROWS)
    parts = Parts()
    with releases(obvious=True) as (_, given):
        revision = f"{given.removeprefix('run_releases=')}/8_1a/{REVISION}"
        dump = ["pg_dump", "-U", "user", "-d", "drawing_index", "-F", "c", "-b", "-f", DUMP]
        parts.time("dump", "docker", "exec", "drawing_postgres", *dump)
        parts.time("copy the dump", "docker", "cp", f"drawing_postgres:{DUMP}", KEPT)
        parts.time("state before", *psql("drawing_postgres", STATE))
        parts.time("copy the files", "docker", "cp", revision, f"drawing_backend:{VERSIONS}/")
        parts.time("upgrade", "docker", "exec", "drawing_backend", "python3", "-m", "alembic", "upgrade", "head")
        parts.time("verify", *psql("drawing_postgres", VERIFY))
        parts.time("API", "docker", "exec", "drawing_backend", "python3", "-c", ASK)
    return parts.total("The runbook by hand")


@contextmanager
def throwaway_server() -> Iterator[None]:
    """A server of the live image in a network of its own, empty."""
    image = run(["docker", "inspect", "--format", "{{.Config.Image}}", "drawing_postgres"]).strip()
    run(["docker", "network", "create", "--internal", NETWORK])
    try:
        given = [
            "--env-file",
            str(ROOT / ".stack/db.env"),
            "-e",
            "POSTGRES_USER=user",
            "-e",
            "POSTGRES_DB=drawing_index",
        ]
        run(["docker", "run", "--detach", "--name", SERVER, "--network", NETWORK, *given, image])
        yield
    finally:
        run(["docker", "rm", "--force", "--volumes", SERVER])
        run(["docker", "network", "rm", NETWORK])


@contextmanager
def migrations() -> Iterator[Path]:
    """A copy of the application's migrations with the revision of the release."""
    with tempfile.TemporaryDirectory(prefix="migrations-") as folder:
        copied = Path(shutil.copytree(ROOT / ".stack/app/backend/migrations", Path(folder) / "migrations"))
        shutil.copy(ROOT / "releases/8_1a" / REVISION, copied / "versions")
        yield copied


def application(folder: Path, *argv: str, detach: bool = False) -> list[str]:
    """A container of the application's image beside the throwaway server."""
    given = {"POSTGRES_HOST": SERVER, "POSTGRES_USER": "user", "POSTGRES_DB": "drawing_index", "APP_PHASE": "A"}
    return [
        *("docker", "run", "--network", NETWORK, "--env-file", str(ROOT / ".stack/db.env")),
        *(word for name, value in given.items() for word in ("-e", f"{name}={value}")),
        *("--volume", f"{folder}:/app/migrations"),
        *(("--detach", "--name", "by_hand_backend") if detach else ("--rm",)),
        "drawing-backend:stack",
        *argv,
    ]


def answers(parts: Parts, folder: Path) -> None:
    """Start the application, ask it, and stop it."""
    parts.time("application", *application(folder, detach=True))
    try:
        parts.time("application", "docker", "exec", "by_hand_backend", "python3", "-c", ASK, patience_s=60)
    finally:
        run(["docker", "rm", "--force", "by_hand_backend"])


def rehearsal() -> float:
    """The acts of a rehearsal, each by the program that somebody would type: the dump is that of `runbook`."""
    parts = Parts()

    def migrate(*to: str) -> None:
        parts.time(to[0], *application(folder, "python3", "-m", "alembic", *to))

    def upgrade() -> None:
        migrate("upgrade", "head")
        names = run([*psql(SERVER, NOT_VALID), "-At"]).split()
        parts.time("finalize", *psql(SERVER, "".join(FINALIZE % name for name in names)))

    begun = time.monotonic()
    with migrations() as folder, throwaway_server():
        ready = ["pg_isready", "--quiet", "--host=127.0.0.1", "--username=user", "--dbname=drawing_index"]
        parts.time("server", "docker", "exec", SERVER, *ready, patience_s=60)
        parts.seconds["server"] = time.monotonic() - begun
        parts.time("restore", "docker", "cp", KEPT, f"{SERVER}:{DUMP}")
        parts.time("restore", "docker", "exec", SERVER, "pg_restore", "-U", "user", "-d", "drawing_index", DUMP)
        parts.time("compare", *psql(SERVER, STATE))
        upgrade()
        parts.time("verify", *psql(SERVER, VERIFY))
        migrate("downgrade", "-1")
        parts.time("compare", *psql(SERVER, STATE))
        answers(parts, folder)
        upgrade()
        answers(parts, folder)
    return parts.total("A rehearsal by hand")


def beside(title: str, ours: Sequence[float], by_hand: Sequence[float]) -> float:
    """The ratio of the medians, which are printed."""
    print(f"{title}: {median(ours):.1f} s beside {median(by_hand):.1f} s by hand", flush=True)
    return median(ours) / median(by_hand)


def deploys(*arguments: str) -> Iterator[float]:
    """A deploy each, its stages printed."""
    for _ in range(TIMES):
        stack(ROWS)
        yield play("deploy_8_1a.yml", *arguments)[0]
        parts = parts_of(newest_evidence())
        print("    " + ", ".join(f"{part.step} {part.seconds:.1f} s" for part in parts), flush=True)


def unrehearsed_ratio() -> float:
    """A deploy without rehearsal beside the runbook by hand."""
    return beside("deploy", list(deploys()), [runbook() for _ in range(TIMES)])


def rehearsed_ratio() -> float:
    """A deploy with its rehearsal beside the runbook by hand, which has none."""
    return beside("rehearsed deploy", list(deploys(*REHEARSED)), [runbook() for _ in range(TIMES)])


def rehearsal_ratio() -> float:
    """The stage of the rehearsal beside the same acts by hand."""
    ours = []
    for _ in deploys(*REHEARSED):
        ours.append(sum(part.seconds for part in parts_of(newest_evidence()) if part.step == "rehearse"))
    runbook()  # for its dump
    stack(10_000)  # the live database is not used; the files of the release are not in place
    return beside("rehearsal", ours, [rehearsal() for _ in range(TIMES)])


MEASUREMENTS = [
    Measurement("by_hand_1m", "deploy, part of the runbook by hand", "", 0.7, unrehearsed_ratio),
    Measurement("rehearsed_by_hand_1m", "with its rehearsal, part of that", "", 1.5, rehearsed_ratio),
    Measurement("rehearsal_by_hand_1m", "rehearsal, part of the same by hand", "", 1.3, rehearsal_ratio),
]
