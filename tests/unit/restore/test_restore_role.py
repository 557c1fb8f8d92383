"""The role restore: the commands that its report prints, and what it refuses at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader  # type: ignore[import-untyped]
from ansible.template import Templar, trust_as_template  # type: ignore[import-untyped]

ROLE = Path(__file__).resolve().parents[3] / "roles" / "restore"


def read(name: str) -> Any:
    return yaml.safe_load((ROLE / name / "main.yml").read_text(encoding="utf-8"))


def rendered(template: str, **given: Any) -> Any:
    return Templar(DataLoader(), variables=given).template(trust_as_template(template))


DROP = "docker exec shop_postgres dropdb --username=shop"


@pytest.mark.parametrize(
    ("maintenance", "swap_back", "drop"),
    [
        ("postgres", "-e restore_swap_back={database}", f"{DROP} {{database}}"),
        (
            "template1",
            "-e restore_maintenance_db=template1 -e restore_swap_back={database}",
            f"{DROP} --maintenance-db=template1 {{database}}",
        ),
    ],
)
def test_the_printed_commands_work_from_the_database_that_the_restore_worked_from(
    maintenance: str, swap_back: str, drop: str
) -> None:
    defaults = read("defaults")
    given = {
        "run_opened": {"run": {"release": "x", "environment": "staging"}},
        "run_release": {
            "release": {"commands": {"restore": "ansible-playbook restore_x.yml -i {environment} -i more"}}
        },
        "restore_maintenance_db": maintenance,
        "run_containers": {"db": "shop_postgres"},
        "run_login": {"login_user": "shop"},
    }
    printed = [rendered(defaults[f"restore_{name}_command"], **given) for name in ("swap_back", "drop")]
    assert printed == [f"ansible-playbook restore_x.yml -i staging -i more {swap_back}", drop]


def test_an_address_that_the_target_found_is_one_word_of_the_printed_command() -> None:
    given = {
        "restore_maintenance_db": "postgres",
        "run_containers": {"db": ""},
        "run_login": {"login_host": "10.0.0.7; id", "login_port": 5432, "login_user": "shop"},
    }
    drop = rendered(read("defaults")["restore_drop_command"], **given)
    assert drop == "dropdb --host='10.0.0.7; id' --port=5432 --username=shop {database}"


@pytest.mark.parametrize(
    ("backup", "swap_back", "allowed"),
    [("", "", True), ("x.dump", "", True), ("", "shop_before", True), ("x.dump", "shop_before", False)],
)
def test_a_backup_and_a_database_to_swap_back_are_not_both_asked_for(
    backup: str, swap_back: str, allowed: bool
) -> None:
    (first, *_) = read("tasks")
    refuses = first["ansible.builtin.assert"]
    given = {"restore_backup": backup, "restore_swap_back": swap_back}
    assert rendered(f"{{{{ {refuses['that']} }}}}", **given) is allowed
    assert "both restore_backup=x.dump and restore_swap_back=shop_before" in rendered(
        refuses["fail_msg"], restore_backup="x.dump", restore_swap_back="shop_before"
    )
