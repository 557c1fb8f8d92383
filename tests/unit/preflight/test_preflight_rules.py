"""The judges of preflight alone: tables from what was seen to a verdict, also for what a test cannot set up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.proof import Proof
from ansible.module_utils.dbrelease.host.http import Answer
from ansible.module_utils.dbrelease.host.inspect import Service
from ansible.module_utils.dbrelease.migrate.alembic_probe import AlembicSession
from ansible.module_utils.dbrelease.postgres import client_tools
from ansible.module_utils.dbrelease.preflight import lineage, places, rules_target
from ansible.module_utils.dbrelease.preflight.facts import (
    Facts,
    Locks,
    Migrator,
    Payload,
    Rights,
    StateDir,
    Table,
    Unseen,
)
from ansible.module_utils.dbrelease.preflight.judge import RULES, is_begun, judge, state_of, summary
from ansible.module_utils.dbrelease.preflight.rules_server import blockers
from ansible.module_utils.dbrelease.preflight.rules_target import migration_role, session_settings
from ansible.module_utils.dbrelease.preflight.unreconciled import is_cut_short
from ansible.module_utils.dbrelease.preflight.verdicts import TITLES
from ansible.module_utils.dbrelease.release import requirements as demanded
from ansible.module_utils.dbrelease.release.requirements import Demands
from preflight_facts import DEMANDS, DESTINATION, HEALTHY, MIB, PLANNED, SEEN
from preflight_world import HISTORY, NEWER, OLDER, OWN, START, release

DEPLOYED = replace(
    HEALTHY,
    database=replace(
        SEEN,
        revisions=[OWN],
        tables={
            **SEEN.tables,
            "orders": Table("p", ("id", "account_id", "title", "closed_at", "code"), 2),
            "order_items": Table("r", ("order_id",), 3),
        },
    ),
    heads=[OWN],
    current=[OWN],
    payload=Payload({DESTINATION: DEMANDS.payload[0].sha256}, (DESTINATION,)),
)


def seen(**changes: Any) -> Facts:
    return replace(HEALTHY, database=replace(SEEN, **changes))


def red(facts: Facts) -> set[str]:
    return {proof.name.removeprefix("preflight.") for proof in judge(DEMANDS, facts) if proof.status == "fail"}


def test_every_rule_has_a_title_and_a_proof_in_every_result() -> None:
    assert list(TITLES) == list(RULES)
    for facts in (HEALTHY, DEPLOYED, replace(HEALTHY, database=Unseen("It is down."))):
        assert [proof.name for proof in judge(DEMANDS, facts)] == [f"preflight.{rule}" for rule in RULES]


STATES = [
    (HEALTHY, "ready"),
    (DEPLOYED, "deployed"),
    (seen(standby=True), "refused"),
    (seen(revisions=[OWN]), "refused"),
]


@pytest.mark.parametrize(("facts", "expected"), STATES)
def test_state(facts: Facts, expected: str) -> None:
    assert state_of(DEMANDS, facts, judge(DEMANDS, facts)) == expected


# What a test of the real thing could set up only with another server, or only slowly.
RED: dict[str, tuple[Facts, str]] = {
    "standby": (seen(standby=True), "server"),
    "commits that do not return": (seen(endless_commit="Each commit waits for 1 synchronous standby."), "server"),
    "old server": (seen(major=13, version="13.9"), "server"),
    "older dump tool": (replace(HEALTHY, tools={"pg_dump": "14.9", "pg_restore": "15.4"}), "dump_tools"),
    "dump tool that no restore goes with": (replace(HEALTHY, tools={"pg_dump": "17.2"}), "dump_tools"),
    "tools that are not there": (replace(HEALTHY, tools=Unseen("No pg_dump: install it.")), "dump_tools"),
    "prepared transaction": (
        seen(prepared=[{"gid": "x", "user": "u", "since": "2026-01-02"}]),
        "prepared_transactions",
    ),
    "more tables than the server has locks": (seen(locks=Locks(9000, 7800, 64)), "dump_locks"),
    "a vacuum against wraparound": (
        seen(vacuums=[{"pid": 7, "table": "public.orders", "since": "now", "wraparound": True, "percent": 4}]),
        "vacuum",
    ),
    "an index there already": (seen(early_indexes=["uq_code"]), "indexes"),
    "triggers are off": (
        seen(settings=[{"name": "session_replication_role", "value": "replica", "whom": "every role"}]),
        "settings",
    ),
    "a password that expires": (seen(expiring=[{"role": "shop", "until": "2026-01-02T23:00:00Z"}]), "rights"),
    "table that db_user may not read": (seen(rights=Rights("deployer", False, unreadable=("orders",))), "rights"),
    "materialized view": (seen(tables={**SEEN.tables, "orders": Table("m", ("id",), 2)}), "tables"),
    "no room for the dump by one byte": (
        replace(HEALTHY, state_dir=StateDir("/state", 144 * MIB - 1)),
        "dump_room",
    ),
    "no room for the table by one byte": (replace(HEALTHY, table_free_bytes=114 * MIB - 1), "table_room"),
    "no room for the table and a log that is kept": (
        replace(seen(kept_log="The server keeps its log."), table_free_bytes=114 * MIB),
        "table_room",
    ),
    "no room for both on one disk": (
        replace(HEALTHY, table_free_bytes=194 * MIB - 1, state_dir=StateDir("/state", 194 * MIB)),
        "table_room",
    ),
    "state directory of another user": (
        replace(HEALTHY, state_dir=StateDir("/state", 1000 * MIB, foreign="/state is a link: move.")),
        "state_dir",
    ),
    "state directory": (
        replace(HEALTHY, state_dir=StateDir("/state", 1000 * MIB, "It is read-only: move.")),
        "dump_room",
    ),
    "link that leads out of the folder": (replace(HEALTHY, payload=Payload({DESTINATION: "outside"})), "payload"),
    "folder that is read-only": (replace(HEALTHY, payload=Payload({DESTINATION: "read_only"})), "payload"),
    "file that cannot be read": (replace(HEALTHY, payload=Payload({DESTINATION: "unreadable"})), "payload"),
    "deployed, and its files lost": (
        replace(DEPLOYED, heads=[START], current=Unseen("It cannot locate it."), payload=HEALTHY.payload),
        "history",
    ),
    "two heads": (seen(revisions=[START, OLDER]), "revision"),
    "bookkeeping that cannot be read": (seen(revisions=Unseen("Denied: grant it.")), "revision"),
    "API that redirects": (replace(HEALTHY, answers={"orders": Answer(1.0, 302, note=", a redirect")}), "api"),
    "database that is down": (replace(HEALTHY, database=Unseen("It is down: start it.")), "database"),
    "table there already": (
        seen(tables={**SEEN.tables, "order_items": Table("r", ("id",), 9)}, created_rows={"order_items": 2}),
        "created_absent",
    ),
    "name of an index there already": (
        seen(taken=[{"needs": "order_items", "name": "ix_items", "kind": "i", "of": "kept"}]),
        "created_absent",
    ),
    "column there already": (
        seen(tables={**SEEN.tables, "orders": Table("r", ("id", "account_id", "note", "code"), 2)}),
        "added_absent",
    ),
    "column to drop is missing": (
        seen(tables={**SEEN.tables, "orders": Table("p", ("id", "account_id", "title"), 2)}),
        "removed_present",
    ),
    "an operator of a stranger": (
        seen(planted=[{"kind": "operator", "schema": "public", "name": "=", "owner": "nobody"}]),
        "strangers",
    ),
    "query that cannot be planned": (
        replace(HEALTHY, planned=[*PLANNED[1:], Proof("x", "", "fail", detail="no such column (42703).")]),
        "checks_plan",
    ),
    "old transaction": (
        seen(
            old_transactions=[
                {
                    "pid": 7,
                    "user": "u",
                    "application": "a",
                    "state": "idle in transaction",
                    "since": "2026-01-02",
                    "tables": ["orders"],
                    "query": "SELECT ?",
                }
            ]
        ),
        "old_transactions",
    ),
    "staging of another release": (
        replace(HEALTHY, staging={"release": "other", "outcome": "deployed"}),
        "staging_evidence",
    ),
    "settings that a pooler refuses": (
        replace(HEALTHY, session_refused="FATAL:  unsupported startup parameter: options"),
        "session_settings",
    ),
    "a role without rights to create": (
        replace(HEALTHY, migrator=Migrator("app_rw", ("create tables in the schema public",))),
        "migration_role",
    ),
    "service that never starts": (replace(HEALTHY, services={"db": Service("x", "running", "starting")}), "services"),
}


SESSION = AlembicSession("dbrelease-probe-x", "arrived", "500", "app_rw", "shop")


@pytest.mark.parametrize(
    ("session", "status", "said"),
    [
        (SESSION, "pass", ""),
        (replace(SESSION, lock_timeout="0", probe=""), "inconclusive", "lock_timeout, dbrelease.* did not reach"),
        (replace(SESSION, application_name="app"), "inconclusive", "application_name did not reach"),
        (None, "inconclusive", "can be read only from"),
    ],
)
def test_settings_that_do_not_reach_alembic(session: AlembicSession | None, status: str, said: str) -> None:
    for demands in (DEMANDS, replace(DEMANDS, rollback_sql=True)):
        proof = session_settings(demands, replace(HEALTHY, session=session))
        assert (proof.status, said in proof.detail) == (status, True)
        counted = session is not None and not session.probe
        assert ("rollback_method=sql" in proof.detail) is (counted and demands.rollback_sql)


def test_the_declared_role_is_that_of_alembic() -> None:
    facts = replace(HEALTHY, session=SESSION, migrator=Migrator("app_rw"))
    assert migration_role(DEMANDS, facts).status == "pass"
    proof = migration_role(replace(DEMANDS, role="owner"), facts)
    assert (proof.status, proof.detail) == ("fail", "Alembic connects as app_rw, but migration.role is owner.")


def test_what_alembic_needs_is_given_by_the_inventory() -> None:
    demands = replace(DEMANDS, environment=("POSTGRES_USER", "POSTGRES_PASSWORD"))
    facts = replace(HEALTHY, environment=("POSTGRES_USER",))
    assert "no value for POSTGRES_PASSWORD," in migration_role(demands, facts).detail
    assert migration_role(demands, replace(facts, environment=demands.environment)).status == "pass"


@pytest.mark.parametrize(("container", "said"), [("db", True), ("backend", False)])
def test_a_one_shot_service_is_refused_with_what_is_supported(container: str, said: bool) -> None:
    facts = replace(HEALTHY, services={"db": Service("shop_migrate", "exited")})
    proof = rules_target.services(replace(DEMANDS, container=container), facts)
    assert proof.status == "fail"
    for words in ("do not start it again", "--name shop_migrate --entrypoint sleep SERVICE infinity"):
        assert (words in proof.detail) is said


def test_every_rule_is_broken_above() -> None:
    assert {rule for _, rule in RED.values()} == set(RULES) - {"restorable"}, "which is red where it is required"


@pytest.mark.parametrize(("facts", "rule"), RED.values(), ids=RED.keys())
def test_that_very_rule_is_red(facts: Facts, rule: str) -> None:
    assert red(facts) == {rule}


NOT_RED: dict[str, tuple[Facts, str, str]] = {
    "just enough room for the dump": (replace(HEALTHY, state_dir=StateDir("/state", 144 * MIB)), "dump_room", "pass"),
    "just enough room for both on one disk": (
        replace(HEALTHY, table_free_bytes=194 * MIB, state_dir=StateDir("/state", 194 * MIB)),
        "table_room",
        "pass",
    ),
    "state directory that others reach": (
        replace(HEALTHY, state_dir=StateDir("/state", 1000 * MIB, near=("it is in a work tree",))),
        "state_dir",
        "pass",
    ),
    "just enough room for the table": (replace(HEALTHY, table_free_bytes=114 * MIB), "table_room", "pass"),
    "an ordinary vacuum": (
        seen(vacuums=[{"pid": 7, "table": "public.orders", "since": "now", "wraparound": False, "percent": None}]),
        "vacuum",
        "pass",
    ),
    "an invalid index that is nobody's": (
        seen(invalid_indexes=[{"name": "public.x", "bare": "x", "table": "public.orders", "relation": 2}]),
        "indexes",
        "inconclusive",
    ),
    "a timeout that is set for everyone": (
        seen(settings=[{"name": "statement_timeout", "value": "1s", "whom": "every role"}]),
        "settings",
        "pass",
    ),
    "disk that cannot be seen": (
        replace(HEALTHY, table_free_bytes=Unseen("No container.")),
        "table_room",
        "inconclusive",
    ),
    "payload there already": (
        replace(HEALTHY, heads=[OWN], payload=Payload({DESTINATION: DEMANDS.payload[0].sha256}, (DESTINATION,))),
        "payload",
        "pass",
    ),
    "the files go on after the release": (
        replace(HEALTHY, heads=[NEWER], history={OWN: (START,), NEWER: (OWN,), START: ()}),
        "history",
        "pass",
    ),
    "head is the release's own": (replace(HEALTHY, heads=[OWN]), "history", "pass"),
    "no health check": (replace(HEALTHY, services={"db": Service("x", "running", "none")}), "services", "pass"),
    "a schema that is open to everyone": (
        seen(open_schemas=[{"schema": "public", "roles": ["PUBLIC"]}]),
        "strangers",
        "inconclusive",
    ),
    "db_user is a superuser": (seen(superuser=True), "strangers", "pass"),
    "hidden transactions": (seen(hidden=2), "old_transactions", "inconclusive"),
    "table locked while planning": (
        replace(HEALTHY, planned=[*PLANNED[1:], Proof("x", "", "fail", detail="canceled (55P03).")]),
        "checks_plan",
        "inconclusive",
    ),
    "altered table locked while planning": (
        replace(HEALTHY, planned=Unseen("Planning the declared queries failed (canceled (55P03)): it is locked.")),
        "checks_plan",
        "inconclusive",
    ),
    "db_user that owns everything": (seen(rights=Rights("shop", False, owner="shop")), "rights", "pass"),
    "db_user that makes no databases": (seen(rights=Rights("shop", False, False)), "restorable", "inconclusive"),
    "db_user that owns no database": (seen(rights=Rights("shop", False, True, False)), "restorable", "inconclusive"),
    "tables of another role": (
        seen(rights=Rights("deployer", False, strangers={"shop": ("orders",)})),
        "rights",
        "inconclusive",
    ),
    "backend that may not act as the owner": (
        replace(seen(rights=Rights("shop", False, owner="shop")), backend_takes_owner=False),
        "rights",
        "inconclusive",
    ),
    "no address of the API": (replace(HEALTHY, answers={}), "api", "skipped"),
    "deployed, room does not matter": (
        replace(DEPLOYED, state_dir=StateDir("/s", 0), table_free_bytes=0),
        "dump_room",
        "skipped",
    ),
    "backend is stopped": (replace(HEALTHY, current=Unseen("It is exited.", "services")), "revision", "pass"),
}


@pytest.mark.parametrize(("facts", "rule", "status"), NOT_RED.values(), ids=NOT_RED.keys())
def test_that_is_no_reason_to_refuse(facts: Facts, rule: str, status: str) -> None:
    assert red(facts) == set()
    assert {proof.status for proof in judge(DEMANDS, facts) if proof.name == f"preflight.{rule}"} == {status}


def test_release_without_optional_sections_demands_little() -> None:
    bare = {
        "release": "bare",
        "migration": {"command": ["alembic"], "from_revision": START, "to_revision": OWN},
        "tables": {"existing": {"accounts": ["id"]}},
    }
    proofs = {proof.name: proof.status for proof in judge(Demands.of(bare), replace(HEALTHY, planned=[]))}
    assert "fail" not in proofs.values()
    assert {name for name, status in proofs.items() if status == "skipped"} == {
        f"preflight.{rule}"
        for rule in (
            "services",
            "created_absent",
            "added_absent",
            "removed_present",
            "payload",
            "api",
            "staging_evidence",
        )
    }


def test_a_table_that_is_left_over_names_the_command_that_drops_it() -> None:
    data = {**release(Path("/srv/backend")), "commands": {"reconcile": "reconcile -i {environment}"}}
    for demands, named in (
        (Demands.of(data, "staging"), "`reconcile -i staging`"),
        (DEMANDS, "the playbook reconcile"),
    ):
        (table,) = demands.created
        facts = seen(tables={**SEEN.tables, table: Table("r", ("id",), 9)}, created_rows={table: 2})
        (proof,) = [proof for proof in judge(demands, facts) if proof.name == "preflight.created_absent"]
        assert named in proof.remedy


def test_summary_has_the_same_keys_whatever_was_seen() -> None:
    nothing = Unseen("It is down.")
    blind = replace(
        HEALTHY, database=nothing, heads=nothing, current=nothing, tools=nothing, payload=nothing,
        table_free_bytes=nothing, answers=nothing, planned=nothing,
    )  # fmt: skip
    assert summary(blind).keys() == summary(HEALTHY).keys()


# As Alembic prints it: of a merge, of a branch, and between log lines.
HISTORIES = [
    (HISTORY, {NEWER: (START,), START: (OLDER,), OLDER: ()}),
    (f"{OLDER}, {START} -> {NEWER} (head) (mergepoint), Merge\n", {NEWER: (OLDER, START)}),
    (f"{OLDER} (branchpoint) -> {START}, Branch\nINFO  [x] Context impl.\n", {START: (OLDER,)}),
    ("", {}),
]


@pytest.mark.parametrize(("text", "expected"), HISTORIES)
def test_history_is_read(text: str, expected: dict[str, tuple[str, ...]]) -> None:
    assert places.parse_history(text) == expected


STANDINGS = [
    (OLDER, START, "older"),
    (NEWER, START, "newer"),
    ("eeee", START, "unknown"),
    ("ffff", START, "beside"),
    (OLDER, NEWER, "older"),
]


@pytest.mark.parametrize(("found", "start", "expected"), STANDINGS)
def test_standing_of_a_revision(found: str, start: str, expected: str) -> None:
    history = {**places.parse_history(HISTORY), "ffff": (OLDER,)}
    assert lineage.standing_of(found, start, history) == expected


@pytest.mark.parametrize(("version", "major"), [("15.18", 15), ("18beta1", 18), ("9.6.24", 9), ("17", 17)])
def test_major_version(version: str, major: int) -> None:
    assert client_tools.major_of(version) == major


def test_placeholders_become_null() -> None:
    assert demanded.without_placeholders("a = %(one)s AND b LIKE '5%%'") == "a = NULL AND b LIKE '5%'"


VERIFIED = [("upgrade", "started"), ("upgrade", "passed"), ("verify", "passed")]


@pytest.mark.parametrize(
    ("events", "begun"),
    [
        pytest.param([], False, id="deployed by hand"),
        pytest.param([*VERIFIED, ("run", "interrupted")], True, id="verified, and cut short before its end"),
        pytest.param([*VERIFIED, ("run", "passed"), ("run", "interrupted")], True, id="settled twice"),
        pytest.param([*VERIFIED, ("run", "interrupted"), ("verify", "passed")], False, id="verified after that"),
        pytest.param([("verify", "passed"), ("run", "interrupted")], False, id="cut short while it only verified"),
        pytest.param([("finalize", "started"), ("run", "interrupted")], True, id="cut short while it finished another"),
        pytest.param([("upgrade", "started")], True, id="killed in the upgrade"),
        pytest.param([("upgrade", "started"), ("upgrade", "failed")], True, id="settled, and not verified"),
        pytest.param([("upgrade", "started"), ("upgrade", "passed"), ("verify", "failed")], True, id="found amiss"),
        pytest.param([("upgrade", "started"), ("upgrade", "passed"), ("verify", "passed")], False, id="verified"),
        pytest.param([("upgrade", "started"), ("downgrade", "passed")], False, id="taken back"),
        pytest.param([("verify", "passed"), ("upgrade", "started")], True, id="verified before, begun again"),
        pytest.param([("upgrade", "skipped")], False, id="there already"),
    ],
)
def test_a_release_is_unfinished_until_it_is_verified(events: list[tuple[str, str]], begun: bool) -> None:
    whose = {"run_id": "x", "release": "a", "environment": "b"}
    lines = [
        {**whose, "step": step, "event": event.replace("interrupted", "failed"), "facts": {event: True}}
        for step, event in events
    ]
    assert is_begun(lines, "a", "b") is begun
    assert not is_begun(lines, "a", "elsewhere")


CUT_SHORT = [("reconcile", "started"), ("reconcile", "failed"), ("run", "failed")]


@pytest.mark.parametrize(
    ("events", "cut_short"),
    [
        pytest.param([], False, id="none"),
        pytest.param([("reconcile", "started")], True, id="killed, and seen by check mode"),
        pytest.param(CUT_SHORT, True, id="killed, and settled"),
        pytest.param([*CUT_SHORT, ("verify", "failed")], True, id="found amiss"),
        pytest.param([*CUT_SHORT, *CUT_SHORT], True, id="killed again"),
        pytest.param([("reconcile", "started"), ("reconcile", "passed")], False, id="at its end"),
        pytest.param([*CUT_SHORT, ("reconcile", "started"), ("reconcile", "passed")], False, id="finished"),
        pytest.param([*CUT_SHORT, ("verify", "passed")], False, id="verified since"),
        pytest.param([*CUT_SHORT, ("rolled_back", "passed")], False, id="taken back since"),
    ],
)
def test_a_reconcile_is_cut_short_until_one_passes(events: list[tuple[str, str]], cut_short: bool) -> None:
    lines = [{"release": "a", "environment": "b", "step": step, "event": event} for step, event in events]
    assert is_cut_short(lines, "a", "b") is cut_short
    assert not is_cut_short(lines, "a", "elsewhere")


def test_only_what_is_there_can_be_unfinished() -> None:
    for facts, expected in ((HEALTHY, "ready"), (DEPLOYED, "unfinished")):
        assert state_of(DEMANDS, facts, judge(DEMANDS, facts), begun=True) == expected


@pytest.mark.parametrize(
    ("declared", "may", "status", "said"),
    [
        ({"end_idle_in_transaction": 60}, {}, "inconclusive", "only with pg_signal_backend and pg_read_all_stats."),
        ({"end_idle_in_transaction": 60}, {"sessions": True}, "inconclusive", "only with pg_read_all_stats."),
        ({"end_idle_in_transaction": 60}, {"sessions": True, "states": True}, "pass", "a superuser's session."),
        ({"cancel_autovacuum": True}, {}, "pass", "is canceled by the server, after deadlock_timeout."),
        ({"cancel_autovacuum": True, "end_idle_in_transaction": 9}, {"superuser": True}, "pass", ""),
    ],
)
def test_what_db_user_may_not_do_about_blockers(declared: Any, may: Any, status: str, said: str) -> None:
    facts = replace(HEALTHY, database=replace(SEEN, signals=may))
    (proof,) = blockers(replace(DEMANDS, blockers=declared), facts)
    assert proof.status == status and proof.detail.endswith(said)
    assert bool(proof.remedy) == (status == "inconclusive")


def test_where_nothing_may_be_done_about_blockers_no_right_is_needed() -> None:
    assert blockers(DEMANDS, HEALTHY) == []
