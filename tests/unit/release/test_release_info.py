"""A release is refused as a whole, with every problem named, before anything is touched."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import release_info
import yaml
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.release.load import load

ROOT = Path(__file__).resolve().parents[3]
SCHEMAS = ROOT / "schemas"
DATA = Path(__file__).parent / "data"
WHOLE = DATA / "shop_7"  # a release with every section
SMALL = DATA / "small"  # one without API, services, payload, finalize, checklist, scenarios, plans or created tables
PROBLEMS = yaml.safe_load((DATA / "release_problems.yml").read_text(encoding="utf-8"))
REMOVED = object()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the whole release, to break."""
    shutil.copytree(WHOLE, tmp_path / "releases" / "shop_7")
    return tmp_path / "releases" / "shop_7"


def change(folder: Path, path: str, value: Any) -> None:
    """Change one value, `release.migration.lock.timeout_ms`, or take it away."""
    name, *parts = path.split(".")
    file = folder / f"{name}.yml"
    document = copy.deepcopy(yaml.safe_load(file.read_text(encoding="utf-8")))
    place = document
    *way, last = [int(part) if part.isdigit() else part for part in parts]
    for part in way:
        place = place[part]
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def refusal(folder: Path) -> list[str]:
    """What a release is refused for: `release.yml: key: expected ..., found ...`."""
    with pytest.raises(ReleaseError) as caught:
        load(folder, SCHEMAS)
    assert caught.value.refused
    problems = caught.value.facts["problems"]
    sentences = [
        f"{problem['file']}: {problem['key']}: expected {problem['expected']}, found {problem['found']}."
        for problem in problems
    ]
    assert caught.value.message == " ".join(sentences).replace(": : ", ": ")
    return [sentence.removeprefix(f"releases/{folder.name}/") for sentence in sentences]


@pytest.mark.parametrize("case", PROBLEMS, ids=lambda case: f"{case['change']}={str(case.get('to', 'removed'))[:20]}")
def test_a_problem_is_named_by_file_key_expectation_and_finding(folder: Path, case: dict[str, Any]) -> None:
    change(folder, case["change"], case.get("to", REMOVED) if "to" in case else REMOVED)
    file = case["change"].split(".")[0]
    assert f"{file}.yml: {case['key']}: expected {case['expected']}, found {case['found']}." in refusal(folder)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("release: [a\n", "line 2: expected YAML, found an error: expected ',' or ']', but got '<stream end>'."),
        ("a:\n\t- b\n", r"line 2: expected YAML, found an error: found character '\t' that cannot start any token."),
        ("a: !!python/name:os.system\n", "line 1: expected YAML, found an error: could not determine a constructor"),
        ("a: b\n---\nc: d\n", "line 2: expected YAML, found an error: but found another document."),
        ("", ": expected a mapping, found nothing."),
        ("just text\n", ": expected a mapping, found `just text`."),
        ("- a\n- list\n", ": expected a mapping, found a list."),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_the_one_problem(folder: Path, text: str, problem: str) -> None:
    (folder / "release.yml").write_text(text, encoding="utf-8")
    (found,) = refusal(folder)
    assert found.startswith(f"release.yml: {problem}")


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("title: again\n", "expected each key once, found `title`, which is already on line {first}."),
        ("on: now\n", "expected a key that is text, found on."),
        ("7: seven\n", "expected a key that is text, found 7."),
        ("[a, b]: c\n", "expected a key that is text, found "),
        ("half: .nan\n", "expected a finite number, found .nan."),
    ],
)
def test_what_a_lenient_reader_would_take_is_refused_with_its_line(folder: Path, more: str, problem: str) -> None:
    file = folder / "release.yml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text + more, encoding="utf-8")
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines, start=1) if line.startswith("title:"))
    wanted = f"release.yml: line {len(lines) + 1}: {problem.format(first=first)}"
    assert any(found.startswith(wanted) for found in refusal(folder))


def test_all_problems_of_both_files_show_at_once(folder: Path) -> None:
    change(folder, "release.colour", "red")
    change(folder, "release.migration.lock.attempts", 0)
    change(folder, "release.migration.payload.0.source", "migrations/none.py")
    change(folder, "checks.checks.0.violations", "DELETE FROM orders")
    change(folder, "checks.plans.0.table", "customers")
    assert [text.split(": expected")[0] for text in refusal(folder)] == [
        "release.yml: colour",
        "release.yml: migration.lock.attempts",
        "checks.yml: checks[all_items_there].violations",
        "release.yml: migration.payload[0].source",
        "checks.yml: plans[items_of_order].table",
    ]


