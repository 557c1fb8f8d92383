"""A deploy while clients write through the API: it ends deployed, no acknowledged write is lost, none waits for it.

What they write after it is drift, and no reason to call the release broken; damage is. All of it, and both ways back,
as a role that owns the database and is no superuser.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests
from outside import API, Psql, patient, play

LONGEST_ACCEPTABLE_WRITE_S = 5.0  # of a request, on a machine that has much to do; bench/ measures the database's share


@dataclass
class Client:
    """Creates drawings, moves them between projects, and remembers every acknowledged write."""

    projects: list[str]
    acknowledged: dict[str, str | None] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    longest_s: float = 0.0

    def work(self, stop: threading.Event) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            project = self.projects[number % len(self.projects)]
            if number % 3 and self.acknowledged:
                identity = next(iter(self.acknowledged))
                self.send("PATCH", f"drawings/{identity}", {"project_id": project})
            else:
                body = {"title": f"live 'n' {number} 📐", "file_path": f"/live/{number}.pdf", "project_id": project}
                self.send("POST", "drawings", body)
            time.sleep(0.02)

    def send(self, method: str, path: str, body: dict[str, str]) -> None:
        begun = time.monotonic()
        answer = requests.request(method, f"{API}/{path}", json=body, timeout=30)
        self.longest_s = max(self.longest_s, time.monotonic() - begun)
        if answer.ok:
            self.acknowledged[answer.json()["id"]] = body["project_id"]
        else:
            self.errors.append(f"{method} {path}: {answer.status_code} {answer.text}")


@contextmanager
def writing() -> Iterator[Client]:
    projects = [each["id"] for each in requests.get(f"{API}/projects", timeout=10).json()[:7]]
    client, stop = Client(projects), threading.Event()
    thread = threading.Thread(target=client.work, args=(stop,))
    thread.start()
    try:
        yield client
    finally:
        stop.set()
        thread.join()


def test_the_deploy_succeeds_and_every_acknowledged_write_is_there(psql: Psql) -> None:
    with writing() as client:
        run = play("deploy_8_1a.yml")
    assert run.status == 0, run.output
    assert run.evidence["outcome"] == "deployed"
    (rights,) = [proof for proof in run.evidence["proofs"] if proof["name"] == "preflight.rights"]
    assert (rights["status"], rights["observed"]) == ("pass", "owner (app_owner)")
    assert len(client.acknowledged) > 20
    assert client.errors == []
    assert client.longest_s < LONGEST_ACCEPTABLE_WRITE_S
    there = dict(
        line.split("|") for line in psql.lines("SELECT id, project_id FROM drawings WHERE title LIKE 'live %'")
    )
    assert there == client.acknowledged


MISSING = "checks.no_missing_association"


def verdicts(evidence: dict[str, Any]) -> dict[str, str]:
    return {proof["name"]: proof["status"] for proof in evidence["proofs"] if proof["name"].startswith("checks.")}


def test_what_the_old_code_writes_after_it_is_drift() -> None:
    with writing() as client:
        time.sleep(2)
    assert client.errors == [] and len(client.acknowledged) > 3
    again = play("deploy_8_1a.yml")
    assert (again.status, again.evidence["outcome"]) == (0, "already_deployed"), again.output
    assert verdicts(again.evidence)[MISSING] == "inconclusive"
    assert "drift, which reconcile brings in line" in again.evidence["headline"]


def test_whoever_asks_whether_all_is_true_is_told_of_it() -> None:
    verified = play("verify_8_1a.yml")
    assert (verified.status != 0, verified.evidence["outcome"]) == (True, "failed"), verified.output
    assert verdicts(verified.evidence)[MISSING] == "fail"
    assert "reconcile_8_1a.yml" in verified.evidence["headline"]


def test_a_row_that_went_otherwise_is_damage(psql: Psql) -> None:
    seeded = psql.value(
        "SELECT a.id FROM drawing_project_associations a JOIN drawings d ON d.id = a.drawing_id "
        "WHERE d.title NOT LIKE 'live %' ORDER BY 1 LIMIT 1"
    )
    psql.lines(f"DELETE FROM drawing_project_associations WHERE id = '{seeded}'")
    verified = play("verify_8_1a.yml")
    assert (verified.status != 0, verified.evidence["outcome"]) == (True, "failed"), verified.output
    assert verdicts(verified.evidence)[MISSING] == "fail"
    assert "of which" in verified.output and "drift" in verified.output


def test_reconcile_brings_both_in_line() -> None:
    repaired = play("reconcile_8_1a.yml")
    assert (repaired.status, repaired.evidence["outcome"]) == (0, "already_deployed"), repaired.output
    assert set(verdicts(repaired.evidence).values()) == {"pass"}


def test_it_needed_no_superuser(psql: Psql) -> None:
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert psql.lines(owners) == ["app_owner"]
    assert psql.value("SELECT rolsuper FROM pg_roles WHERE rolname = 'app_owner'") == "f"


def test_its_owner_rolls_it_back_and_restores_it(psql: Psql) -> None:
    drawings = psql.value("SELECT count(*) FROM drawings")
    back = play("rollback_8_1a.yml")
    assert (back.status, back.evidence["outcome"]) == (0, "rolled_back"), back.output
    assert play("deploy_8_1a.yml", *patient()).status == 0
    restored = play("restore_8_1a.yml")
    assert (restored.status, restored.evidence["outcome"]) == (0, "restored"), restored.output
    assert psql.value("SELECT count(*) FROM drawings") == drawings
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
    assert psql.value(owner) == "app_owner"
