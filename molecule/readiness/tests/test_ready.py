"""Ready after 48 hours with samples, a whole backup and rows in line; and not without any of them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from outside import STATE, Psql, journal, play

JOURNAL = STATE / "journal.jsonl"
# Moments in the journal, of its own form and of the container engine's.
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)")
HOUR = 3600
CRITERIA = ("stable", "errors", "performance", "backup", "restorable", "drift", "constraints")


def shifted(line: dict[str, Any], by: timedelta) -> dict[str, Any]:
    """The same line, as if it had been written at another time."""

    def move(match: re.Match[str]) -> str:
        zone = "Z" if match[0].endswith("Z") else "+00:00"
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", match[0]).replace("Z", "+00:00")) + by
        return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + zone

    moved: dict[str, Any] = json.loads(MOMENT.sub(move, json.dumps(line)))
    return moved


@pytest.fixture(scope="module")
def two_days_ago() -> list[dict[str, Any]]:
    """The journal of the deployment as if it had been 50 hours ago, with an hourly sample since."""
    lines = [line for line in journal() if line["playbook"] == "deploy"]
    by = timedelta(hours=-50)
    sample = [line for line in lines if line["step"] == "sample"][-1]
    hourly = [shifted(sample, timedelta(hours=hours) + by) for hours in range(1, 51)]
    return [*(shifted(line, by) for line in lines), *hourly]


@pytest.fixture
def remember(two_days_ago: list[dict[str, Any]]) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Writes a journal; the target's own comes back afterwards."""
    real = JOURNAL.read_bytes()

    def write(lines: list[dict[str, Any]]) -> None:
        JOURNAL.write_text("".join(json.dumps(line) + "\n" for line in lines))

    write(two_days_ago)
    yield write
    JOURNAL.write_bytes(real)


def criteria(evidence: dict[str, Any]) -> dict[str, str]:
    proofs = {proof["name"]: proof["status"] for proof in evidence["proofs"]}
    return {name: proofs[f"readiness.{name}"] for name in CRITERIA}


Remember = Callable[[list[dict[str, Any]]], None]


def test_ready_with_the_backup_restored_now(psql: Psql, remember: Remember) -> None:
    before = psql.fingerprint()
    run = play("readiness_8_1b.yml", "-e", "readiness_restore=true")
    assert run.status == 0, run.output
    assert run.evidence["outcome"] == "already_deployed"
    assert run.evidence["headline"].startswith("Ready: ")
    assert criteria(run.evidence) == dict.fromkeys(CRITERIA, "pass")
    assert psql.fingerprint() == before, "the throwaway database is gone"


def test_it_says_what_it_would_take(remember: Remember) -> None:
    """Just deployed is not stable, and a backup that was never restored is not known to be restorable."""
    remember([shifted(line, timedelta(hours=50)) for line in journal() if line["step"] != "sample"])
    run = play("readiness_8_1b.yml")
    assert run.status != 0
    assert run.evidence["outcome"] == "refused"
    assert run.evidence["headline"].startswith("Not ready")
    for words in ("Rerun the playbook in", "48 h"):
        assert words in run.evidence["headline"]
    assert "Traceback" not in run.output


@contextmanager
def sql(psql: Psql, do: str, undo: str) -> Iterator[None]:
    psql.lines(do)
    try:
        yield
    finally:
        psql.lines(undo)


def dump() -> Path:
    (path,) = STATE.glob("backup_before_8.1a_*.dump")
    return path


@contextmanager
def changed(path: Path) -> Iterator[None]:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        yield
    finally:
        path.write_bytes(content)


@contextmanager
def away(path: Path) -> Iterator[None]:
    path.rename(path.with_suffix(".away"))
    try:
        yield
    finally:
        path.with_suffix(".away").rename(path)


@contextmanager
def lines(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], remember: Remember) -> Iterator[None]:
    remember(change(journal()))
    yield


def ago(line: dict[str, Any]) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(line["ts"])).total_seconds() / HOUR


def without_samples(begin: float, end: float) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda all_lines: [line for line in all_lines if line["step"] != "sample" or not begin < ago(line) < end]


