"""What story 8.1a declares: every check, scenario and plan is green when all is right, red once its claim is broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import shared_database
import sql_check_info
import yaml
from ansible.module_utils.dbrelease.postgres.declared_checks import plan_checks
from ansible.module_utils.dbrelease.postgres.session import transaction
from ansible.module_utils.dbrelease.verify import plans, scenarios
from story_8_1a import (
    DRAWING,
    OTHER,
    PROJECT_OF_DRAWING,
    PROJECT_OF_OTHER,
    RELEASE,
    ROWS,
    SCHEMA,
    WITHOUT,
    Session,
    execute,
)

database, emptied = shared_database.database, shared_database.emptied

Proofs = dict[str, dict[str, Any]]
DECLARED: dict[str, Any] = yaml.safe_load((RELEASE / "checks.yml").read_text())
CHECKS = [check["name"] for check in DECLARED["checks"]]


@pytest.fixture
def migrated(session: Session) -> Session:
    """The database as the release leaves it."""
    execute(session, SCHEMA, ROWS.format(rows=100), "ANALYZE")
    return session


@pytest.fixture
def verify(login_parameters: dict[str, Any], run_parameters: dict[str, Any]) -> Callable[[], Proofs]:
    """Everything that checks.yml declares, as the verify stage asks it."""

    def run() -> Proofs:
        common = {**login_parameters, "run": run_parameters, "statement_timeout_ms": 30_000}
        asked = [
            sql_check_info.act(
                {
                    **common,
                    "checks": DECLARED["checks"],
                    "drift": "inconclusive",
                    "sample_size": 5,
                    "reconcile_command": "",
                },
                False,
            ),
            scenarios.act({**common, "scenarios": DECLARED["scenarios"], "lock_timeout_ms": 300}, False),
            plans.act({**common, "plans": DECLARED["plans"]}, False),
        ]
        return {proof["name"]: proof for result in asked for proof in result["proofs"]}

    return run


def red(proofs: Proofs) -> set[str]:
    return {name for name, proof in proofs.items() if proof["status"] != "pass"}


@pytest.mark.parametrize("rows", [0, 1, 10, 100, 8000])
def test_all_hold_whatever_the_size(session: Session, verify: Callable[[], Proofs], rows: int) -> None:
    execute(session, SCHEMA, ROWS.format(rows=rows), "ANALYZE")
    for _ in range(2):
        proofs = verify()
        assert red(proofs) == set(), [proof["detail"] for proof in proofs.values()]
    assert set(proofs) == {
        *(f"checks.{name}" for name in CHECKS),
        "scenario.cascade_on_project_delete",
        "plans.drawings_of_a_project",
    }
    assert proofs["plans.drawings_of_a_project"]["observed"]["does"] or rows < 5000


AS_REPLICA = "SET session_replication_role = replica"  # no trigger of a foreign key hinders or mends it
# For each check: what breaks its claim, which other checks see it too, and how many rows it is (None: columns differ).
BREAKS: dict[str, tuple[list[str], set[str], int | None]] = {
    "association_count_matches_source": (
        [f"INSERT INTO drawing_project_associations (drawing_id, project_id) VALUES ({DRAWING}, {PROJECT_OF_OTHER})"],
        {"no_stale_association", "same_sets_both_ways"},
        None,
    ),
    "no_missing_association": (
        [f"DELETE FROM drawing_project_associations WHERE drawing_id IN ({DRAWING}, {OTHER})"],
        {"association_count_matches_source", "same_sets_both_ways"},
        2,
    ),
    "no_stale_association": (
        [f"UPDATE drawings SET project_id = NULL WHERE id = {DRAWING}"],
        {"association_count_matches_source", "same_sets_both_ways"},
        1,
    ),
    "same_sets_both_ways": (
        [
            f"UPDATE drawings SET project_id = {PROJECT_OF_OTHER} WHERE id = {DRAWING}",
            f"UPDATE drawings SET project_id = {PROJECT_OF_DRAWING} WHERE id = {OTHER}",
        ],
        {"no_missing_association", "no_stale_association"},
        4,
    ),
    "no_association_without_drawing": (
        [AS_REPLICA, f"DELETE FROM drawings WHERE id = {DRAWING}"],
        {"association_count_matches_source", "same_sets_both_ways"},
        1,
    ),
    "no_association_without_project": (
        [AS_REPLICA, f"DELETE FROM projects WHERE id = {PROJECT_OF_DRAWING}"],
        set(),
        10,
    ),
}


def test_every_declared_check_is_broken_below() -> None:
    assert sorted(BREAKS) == sorted(CHECKS)


@pytest.mark.parametrize(("name", "broken"), BREAKS.items(), ids=BREAKS)
def test_a_broken_claim_turns_that_very_check_red(
    migrated: Session,
    verify: Callable[[], Proofs],
    name: str,
    broken: tuple[list[str], set[str], int | None],
) -> None:
    statements, also, count = broken
    assert red(verify()) == set()
    execute(migrated, *statements)
    proofs = verify()
    assert red(proofs) == {f"checks.{name}", *(f"checks.{other}" for other in also)}
    proof = proofs[f"checks.{name}"]
    assert proof["status"] == "fail"
    if count is None:
        assert proof["observed"] == {"drawings_with_project_id": 90, "associations_in_junction": 91}
    else:
        assert proof["observed"] == count
        assert len(proof["sample"]) == min(count, 5)


def test_equal_counts_of_different_sets_do_not_pass(migrated: Session, verify: Callable[[], Proofs]) -> None:
    execute(
        migrated,
        f"DELETE FROM drawing_project_associations WHERE drawing_id = {DRAWING}",
        f"INSERT INTO drawing_project_associations (drawing_id, project_id) VALUES ({WITHOUT}, {PROJECT_OF_DRAWING})",
    )
    proofs = verify()
    assert proofs["checks.association_count_matches_source"]["status"] == "pass"
    sides = {row["side"] for row in proofs["checks.same_sets_both_ways"]["sample"]}
    assert sides == {"only in drawings", "only in the junction table"}


def test_no_two_drawings_can_exchange_their_projects_unseen(migrated: Session) -> None:
    """A sum of hashes that is linear in the columns sees such an exchange by chance only."""
    sql = next(check["violations"] for check in DECLARED["checks"] if check["name"] == "same_sets_both_ways")
    pairs = """
    SELECT one.drawing_id, other.drawing_id FROM drawing_project_associations one
    JOIN drawing_project_associations other ON one.drawing_id < other.drawing_id AND one.project_id <> other.project_id
    ORDER BY 1, 2 LIMIT 40
    """
    exchange = """
    UPDATE drawing_project_associations one SET project_id = other.project_id FROM drawing_project_associations other
    WHERE (one.drawing_id, other.drawing_id) IN ((%(one)s, %(other)s), (%(other)s, %(one)s))
    """
    with migrated.cursor() as cursor:
        cursor.execute(pairs)
        for one, other in cursor.fetchall():
            cursor.execute("BEGIN")
            cursor.execute(exchange, {"one": one, "other": other})
            cursor.execute(f"SELECT count(*) FROM ({sql}) AS found")
            assert cursor.fetchone() == (4,)
            cursor.execute("ROLLBACK")


FOREIGN_KEY = "drawing_project_associations_project_id_fkey"
ANEW = f"DROP CONSTRAINT {FOREIGN_KEY}, ADD CONSTRAINT {FOREIGN_KEY} FOREIGN KEY (project_id) REFERENCES projects"
BROKEN_CASCADES = {
    "no foreign key": f"DROP CONSTRAINT {FOREIGN_KEY}",
    "no action": ANEW,
    "restrict": f"{ANEW} ON DELETE RESTRICT",
    "set null": f"{ANEW} ON DELETE SET NULL",
}


@pytest.mark.parametrize("change", BROKEN_CASCADES.values(), ids=BROKEN_CASCADES)
def test_a_cascade_that_does_not_work_turns_the_scenario_red(
    migrated: Session, verify: Callable[[], Proofs], change: str
) -> None:
    execute(migrated, f"ALTER TABLE drawing_project_associations {change}")
    assert red(verify()) == {"scenario.cascade_on_project_delete"}


def test_a_drawing_that_goes_with_its_project_turns_the_scenario_red(
    migrated: Session, verify: Callable[[], Proofs]
) -> None:
    execute(
        migrated,
        "ALTER TABLE drawings DROP CONSTRAINT drawings_project_id_fkey,"
        " ADD FOREIGN KEY (project_id) REFERENCES projects ON DELETE CASCADE",
    )
    proofs = verify()
    assert red(proofs) == {"scenario.cascade_on_project_delete"}
    assert "drawings was 0, expected 1" in proofs["scenario.cascade_on_project_delete"]["detail"]


BROKEN_INDEXES = {
    "dropped": "DROP INDEX idx_dpa_project_id",
    "invalid": "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_dpa_project_id'::regclass",
    "on another column": (
        "DROP INDEX idx_dpa_project_id; CREATE INDEX idx_dpa_project_id ON drawing_project_associations (assigned_by)"
    ),
}


@pytest.mark.parametrize("rows", [100, 8000])
@pytest.mark.parametrize("change", BROKEN_INDEXES.values(), ids=BROKEN_INDEXES)
def test_an_index_that_cannot_serve_turns_the_plan_red(
    session: Session, verify: Callable[[], Proofs], change: str, rows: int
) -> None:
    execute(session, SCHEMA, ROWS.format(rows=rows), "ANALYZE", change)
    assert red(verify()) == {"plans.drawings_of_a_project"}


def test_a_missing_junction_table_turns_all_red_but_breaks_nothing(
    migrated: Session, verify: Callable[[], Proofs]
) -> None:
    execute(migrated, "DROP TABLE drawing_project_associations")
    proofs = verify()
    assert red(proofs) == set(proofs)
    assert all(proof["remedy"] for proof in proofs.values())


def test_the_server_can_plan_every_declared_query(migrated: Session) -> None:
    statements = [
        {
            "name": entry["name"],
            "title": entry["title"],
            "sql": entry.get("violations") or entry.get("equal") or entry["sql"],
        }
        for entry in (*DECLARED["observations"], *DECLARED["checks"], *DECLARED["plans"])
    ]
    with transaction(migrated, read_only=True, commit=False) as cursor:
        assert [proof.status for proof in plan_checks(cursor, statements)] == ["pass"] * len(statements)
