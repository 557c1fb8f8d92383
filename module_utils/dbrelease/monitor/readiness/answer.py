"""Gather the input of the criteria, and combine their verdicts into one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...core.clock import SECOND_NS
from ...core.errors import ReleaseError
from ...core.history import Before, Memory
from ...core.journal import Run, last_facts
from ...core.own_files import kept_in
from ...core.proof import Proof
from ...postgres.catalog import read_back
from ...postgres.declared_checks import read_checks
from ...postgres.session import Login
from . import backup, criteria

STATEMENT_TIMEOUT_MS = 600_000
SAMPLE_SIZE = 5


def judge(
    lines: list[dict[str, Any]],
    run: Run,
    login: Login,
    release: Mapping[str, Any],
    *,
    restore: bool,
    db_container: str,
    timeout_s: int,
    now_ns: int,
) -> list[Proof]:
    """A proof for each criterion; raises ReleaseError where there is none, or the database cannot be read."""
    readiness, monitoring = release.get("readiness"), release.get("monitoring") or {}
    if not readiness:
        raise ReleaseError(
            f"Judging the readiness after {run.release} was refused: the release declares no `readiness`.", refused=True
        )
    memory = Memory.of(lines, run)
    samples = memory.since(now_ns - readiness["stable_seconds"] * SECOND_NS)
    facts = last_facts(lines, release=run.release, environment=run.environment, step="backup")
    kept, manifest = backup.kept(facts, run.state_dir)
    drifting = [check for check in release.get("checks") or () if check["name"] in (monitoring.get("drift") or ())]
    seen = (
        read_checks(
            login, drifting, proved={}, drift="fail", statement_timeout_ms=STATEMENT_TIMEOUT_MS, sample_size=SAMPLE_SIZE
        )[0]
        if drifting
        else []
    )
    structure = read_back(login, release["tables"], release["migration"]["to_revision"], login.version_table)
    at_revision = any(proof.name == "structure.revision" and proof.status == "pass" for proof in structure)
    path = str(kept_in(run.state_dir, (facts or {}).get("path", "")))
    return [
        criteria.stable(memory, readiness, monitoring.get("limits"), now_ns, at_revision=at_revision),
        criteria.no_errors(memory, readiness, [log["name"] for log in monitoring.get("logs") or ()], now_ns),
        criteria.performance(samples, monitoring.get("latency"), Before.of(lines, run).endpoints),
        kept,
        backup.restorable(manifest, path, login, db_container, run.run_id, now=restore, timeout_s=timeout_s),
        criteria.drift(seen),
        criteria.constraints(structure),
    ]


def answer(proofs: Sequence[Proof]) -> tuple[bool, str]:
    """Whether no criterion failed or is inconclusive; and the reasons against it, one sentence for each."""
    unmet = [proof for proof in proofs if proof.status not in ("pass", "skipped")]
    reasons = [
        f"{number}) {proof.title}: {proof.detail} {proof.remedy}".strip() for number, proof in enumerate(unmet, start=1)
    ]
    return not unmet, " ".join(reasons)