NOTHING = {"wait": False, "cancel_autovacuum": False, "end_idle_in_transaction": 0}
BLOCKERS: list[tuple[Any, dict[str, Any]]] = [
    (REMOVED, {}),
    ("give_up", {}),
    ("wait", {"wait": True}),
    ("cancel_autovacuum", {"cancel_autovacuum": True}),
    ({"end_idle_in_transaction": 60}, {"end_idle_in_transaction": 60}),
    (
        {"wait": True, "cancel_autovacuum": True, "end_idle_in_transaction": 5},
        {"wait": True, "cancel_autovacuum": True, "end_idle_in_transaction": 5},
    ),
]


@pytest.mark.parametrize(("declared", "read"), BLOCKERS)
def test_what_may_be_done_to_blockers_is_declared(folder: Path, declared: Any, read: dict[str, Any]) -> None:
    if declared is not REMOVED:
        change(folder, "release.migration.blockers", declared)
    assert load(folder, SCHEMAS)["migration"]["lock"]["blockers"] == {**NOTHING, **read}


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("kill_all", "blockers: expected one of wait, give_up, cancel_autovacuum, found `kill_all`"),
        ({"end_idle_in_transaction": 0}, "end_idle_in_transaction: expected a whole number from 1 to 86400, found 0"),
        ({"kill": True}, "an unknown key"),
        (5, "blockers: expected wait, give_up, cancel_autovacuum, or a mapping"),
    ],
)
def test_nothing_else_may_be_done_to_blockers(folder: Path, declared: Any, expected: str) -> None:
    change(folder, "release.migration.blockers", declared)
    (said,) = refusal(folder)
    assert expected in said


THROTTLED = {"lag_seconds": 10, "pause_seconds": 300}


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"pause_seconds": 5}, "migration.throttle: expected lag_seconds or latency_ms, found neither"),
        ({"lag_seconds": 0}, "migration.throttle.lag_seconds: expected"),
        ({"lag_second": 1}, "an unknown key (did you mean"),
        (THROTTLED, "migration.throttle: expected nothing, because no step of finalize has batch_rows"),
    ],
)
def test_a_throttle_declares_what_it_checks(folder: Path, declared: Any, expected: str) -> None:
    change(folder, "release.migration.throttle", declared)
    assert any(expected in said for said in refusal(folder))


def test_a_throttle_is_read_with_its_release(folder: Path) -> None:
    assert load(folder, SCHEMAS)["migration"]["throttle"] == {}
    change(folder, "release.migration.throttle", THROTTLED)
    change(folder, "release.migration.finalize.0.batch_rows", 100)
    assert load(folder, SCHEMAS)["migration"]["throttle"] == THROTTLED


def without_a_release_file(folder: Path) -> None:
    (folder / "release.yml").unlink()


def without_a_checks_file(folder: Path) -> None:
    (folder / "checks.yml").unlink()


def of_another_encoding(folder: Path) -> None:
    (folder / "checks.yml").write_bytes("checks: []  # é\n".encode("latin-1"))


def with_an_empty_statement(folder: Path) -> None:
    (folder / "migrations" / "fill.sql").write_text(" \n", encoding="utf-8")


def with_an_empty_way_back(folder: Path) -> None:
    (folder / "migrations" / "back.sql").write_text("\n", encoding="utf-8")


def with_a_statement_that_is_no_text(folder: Path) -> None:
    (folder / "migrations" / "fill.sql").write_bytes(b"\xff")


def with_a_way_back_that_is_no_text(folder: Path) -> None:
    (folder / "migrations" / "back.sql").write_bytes("é".encode("latin-1"))


def with_a_link_that_leads_out(folder: Path) -> None:
    (folder.parent / "outside.py").write_text("x", encoding="utf-8")
    (folder / "migrations" / "bbb2.py").unlink()
    (folder / "migrations" / "bbb2.py").symlink_to(folder.parent / "outside.py")