def with_sample(change: Callable[[dict[str, Any]], None]) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    def add(all_lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        sample = json.loads(json.dumps([line for line in all_lines if line["step"] == "sample"][-1]))
        change(sample["facts"])
        return [*all_lines, sample]

    return add


def concerning(facts: dict[str, Any]) -> None:
    facts["logs"]["backend_log"] |= {"errors": 1, "concerning": 1, "sample": ["ERROR idx_dpa_project_id is corrupt"]}


def slow(facts: dict[str, Any]) -> None:
    facts["api"]["drawings"]["latency_ms"]["p50"] = 99_999.0


TABLE = "drawing_project_associations"
FOREIGN_KEY = f"{TABLE}_drawing_id_fkey"
NOT_READY: list[tuple[str, Callable[[Psql, Remember], Any], str, str]] = [
    ("samples with a gap", lambda p, r: lines(without_samples(20, 25), r), "stable", "was not observed"),
    ("no sample lately", lambda p, r: lines(without_samples(-1, 4), r), "stable", "was not observed"),
    ("an error about the release", lambda p, r: lines(with_sample(concerning), r), "errors", "is corrupt"),
    ("an application that is slow", lambda p, r: lines(with_sample(slow), r), "performance", "99999"),
    ("a backup that is gone", lambda p, r: away(dump()), "backup", "No such file"),
    ("a backup that changed by one bit", lambda p, r: changed(dump()), "backup", "differs from what was written"),
    (
        "drift",
        lambda p, r: sql(
            p,
            f"CREATE TABLE kept AS SELECT * FROM {TABLE} LIMIT 1; DELETE FROM {TABLE} a USING kept k WHERE a.id = k.id",
            f"INSERT INTO {TABLE} SELECT * FROM kept; DROP TABLE kept",
        ),
        "drift",
        "1 row breaks it",
    ),
    (
        "a constraint that is not valid",
        lambda p, r: sql(
            p,
            f"ALTER TABLE {TABLE} DROP CONSTRAINT {FOREIGN_KEY}; ALTER TABLE {TABLE} ADD CONSTRAINT {FOREIGN_KEY}"
            " FOREIGN KEY (drawing_id) REFERENCES drawings ON DELETE CASCADE NOT VALID",
            f"ALTER TABLE {TABLE} VALIDATE CONSTRAINT {FOREIGN_KEY}",
        ),
        "constraints",
        "validated False",
    ),
]


@pytest.mark.parametrize(
    ("spoil", "criterion", "says"), [case[1:] for case in NOT_READY], ids=[case[0] for case in NOT_READY]
)
def test_not_ready(
    psql: Psql, remember: Remember, spoil: Callable[[Psql, Remember], Any], criterion: str, says: str
) -> None:
    with spoil(psql, remember):
        run = play("readiness_8_1b.yml")
    assert run.status != 0
    assert run.evidence["outcome"] == "refused", run.output
    seen = criteria(run.evidence)
    assert seen[criterion] == "fail"
    expected = {name for name in CRITERIA if seen[name] == "fail"}
    assert expected <= {criterion, "restorable"}, "one cause, one criterion"
    assert says in run.evidence["headline"]


def test_a_backup_that_cannot_be_restored(remember: Remember) -> None:
    """Its hash is what the manifest says, and yet it is no dump."""
    path = dump()
    manifest = path.with_suffix(".manifest.json")
    content, described, remembered = path.read_bytes(), manifest.read_text(), JOURNAL.read_text()
    old = json.loads(described)
    path.write_bytes(content[: len(content) // 2])
    done = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True)
    new = {**old, "sha256": done.stdout.split()[0], "bytes": path.stat().st_size}
    try:
        manifest.write_text(json.dumps(new))
        text = remembered.replace(old["sha256"], new["sha256"]).replace(
            f'"bytes": {old["bytes"]}', f'"bytes": {new["bytes"]}'
        )
        JOURNAL.write_text(text)
        run = play("readiness_8_1b.yml", "-e", "readiness_restore=true")
    finally:
        path.write_bytes(content)
        manifest.write_text(described)
    assert run.status != 0
    seen = criteria(run.evidence)
    assert (seen["backup"], seen["restorable"]) == ("pass", "fail"), run.output
    assert "Restoring" in run.evidence["headline"]


def test_check_mode_writes_nothing(remember: Remember) -> None:
    before = JOURNAL.read_text()
    play("readiness_8_1b.yml", "--check")
    assert JOURNAL.read_text() == before
