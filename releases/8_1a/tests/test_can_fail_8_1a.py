"""Every check that story 8.1a declares, and every guard that counts rows, is made to fail by breaking one row."""

from __future__ import annotations

from typing import Any

import shared_database
import yaml
from ansible.module_utils.dbrelease.postgres.session import Login, Session
from ansible.module_utils.dbrelease.rehearsal.can_fail import KINDS, UNDONE_PROOF, Declared, prove_can_fail
from story_8_1a import RELEASE, ROWS, SCHEMA, execute

database, emptied = shared_database.database, shared_database.emptied

CHECKS: dict[str, Any] = yaml.safe_load((RELEASE / "checks.yml").read_text())
DECLARED: dict[str, Any] = yaml.safe_load((RELEASE / "release.yml").read_text())
GUARDS: list[dict[str, Any]] = DECLARED["rollback"]["guards"]


def test_each_can_be_made_to_fail(session: Session, database: Login, server: Login) -> None:
    execute(session, SCHEMA, ROWS.format(rows=100), "ANALYZE")
    tables = [*DECLARED["tables"]["existing"], *DECLARED["tables"]["created"]]
    proofs = prove_can_fail(database, server, Declared(CHECKS["checks"], GUARDS, tables))
    assert {proof.name: proof.status for proof in proofs} == {
        **{f"rehearse.can_fail.checks.{check['name']}": "pass" for check in CHECKS["checks"]},
        **{f"rehearse.can_fail.guard.{guard['name']}": "pass" for guard in GUARDS if set(KINDS) & set(guard)},
        UNDONE_PROOF: "pass",
    }
    assert all(proof.observed["tries"] > 0 for proof in proofs[:-1])
