"""A rehearsal proves a backup, changes nothing on the live database, and leaves no server."""

from __future__ import annotations

import json

from outside import STATE, Psql, docker, newest_evidence, play

LABEL = "label=dbrelease.rehearsal.target"


def left() -> str:
    """Containers and networks of rehearsals."""
    return docker("ps", "--all", "--quiet", "--filter", LABEL) + docker("network", "ls", "--quiet", "--filter", LABEL)


def test_the_backup_is_proved_by_a_restore() -> None:
    evidence = newest_evidence()
    proofs = [(proof["name"], proof["status"]) for proof in evidence["proofs"]]

    assert evidence["outcome"] == "planned"
    assert ("rehearse.restored", "pass") in proofs
    assert ("backup.restorable", "pass") in proofs
    restored = json.loads(max(STATE.glob("*.manifest.json")).read_text())["restored"]
    assert restored["where"] == "container"
    assert restored["restore_ms"] > 0
    assert left() == ""


def test_the_live_database_is_only_read(psql: Psql) -> None:
    before = psql.fingerprint()

    done = play("rehearse_8_1a.yml")

    assert done.status == 0, done.output
    assert psql.fingerprint() == before
    assert psql.left_sessions() == []
    assert left() == ""


def test_a_rehearsal_that_cannot_start_its_server_is_refused_and_leaves_nothing(psql: Psql) -> None:
    before = psql.fingerprint()

    done = play("rehearse_8_1a.yml", "-e", "rehearse_memory_mib=6")

    assert done.status != 0
    assert done.evidence["outcome"] == "refused"
    assert "Rehearsing was refused" in done.output
    assert psql.fingerprint() == before
    assert left() == ""
