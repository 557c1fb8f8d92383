"""readiness_info: a target that is ready, and each way not to be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.monitor.readiness import backup
from ansible.module_utils.dbrelease.postgres.fingerprints import read_tables
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect
from psycopg2.extensions import connection as Connection
from psycopg2.extras import RealDictCursor
from readiness_info import act

HOUR = 3600
RELEASE: dict[str, Any] = {
    "readiness": {"stable_seconds": 48 * HOUR, "largest_gap_seconds": 2 * HOUR},
    "monitoring": {
        "limits": {"failed_samples": 3, "consecutive_failed_samples": 2},
        "logs": [{"name": "app_log"}],
        "latency": {"requests": 3, "factor": 2.0, "floor_ms": 10},
        "drift": ["no_missing_item"],
    },
    "checks": [
        {
            "name": "no_missing_item",
            "title": "Every order has its item",
            "violations": "SELECT id FROM orders EXCEPT SELECT order_id FROM order_items",
        }
    ],
    "migration": {"to_revision": "bbb2"},
    "tables": {
        "existing": {"orders": ["id"]},
        "created": {
            "order_items": {
                "columns": {"order_id": {"type": "integer", "nullable": True}},
                "indexes": {},
                "constraints": {
                    "order_items_order_id_fkey": {
                        "type": "foreign_key",
                        "columns": ["order_id"],
                        "references": {"table": "orders", "columns": ["id"]},
                        "on_delete": "cascade",
                    }
                },
            }
        },
    },
}
Line = dict[str, Any]


def sample(ago_s: float, verdict: str = "pass", *, p50: float = 20.0, grave: bool = False, **log: Any) -> Line:
    facts = {
        "verdict": verdict,
        "claims": [{"name": "app_log", "verdict": verdict, "detail": "", "grave": grave}],
        "logs": {"app_log": {"errors": 0, "concerning": 0, "sample": [], "lost": "", **log}},
        "api": {"orders": {"latency_ms": {"p50": p50}}},
    }
    return {"ago": ago_s, "step": "sample", "facts": facts}


class Target:
    """A journal, a backup and a database that are ready; a test takes one thing away."""

    def __init__(self, run: dict[str, Any], login: dict[str, Any], session: Connection) -> None:
        self.run, self.login = run, login
        self.folder = Path(run["state_dir"])
        self.folder.mkdir(parents=True)
        self.dump, self.manifest_file = self.folder / "x.dump", self.folder / "x.manifest.json"
        self.dump.write_bytes(b"a dump")
        self.backup = {
            "path": str(self.dump),
            "manifest": str(self.manifest_file),
            "sha256": hashlib.sha256(b"a dump").hexdigest(),
            "bytes": 6,
        }
        self.manifest = {
            **{key: self.backup[key] for key in ("sha256", "bytes")},
            "file": "x.dump",
            "run_id": run["run_id"],
            "restored": {"at": "2026-01-01T00:00:00+00:00"},
        }
        baseline = {"endpoints": {"orders": {"latency_ms": {"p50": 15.0}}}}
        self.lines: list[Line] = [
            {"ago": 51 * HOUR, "step": "api_baseline", "facts": baseline},
            {"ago": 51 * HOUR, "step": "backup", "facts": self.backup},
            {"ago": 50 * HOUR, "step": "upgrade", "facts": {"attempts": 1}},
            *(sample(hours * HOUR) for hours in range(50, -1, -1)),
        ]
        self.execute(
            session,
            "CREATE TABLE alembic_version (version_num text)",
            "INSERT INTO alembic_version VALUES ('bbb2')",
            "CREATE TABLE orders (id int PRIMARY KEY)",
            "CREATE TABLE order_items (order_id int REFERENCES orders ON DELETE CASCADE)",
            "INSERT INTO orders VALUES (1), (2)",
            "INSERT INTO order_items VALUES (1), (2)",
        )
        self.session = session

    def execute(self, session: Connection, *statements: str) -> None:
        with session.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def sql(self, *statements: str) -> None:
        self.execute(self.session, *statements)

    def ask(self, release: dict[str, Any] | None = None, *, check_mode: bool = False, **more: Any) -> dict[str, Any]:
        if not self.manifest_file.exists() and self.manifest:
            self.manifest_file.write_text(json.dumps(self.manifest))
        now = datetime.now(UTC)
        with (self.folder / "journal.jsonl").open("w") as file:
            for line in sorted(self.lines, key=lambda line: -line["ago"]):
                ts = (now - timedelta(seconds=line["ago"])).isoformat(timespec="milliseconds")
                file.write(json.dumps({**self.run, "event": "passed", "facts": {}, **line, "ts": ts}) + "\n")
        options = {"next_release": "next", "restore": False, "db_container": "", "timeout_seconds": 60, **more}
        return act({**self.login, **options, "run": self.run, "release": release or RELEASE}, check_mode)

    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "journal.jsonl").read_text().splitlines()]


@pytest.fixture
def target(run_parameters: dict[str, Any], login_parameters: dict[str, Any], session: Connection) -> Target:
    return Target(run_parameters, login_parameters, session)


def test_ready(target: Target) -> None:
    result = target.ask()
    assert result["ready"] and result["message"] == ""
    criteria = ("stable", "errors", "performance", "backup", "restorable", "drift", "constraints")
    assert {proof["name"]: proof["status"] for proof in result["proofs"]} == {
        **{f"readiness.{name}": "pass" for name in criteria},
        "backup.restorable": "pass",
    }
    closing = target.journal()[-1]
    assert (closing["step"], closing["event"]) == ("readiness", "passed")


def test_a_service_that_was_restarted_once_is_stable(target: Target) -> None:
    restarting(1)(target)
    assert target.ask()["ready"]


def test_check_mode_writes_nothing(target: Target) -> None:
    assert target.ask(check_mode=True)["ready"]
    assert target.journal()[-1]["step"] == "sample"


def without(target: Target, begin: float, end: float) -> None:
    target.lines = [one for one in target.lines if one["step"] != "sample" or not begin < one["ago"] < end]


def younger(target: Target) -> None:
    for line in target.lines:
        line["ago"] -= 5 * HOUR
    target.lines = [line for line in target.lines if line["ago"] >= 0]


def rewrite_dump(target: Target) -> None:
    target.dump.write_bytes(b"A dump")


def no_manifest(target: Target) -> None:
    target.manifest = {}


def unread(begin: float, end: float) -> Callable[[Target], None]:
    """Nobody could read the log between so many hours ago."""

    def change(target: Target) -> None:
        for line in target.lines:
            if line["step"] == "sample" and begin < line["ago"] / HOUR < end:
                line["facts"]["logs"]["app_log"]["unread"] = "The engine is away."

    return change


def silent(target: Target) -> None:
    for line in target.lines:
        if line["step"] == "sample":
            line["facts"]["logs"]["app_log"]["silent"] = "Too little traffic: 0 lines."


def restarting(times: int) -> Callable[[Target], None]:
    """The container of the log was started before each of so many samples."""

    def change(target: Target) -> None:
        taken = [line for line in target.lines if line["step"] == "sample"]
        for number, line in enumerate(taken):
            started = f"2026-01-02T00:00:0{2 if number < times else 0}Z"
            window = {"begin": "2026-01-02T00:00:01Z", "container": "shop_app", "started_at": started}
            line["facts"]["logs"]["app_log"] |= window

    return change


NOT: list[tuple[str, Callable[[Target], Any], str, str, str]] = [
    ("too young", younger, "stable", "fail", "45 h ago"),
    ("a gap in the middle", lambda t: without(t, 20 * HOUR, 23.5 * HOUR), "stable", "fail", "was not observed"),
    ("no sample for hours", lambda t: without(t, -1, 2.5 * HOUR), "stable", "fail", "was not observed"),
    ("rolled back", lambda t: t.lines.append({"ago": 1, "step": "rolled_back"}), "stable", "fail", "restored since"),
    ("never deployed", lambda t: t.lines.pop(2), "stable", "fail", "no deployment"),
    (
        "failures in a row",
        lambda t: t.lines.extend([sample(1800, "fail"), sample(1700, "fail")]),
        "stable",
        "fail",
        "2 samples in a row",
    ),
    (
        "a failure that concerns the release",
        lambda t: t.lines.append(sample(1800, "fail", grave=True)),
        "stable",
        "fail",
        "a finding that concerns the release (app_log)",
    ),
    (
        "failures again and again",
        lambda t: t.lines.extend(sample(hours * HOUR + 60, "fail") for hours in (3, 6, 9)),
        "stable",
        "fail",
        "3 of 51 samples failed (app_log)",
    ),
    ("failing now", lambda t: t.lines.append(sample(-1, "fail")), "stable", "fail", "The newest sample failed"),
    (
        "an error that concerns the release",
        lambda t: t.lines.append(sample(1800, errors=1, concerning=1, sample=["ERROR: order_items"])),
        "errors",
        "fail",
        "ERROR: order_items",
    ),
    ("lines were lost", lambda t: t.lines.append(sample(1800, lost="Rotated.")), "errors", "inconclusive", "Rotated."),
    ("a log that is written elsewhere", silent, "errors", "inconclusive", "Too little traffic"),
    ("a service that starts again and again", restarting(5), "stable", "fail", "before each of 2 samples in a row"),
    ("a log that nobody could read", unread(0, 60), "errors", "inconclusive", "no sample has read app_log"),
    ("a log that was not read for hours", unread(10, 14), "errors", "inconclusive", "For 4 h no sample"),
    ("a log that is not read any more", unread(-1, 3), "errors", "inconclusive", "The engine is away."),
    (
        "slow all the time",
        lambda t: t.lines.extend(sample(100, p50=50) for _ in range(60)),
        "performance",
        "fail",
        "50",
    ),
    ("slow now", lambda t: t.lines.append(sample(-1, p50=31)), "performance", "fail", "newest sample: 31"),
    ("no baseline", lambda t: t.lines.pop(0), "performance", "inconclusive", "no baseline"),
    ("no backup", lambda t: t.lines.pop(1), "backup", "fail", "records no backup"),
    ("the backup is gone", lambda t: t.dump.unlink(), "backup", "fail", "No such file"),
    ("the backup is another", rewrite_dump, "backup", "fail", "differs from what was written"),
    ("the manifest is gone", no_manifest, "backup", "fail", "no manifest"),
    ("never restored", lambda t: t.manifest.update(restored=None), "restorable", "inconclusive", "readiness_restore"),
    ("drift", lambda t: t.sql("INSERT INTO orders VALUES (3)"), "drift", "fail", "1 row breaks it"),
    (
        "a constraint is not valid",
        lambda t: t.sql(
            "ALTER TABLE order_items DROP CONSTRAINT order_items_order_id_fkey",
            "ALTER TABLE order_items ADD FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE NOT VALID",
        ),
        "constraints",
        "fail",
        "validated False",
    ),
    ("another revision", lambda t: t.sql("UPDATE alembic_version SET version_num = 'x'"), "constraints", "fail", "x"),
]


@pytest.mark.parametrize(("spoil", "name", "status", "says"), [case[1:] for case in NOT], ids=[case[0] for case in NOT])
def test_not_ready(target: Target, spoil: Callable[[Target], Any], name: str, status: str, says: str) -> None:
    spoil(target)
    result = target.ask()
    assert not result["ready"]
    (proof,) = [proof for proof in result["proofs"] if proof["name"] == f"readiness.{name}"]
    assert proof["status"] == status, proof
    assert says in proof["detail"] + proof["remedy"] and proof["title"] in result["message"]
    closing = target.journal()[-1]
    assert (closing["step"], closing["event"]) == ("readiness", "refused")


DEPLOYED: dict[str, list[Line]] = {
    "finished after it was killed": [
        {"ago": 50 * HOUR, "step": "upgrade", "event": "started"},
        {"ago": 50 * HOUR - 1, "step": "upgrade", "event": "failed", "facts": {"interrupted": True}},
        {"ago": 50 * HOUR - 2, "step": "upgrade", "event": "skipped"},
        {"ago": 50 * HOUR - 3, "step": "finalize"},
        {"ago": 50 * HOUR - 4, "step": "verify"},
    ],
    "finished by a verification": [{"ago": 50 * HOUR, "step": "verify"}],
    "deployed again after it was rolled back": [
        {"ago": 52 * HOUR, "step": "rolled_back"},
        {"ago": 50 * HOUR, "step": "upgrade", "event": "skipped"},
        {"ago": 50 * HOUR - 1, "step": "verify"},
    ],
}


@pytest.mark.parametrize("lines", DEPLOYED.values(), ids=DEPLOYED.keys())
def test_it_is_deployed_whatever_the_event_was_called(target: Target, lines: list[Line]) -> None:
    target.lines[2:3] = lines
    result = target.ask()
    assert result["ready"], result["message"]


def test_what_the_journal_does_not_know_and_the_database_has_is_verified_first(target: Target) -> None:
    target.lines.pop(2)
    assert "run the verification, from which on it counts as deployed" in target.ask()["message"]
    target.sql("UPDATE alembic_version SET version_num = 'aaa1'")
    assert "Deploy it first." in target.ask()["message"]


def test_what_was_only_begun_is_not_deployed(target: Target) -> None:
    target.lines[2:3] = [{"ago": 50 * HOUR, "step": "upgrade", "event": event} for event in ("started", "failed")]
    assert "no deployment" in target.ask()["message"]


def test_one_failing_sample_of_many_is_within_the_limits(target: Target) -> None:
    target.lines.append(sample(1800, "fail"))
    assert target.ask()["ready"]


def test_what_was_long_ago_is_forgiven(target: Target) -> None:
    for line in target.lines:
        line["ago"] += 60 * HOUR
    target.lines += [sample(100 * HOUR, lost="Rotated.", errors=1), *(sample(hour * HOUR) for hour in range(50))]
    assert target.ask()["ready"]


def test_a_restore_that_cannot_be_done_is_a_no_and_leaves_no_database(target: Target) -> None:
    result = target.ask(restore=True)
    (proof,) = [proof for proof in result["proofs"] if proof["name"] == "readiness.restorable"]
    assert proof["status"] == "fail"
    with target.session.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_database WHERE starts_with(datname, current_database() || '_readiness_')"
        )
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize(("rows", "status"), [(2, "pass"), (1, "fail")])
def test_a_backup_that_restores_to_other_rows_is_a_no(
    target: Target, monkeypatch: pytest.MonkeyPatch, rows: int, status: str
) -> None:
    def restore(_path: str, copy: Login, *_: object) -> None:
        session = connect(copy, "tests")
        target.execute(
            session, "CREATE TABLE orders (id int)", f"INSERT INTO orders SELECT n FROM generate_series(1, {rows}) n"
        )
        session.close()

    with target.session.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute("BEGIN")
        tables = read_tables(cursor, only={"public.orders": ["id"]})
        cursor.execute("ROLLBACK")
    target.manifest["tables"] = tables
    monkeypatch.setattr(backup, "restore", restore)
    (proof,) = [one for one in target.ask(restore=True)["proofs"] if one["name"] == "readiness.restorable"]
    assert (proof["status"], proof["observed"]) == (status, [] if status == "pass" else ["public.orders"])
    (claim,) = [one for one in target.ask(restore=True)["proofs"] if one["name"] == "backup.restorable"]
    assert claim["status"] == status, "only a restore shows it"


def test_a_release_that_declares_no_readiness_is_refused(target: Target) -> None:
    with pytest.raises(ReleaseError, match="declares no `readiness`") as refusal:
        target.ask({**RELEASE, "readiness": None})
    assert refusal.value.refused


def test_a_log_that_one_sample_could_not_read_is_read_by_the_next(target: Target) -> None:
    unread(9.5, 10.5)(target)
    assert target.ask()["ready"]


def test_what_the_target_has_not_is_no_obstacle(target: Target) -> None:
    for line in target.lines:
        if line["step"] == "sample":
            line["facts"] |= {"logs": {}, "api": {}, "left_out": {"app_log": "No container.", "latency": "No API."}}
    result = target.ask()
    skipped = {proof["name"]: proof["detail"] for proof in result["proofs"] if proof["status"] == "skipped"}
    assert result["ready"] and skipped == {"readiness.errors": "No container.", "readiness.performance": "No API."}


def test_what_is_not_declared_is_no_obstacle(target: Target) -> None:
    result = target.ask(
        {**RELEASE, "monitoring": {"limits": RELEASE["monitoring"]["limits"], "logs": [{"name": "app_log"}]}}
    )
    assert result["ready"]