NO_FILE = "expected a file that can be read, found no such file or directory."


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (without_a_release_file, f"release.yml: : {NO_FILE}"),
        (without_a_checks_file, "release.yml: monitoring.drift: expected a check with violations, no name, because none"
         " is declared, found `all_items_there`."),
        (of_another_encoding, "checks.yml: : expected UTF-8 text, found an invalid byte at position 14."),
        (with_an_empty_statement, "release.yml: migration.finalize[fill].file: expected a file that contains one SQL"
         " statement, found an empty one."),
        (with_an_empty_way_back, "release.yml: rollback.sql: expected a file that contains SQL statements,"
         " found an empty one."),
        (with_a_statement_that_is_no_text, "release.yml: migration.finalize[fill].file: expected a file of UTF-8 text,"
         " found one that cannot be read (UnicodeDecodeError)."),
        (with_a_way_back_that_is_no_text, "release.yml: rollback.sql: expected a file of UTF-8 text, found one that"
         " cannot be read (UnicodeDecodeError)."),
        (with_a_link_that_leads_out, "release.yml: migration.payload[0].source: expected a file in the release's"
         " folder, found `migrations/bbb2.py`, which leads out of it."),
    ],
)  # fmt: skip
def test_a_folder_is_refused(folder: Path, broken: Callable[[Path], None], problem: str) -> None:
    broken(folder)
    assert problem in refusal(folder)


def test_a_file_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "migrations" / "bbb2.py").write_bytes("é".encode("latin-1"))
    with pytest.raises(ReleaseError, match=r"migrations/bbb2\.py failed \(it is not UTF-8 text\)") as caught:
        load(folder, SCHEMAS)
    assert caught.value.refused


def test_a_release_that_is_not_there_names_those_that_are(folder: Path) -> None:
    shutil.copytree(SMALL, folder.parent / "small")
    with pytest.raises(ReleaseError) as caught:
        load(folder.parent / "shop_8", SCHEMAS)
    assert caught.value.message.endswith("name one of the existing releases (shop_7, small).")


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_schemas_that_are_missing_or_damaged_are_said_so(folder: Path, tmp_path: Path, content: str | None) -> None:
    schemas = tmp_path / "schemas"
    schemas.mkdir()
    if content:
        (schemas / "release.schema.json").write_text(content, encoding="utf-8")
    with pytest.raises(ReleaseError, match="restore the folder"):
        load(folder, schemas)


def test_a_release_is_completed_with_what_its_files_hold(folder: Path) -> None:
    loaded = load(folder / ".." / "shop_7", SCHEMAS)
    release, checks = (yaml.safe_load((WHOLE / name).read_text("utf-8")) for name in ("release.yml", "checks.yml"))
    (item,) = loaded["migration"]["payload"]
    assert item["path"] == str(folder / "migrations" / "bbb2.py")
    assert item["sha256"] == hashlib.sha256((WHOLE / "migrations" / "bbb2.py").read_bytes()).hexdigest()
    assert [step["sql"] for step in loaded["migration"]["finalize"]] == ["SELECT 'é';\n", "ANALYZE items"]
    rollback = {**release["rollback"], "script": "SELECT 'back';\n"}
    assert loaded == {
        **release,
        **checks,
        "migration": loaded["migration"],
        "rollback": rollback,
        "tables": {"altered": {}, "changed": {}, "dropped": {}, "audit": [], **release["tables"]},
        "directory": str(folder),
        "omitted": [],
    }
    assert json.loads(json.dumps(loaded)) == loaded


def test_every_section_but_the_change_itself_may_be_left_out() -> None:
    loaded = load(SMALL, SCHEMAS)
    empty = ("services", "checklist", "ways_back", "observations", "scenarios", "plans")
    assert [loaded[key] for key in empty] == [[]] * len(empty)
    assert loaded["migration"]["payload"] == loaded["migration"]["finalize"] == []
    assert loaded["migration"]["success_pattern"] == ""
    assert loaded["rollback"] == {"guards": [], "sql": "", "script": ""}
    assert loaded["tables"]["altered"] == {}
    assert "api" not in loaded
    assert [check["name"] for check in loaded["checks"]] == ["no_empty_total"]


MINIMAL = "migration: {from_revision: aaa1, to_revision: bbb2}\n"


