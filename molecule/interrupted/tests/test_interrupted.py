"""A deploy is killed at a step; the next one says so, ends deployed, and leaves what an undisturbed one leaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import BACKEND, POSTGRES, ROOT, STATE, Psql, docker, journal, play

JUNCTION = "drawing_project_associations"
ENDED = {"passed", "failed", "refused"}


def reset() -> None:
    subprocess.run(["make", "--no-print-directory", "stack", "RESET=1"], cwd=ROOT, check=True, capture_output=True)


@dataclass(frozen=True)
class State:
    """What a deploy leaves in the database: the catalog's shape, the associations, and every other table."""

    catalog: str
    pairs: list[str]
    others: dict[str, str]

    @classmethod
    def of(cls, psql: Psql) -> State:
        dump = docker("exec", POSTGRES, "pg_dump", "-U", "user", "-d", "drawing_index", "--schema-only")
        tables = psql.fingerprint()
        tables.pop(f"public.{JUNCTION}")
        return cls(
            "\n".join(line for line in dump.splitlines() if not line.startswith(("\\", "--"))),
            psql.lines(f"SELECT drawing_id, project_id FROM {JUNCTION} ORDER BY 1, 2"),
            tables,
        )


@pytest.fixture(scope="module")
def undisturbed(psql: Psql) -> State:
    reset()
    assert play("deploy_8_1a.yml").status == 0
    return State.of(psql)


Kill = Callable[[int], None]


def only_the_controller(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def its_process_group(pid: int) -> None:
    os.killpg(os.getpgid(pid), signal.SIGKILL)


def it_and_all_that_it_started(pid: int) -> None:
    for each in [pid, *descendants(pid)]:
        os.kill(each, signal.SIGKILL)


def descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield int(child)
            yield from descendants(int(child))


def kill_at(step: str, kill: Kill) -> str:
    """Start a deploy, kill it when the step has begun, and return its run."""
    with subprocess.Popen(
        ["ansible-playbook", "deploy_8_1a.yml", "-i", "staging"],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        while process.poll() is None:
            for line in journal() if (STATE / "journal.jsonl").exists() else []:
                if (line["step"], line["event"]) == (step, "started"):
                    kill(process.pid)
                    process.wait()
                    return str(line["run_id"])
            time.sleep(0.02)
    pytest.fail(f"the deploy ended with {process.returncode} before step {step}")


@pytest.mark.parametrize(
    ("step", "kill"),
    [
        ("recovery", only_the_controller),
        ("preflight", it_and_all_that_it_started),
        ("backup", only_the_controller),
        ("backup", it_and_all_that_it_started),
        ("upgrade", only_the_controller),
        ("upgrade", its_process_group),
        ("upgrade", it_and_all_that_it_started),
        ("finalize", its_process_group),
        ("finalize", it_and_all_that_it_started),
        ("checks", only_the_controller),
        ("report", it_and_all_that_it_started),
    ],
)
def test_the_next_deploy_ends_as_if_nothing_had_happened(undisturbed: State, psql: Psql, step: str, kill: Kill) -> None:
    reset()
    killed = kill_at(step, kill)
    after = play("deploy_8_1a.yml")
    assert after.status == 0, after.output
    assert State.of(psql) == undisturbed
    verified = any((line["run_id"], line["step"], line["event"]) == (killed, "verify", "passed") for line in journal())
    assert after.evidence["outcome"] == ("already_deployed" if verified else "deployed")
    told = re.sub(r"\s+", " ", after.output)
    assert re.search(rf"Run {killed} \(deploy, begun \S+ by \S+ on \S+\) was interrupted", told)
    nothing_is_left(psql)


def nothing_is_left(psql: Psql) -> None:
    """No session, lock, database, program, file; and the journal has an end for every beginning."""
    assert psql.lines("SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'dbrelease%'") == []
    assert psql.lines("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []
    assert psql.databases() == ["drawing_index"]
    assert not list(STATE.rglob("*.tmp*")) and not (STATE / "run.lock").exists()
    for dump in STATE.glob("*.dump"):
        assert dump.with_suffix(".manifest.json").exists()
    for container in (POSTGRES, BACKEND):
        assert not re.search("pg_dump|pg_restore|alembic", docker("top", container, "-eo", "pid,args"))
    begun = {(line["run_id"], line["step"]) for line in journal() if line["event"] == "started"}
    ended = {(line["run_id"], line["step"]) for line in journal() if line["event"] in ENDED}
    assert begun <= ended, begun - ended


def test_a_dry_run_says_what_is_left_and_leaves_it(psql: Psql) -> None:
    reset()
    killed = kill_at("upgrade", it_and_all_that_it_started)
    before = (STATE / "journal.jsonl").read_bytes()
    dry = play("deploy_8_1a.yml", "--check")
    assert dry.status == 0, dry.output
    assert f"Run {killed}" in dry.output
    assert (STATE / "journal.jsonl").read_bytes() == before
    assert play("deploy_8_1a.yml").evidence["outcome"] == "deployed"
    again = play("deploy_8_1a.yml")
    assert (again.status, again.evidence["outcome"]) == (0, "already_deployed")
    assert killed not in again.output, "it is told once"
