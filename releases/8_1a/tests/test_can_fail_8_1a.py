"""Every check and guard of the database of story 8.1a is made to fail by one row or one object."""

from __future__ import annotations

from typing import Any

import shared_database
import yaml
from ansible.module_utils.dbrelease.postgres.session import Login, Session
from ansible.module_utils.dbrelease.rehearsal.can_fail import UNDONE_PROOF, Declared, prove_can_fail
from ansible.module_utils.dbrelease.release.guard_kinds import KINDS_OF_DATABASE, kind_of
from ansible.module_utils.dbrelease.rollback.guards import all_guards
from story_8_1a import RELEASE, ROWS, SCHEMA, execute

database, emptied = shared_database.database, shared_database.emptied

CHECKS: dict[str, Any] = yaml.safe_load((RELEASE / "checks.yml").read_text())
DECLARED: dict[str, Any] = yaml.safe_load((RELEASE / "release.yml").read_text())
GUARDS: list[dict[str, Any]] = DECLARED["rollback"]["guards"]


def test_each_can_be_made_to_fail(session: Session, database: Login, server: Login) -> None:
    execute(session, SCHEMA, ROWS.format(rows=100), "ANALYZE")
    tables = [*DECLARED["tables"]["existing"], *DECLARED["tables"]["created"]]
    guards = all_guards(GUARDS, DECLARED["tables"]["created"], {}, "")
    proofs = prove_can_fail(database, server, Declared(CHECKS["checks"], guards, tables))
    assert {proof.name: proof.status for proof in proofs} == {
        **{f"rehearse.can_fail.checks.{check['name']}": "pass" for check in CHECKS["checks"]},
        **{
            f"rehearse.can_fail.guard.{guard['name']}": "pass"
            for guard in guards
            if kind_of(guard) in KINDS_OF_DATABASE
        },
        UNDONE_PROOF: "pass",
    }
    assert all(proof.observed["tries"] > 0 for proof in proofs[:-1])