def minimal(folder: Path, text: str = MINIMAL) -> dict[str, Any]:
    """A release of this text alone, as it is read."""
    folder.mkdir(parents=True)
    (folder / "release.yml").write_text(text, encoding="utf-8")
    return load(folder, SCHEMAS)


def test_a_release_needs_its_two_revisions_alone(tmp_path: Path) -> None:
    loaded = minimal(tmp_path / "releases" / "my_change")
    migration = loaded.pop("migration")
    lists = ("services", "checklist", "ways_back", "observations", "checks", "scenarios", "plans")
    assert loaded == {
        "release": "my_change",
        "title": "Release my_change: aaa1 to bbb2",
        "label": "my_change",
        "server": {"minimum_major": 14, "transaction_age_limit_seconds": 300},
        "tables": {"existing": {}, "created": {}, "altered": {}, "changed": {}, "dropped": {}, "audit": []},
        "rollback": {"guards": [], "sql": "", "script": ""},
        "directory": str(tmp_path / "releases" / "my_change"),
        "omitted": [
            *("release", "title", "label", "services", "clients", "server", "rollback", "tables", "api", "monitoring"),
            *("readiness", "checklist", "repairs", "commands", "ways_back"),
        ],
        **{key: [] for key in lists},
    }
    assert migration == {
        "from_revision": "aaa1",
        "to_revision": "bbb2",
        "command": ["python3", "-m", "alembic"],
        "container": "backend",
        "lock": {"timeout_ms": 500, "attempts": 10, "deadline_seconds": 120, "blockers": NOTHING},
        "timeout_seconds": 3600,
        "growth_factor": 0.5,
        "version_table": "alembic_version",
        "success_pattern": "",
        "reversible": True,
        "budget": {},
        "throttle": {},
        **{key: [] for key in ("payload", "finalize", "environment", "revision_files")},
    }


def test_a_release_without_revisions_names_them_both(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError) as caught:
        minimal(tmp_path / "releases" / "my_change", "migration: {}\n")
    keys = [problem["key"] for problem in caught.value.facts["problems"]]
    assert keys == ["migration.from_revision", "migration.to_revision"]


def test_a_declared_section_gets_the_defaults_of_its_keys(tmp_path: Path) -> None:
    more = {
        "api": {"endpoints": [{"name": "orders", "path": "/orders", "kind": "list"}]},
        "readiness": {"stable_seconds": 60},
        "monitoring": {},
    }
    loaded = minimal(tmp_path / "releases" / "my_change", MINIMAL + yaml.safe_dump(more))
    assert loaded["api"] == {
        "timeout_seconds": 10,
        "latency": {"requests": 10, "factor": 3, "floor_ms": 250},
        "endpoints": [{"name": "orders", "path": "/orders", "kind": "list", "status": 200, "keys": []}],
    }
    assert loaded["readiness"] == {"stable_seconds": 60, "largest_gap_seconds": 7200}
    assert loaded["monitoring"] == {
        "window_seconds": 900,
        "limits": {"failed_samples": 3, "consecutive_failed_samples": 2},
    }


@pytest.mark.parametrize("name", ["release", "checks"])
def test_each_default_is_valid_by_its_own_schema(name: str) -> None:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    found = [part for part in parts(schema) if "default" in part and "$ref" not in part]
    assert found
    for part in found:
        jsonschema.Draft202012Validator({**part, "$defs": schema["$defs"]}).validate(part["default"])


DEFAULTED = ["server", "migration.lock", "migration.command", "checklist", "ways_back", "rollback"]
SECTIONS = [*DEFAULTED, "repairs", "commands", "migration.payload"]


@pytest.mark.parametrize("section", SECTIONS)
def test_each_section_may_be_left_out_alone(folder: Path, section: str) -> None:
    change(folder, f"release.{section}", REMOVED)
    load(folder, SCHEMAS)


@pytest.mark.parametrize(
    "query",
    [
        "select 1", "\n  With x AS (SELECT 1) SELECT * FROM x", "VALUES (1)", "TABLE orders", "SELECT\t1;",
        "(SELECT 1) UNION (SELECT 2)", "-- why\n-- so\nSELECT 1", "/* a * b */ SELECT 1", "SELECT*FROM orders",
    ],
)  # fmt: skip
def test_every_form_of_a_query_is_taken(folder: Path, query: str) -> None:
    change(folder, "checks.checks.0.violations", query)
    load(folder, SCHEMAS)


