"""Variables of an inventory: what is missing, wrong or misspelled is named at once, with its meaning."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ansible.module_utils.dbrelease.release.inventory import CONTAINER, NAME, problems, unknown
from ansible.module_utils.dbrelease.release.schema_errors import Schemas

ROOT = Path(__file__).resolve().parents[3]
SCHEMAS = Schemas(ROOT / "schemas")
SPEC = importlib.util.spec_from_file_location("inventory_problems", ROOT / "plugins/lookup/inventory_problems.py")
assert SPEC is not None and SPEC.loader is not None
PLUGIN = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(PLUGIN)
SCHEMA = SCHEMAS.content(NAME)
WHOLE: dict[str, Any] = {
    "release": "shop_7",
    "deploy_environment": "test",
    "app_root": "/srv/shop",
    "db_container": "shop_postgres",
    "db_name": "shop",
    "db_user": "shop",
    "db_password": "s3cret",
}
ROLES: dict[str, Any] = {
    "monitor_watch_seconds": {"type": "int", "description": "How long to watch."},
    "rehearse_in": {"type": "str", "choices": ["container", "off"], "description": ["Where.", "Or not."]},
    "notify_webhook_url": {"type": "str", "no_log": True, "choices": ["a"], "description": "Address of a webhook."},
}


def judged(**changed: Any) -> list[str]:
    values = {name: value for name, value in {**WHOLE, **changed}.items() if value is not ...}
    return [*problems(values, {}, values, SCHEMAS), *PLUGIN.wrong_options(values, ROLES)]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"db_container": "", "db_host": "db.example.com", "db_port": "5433"},
        {"db_container": ..., "compose_project": "shop", "compose_services": {"db": "postgres"}},
        {"db_password": ""},
        {"api_base_url": "", "db_sslmode": "", "rehearsal": False, "db_port": 5432},
        {"payload_folders": ["/app/migrations"], "migration_environment": {"A": "b"}, "audit_tables": ["audit.ddl"]},
        {"monitor_watch_seconds": "60", "rehearse_in": "off", "search_container": "shop_search"},
    ],
)
def test_what_is_complete_is_taken(changed: dict[str, Any]) -> None:
    assert judged(**changed) == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"db_name": ...}, "db_name is missing (for example `db_name: shop`): The database of the application."),
    ({"db_name": None}, "db_name is missing (for example `db_name: shop`): The database of the application."),
    (
        {"db_user": ..., "db_users": "shop"},
        "db_user is missing (for example `db_user: shop`): The role as which the playbooks act on the database. "
        "The variable db_users exists; is it misspelled?",
    ),
    ({"app_root": "srv"}, "app_root: expected an absolute path (for example `app_root: /srv/shop`), found `srv`."),
    ({"db_port": "many"}, "db_port: expected the number of a port (for example `db_port: 5432`), found `many`."),
    ({"db_port": 0}, "db_port: expected the number of a port (for example `db_port: 5432`), found 0."),
    (
        {"compose_project": "Shop"},
        "compose_project: expected the name of a Compose project: lower-case letters, digits, dashes and underscores "
        "(for example `compose_project: shop`), found `Shop`.",
    ),
    (
        {"monitor_watch_seconds": "soon"},
        "monitor_watch_seconds is not valid (argument 'monitor_watch_seconds' is of type str and we were unable to "
        "convert to int: \"'soon'\" cannot be converted to an int): How long to watch.",
    ),
    (
        {"rehearse_in": "nowhere"},
        "rehearse_in is not valid (value of rehearse_in must be one of: container, off, got: nowhere): Where. Or not.",
    ),
    (
        {"notify_webhook_url": "s3cret"},
        "notify_webhook_url is not valid (it has another type or value): Address of a webhook.",
    ),
]


@pytest.mark.parametrize(("changed", "says"), WRONG)
def test_what_is_missing_or_wrong_is_named_with_its_meaning(changed: dict[str, Any], says: str) -> None:
    assert judged(**changed) == [says]


def test_all_is_named_at_once_and_a_secret_is_not_shown() -> None:
    found = problems({"db_password": ["s3cret"]}, {"db_host": "DB_HOST is not set."}, (), SCHEMAS)
    names = ["release", "deploy_environment", "app_root", "db_name", "db_user", "db_host", "db_password"]
    assert [re.split(r"[ :]", text)[0] for text in found] == names
    assert "db_host cannot be read (DB_HOST is not set)." in found
    assert "found another value" in found[-1]
    assert "s3cret" not in str(found)


def test_why_a_required_one_cannot_be_read_is_said_in_place_of_an_example() -> None:
    values = {name: value for name, value in WHOLE.items() if name != "db_password"}
    (found,) = problems(values, {"db_password": "Set DB_PASSWORD."}, (), SCHEMAS)
    assert found == "db_password is missing: The password of db_user. Set DB_PASSWORD."


def test_a_database_that_nothing_leads_to_is_named() -> None:
    (found,) = judged(db_container=...)
    assert found.startswith("One of db_container, db_host, compose_project is required, to find the database (db_cont")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("db_pasword", "db_password"),
        ("DB_password", ""),
        ("api_base_urls", "api_base_url"),
        ("notify_webhook_ur", "notify_webhook_url"),
        ("search_container", ""),
        ("ansible_host", ""),
        ("group_names", ""),
        ("repository_root", ""),
        ("my_own", ""),
    ],
)
def test_a_variable_that_is_nearly_one_of_ours_is_named(name: str, meant: str) -> None:
    assert unknown([*WHOLE, name], SCHEMAS, ROLES) == ({name: meant} if meant else {})


def test_the_schema_is_valid_and_explains_every_variable() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for name, part in SCHEMA["properties"].items():
        assert part["description"].endswith("."), name
        assert part["examples"] and part["title"], name


def test_every_variable_of_role_run_and_of_our_inventories_is_in_the_schema() -> None:
    given = yaml.safe_load((ROOT / "roles/run/defaults/main.yml").read_text(encoding="utf-8"))
    used = {name for value in given.values() for name in re.findall(r"\{\{ (\w+)|\| default\((\w+)", str(value))}
    names = {one for pair in used for one in pair if one and not one.isdigit()} - {
        "role_path",
        "playbook",
        "report_asked",
    }
    for file in (ROOT / "inventories").glob("*/group_vars/*.yml"):
        names |= yaml.safe_load(file.read_text(encoding="utf-8")).keys() - {"repository_root", "monitor_watch_seconds"}
    assert {name for name in names if not CONTAINER.fullmatch(name)} - SCHEMA["properties"].keys() == set()


def test_the_schema_names_no_variable_that_nothing_uses() -> None:
    files = [*(ROOT / "roles").rglob("*.yml"), *(ROOT / "playbooks").glob("*.yml"), *(ROOT / "plugins").rglob("*.py")]
    texts = "\n".join(file.read_text(encoding="utf-8") for file in files)
    assert [name for name in SCHEMA["properties"] if not re.search(rf"\b{name}\b", texts)] == []


def test_a_playbook_refuses_before_anything_runs(tmp_path: Path) -> None:
    values = {**WHOLE, "ansible_connection": "local", "db_pasword": WHOLE["db_password"], "db_port": "many"}
    del values["db_password"], values["release"]
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"target": values}}}), encoding="utf-8")
    argv = [
        str(Path(sys.executable).with_name("ansible-playbook")),
        "playbooks/deploy.yml",
        "-i",
        f"{tmp_path}/hosts.yml",
    ]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    said = " ".join((ended.stdout + ended.stderr).split())
    assert ended.returncode == 2
    assert "Nothing was touched. 1) release is missing" in said
    assert "2) db_password is missing" in said and "The variable db_pasword exists; is it misspelled?" in said
    assert "3) db_port: expected the number of a port" in said
    assert "The variable db_pasword is not known; if db_password is meant, correct its name." in said
    assert "Open the run" not in said and "s3cret" not in said