PRINTED: dict[str, tuple[str, Any]] = {
    "check": ("constraints.more", {"type": "check", "definition": "CHECK ((order_id > 0))"}),
    "exclusion": ("constraints.more", {"type": "exclusion", "definition": "EXCLUDE USING gist (span WITH &&)"}),
    "deferrable exclusion": (
        "constraints.more",
        {
            "type": "exclusion",
            "definition": "EXCLUDE USING btree (id WITH =) WHERE ((id > 0)) DEFERRABLE INITIALLY DEFERRED",
            "deferrable": True,
            "initially_deferred": True,
        },
    ),
    "deferrable key": ("constraints.items_pkey", {"type": "primary_key", "columns": ["id"], "deferrable": True}),
    "deferrable foreign key": ("constraints.items_order_id_fkey.deferrable", True),
    "expression": ("indexes.ix_more", {"columns": ["abs(order_id)", "id"], "unique": True}),
    "method and condition": (
        "indexes.ix_more",
        {"columns": ["order_id"], "unique": False, "method": "hash", "where": "order_id > 0"},
    ),
}


@pytest.mark.parametrize(("place", "value"), PRINTED.values(), ids=PRINTED.keys())
def test_constraints_and_indexes_are_taken_as_the_server_writes_them(folder: Path, place: str, value: Any) -> None:
    change(folder, f"release.tables.created.items.{place}", value)
    load(folder, SCHEMAS)


ALTERED: dict[str, Any] = {
    "columns": {
        "item_count": {"type": "integer", "nullable": False},
        "first_item": {"type": "bigint", "nullable": True},
    },
    "indexes": {"ix_orders_total": {"columns": ["total", "item_count", "abs(total)"], "unique": False}},
    "constraints": {
        "orders_first_item_fkey": {
            "type": "foreign_key",
            "columns": ["first_item"],
            "references": {"table": "items", "columns": ["id"]},
            "on_delete": "set_null",
        },
        "orders_once": {"type": "unique", "columns": ["id", "first_item"], "deferrable": True},
        "orders_count": {"type": "check", "definition": "CHECK ((item_count >= 0))"},
    },
}


@pytest.mark.parametrize("part", [*ALTERED, None])
def test_what_is_added_to_an_existing_table_is_taken(folder: Path, part: str | None) -> None:
    columns = {"columns": ALTERED["columns"]}
    altered = ALTERED if part is None else {**columns, part: ALTERED[part]}
    change(folder, "release.tables.altered", {"orders": altered})
    change(folder, "release.checklist.0.items.0.proofs", ["structure.orders.*", "structure.orders.added_columns"])
    assert load(folder, SCHEMAS)["tables"]["altered"] == {"orders": altered}


def test_a_created_table_may_lead_to_a_column_that_is_added(folder: Path) -> None:
    change(folder, "release.tables.altered", {"orders": {"columns": ALTERED["columns"]}})
    change(folder, "release.tables.created.items.constraints.items_order_id_fkey.references.columns", ["first_item"])
    load(folder, SCHEMAS)


@pytest.mark.parametrize("release", sorted((ROOT / "releases").glob("*/")), ids=lambda path: path.name)
def test_every_release_of_this_repository_is_valid(release: Path) -> None:
    assert load(release, SCHEMAS)["release"] == release.name


@pytest.mark.parametrize("name", ["release", "checks"])
def test_the_schemas_are_closed_and_describe_every_key(name: str) -> None:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    objects = [part for part in parts(schema) if part.get("type") == "object"]
    assert objects
    for part in objects:
        assert "additionalProperties" in part, part
        for key, value in part.get("properties", {}).items():
            assert value.get("description", "").endswith("."), f"{key} has no description"


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from parts(value)


@pytest.mark.parametrize("check_mode", [False, True])
def test_the_module_returns_the_release_and_changes_nothing(folder: Path, check_mode: bool) -> None:
    before = sorted(folder.rglob("*"))
    result = release_info.act({"directory": str(folder), "schemas": str(SCHEMAS)}, check_mode)
    assert result == {"changed": False, "release": load(folder, SCHEMAS)}
    assert sorted(folder.rglob("*")) == before
