"""Each way back that is printed is there: from this folder, with this run's inventory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.report.commands import RESTORE, ROLL_BACK, checked_commands, checked_ways

RESTORE_ANY = "ansible-playbook playbooks/restore.yml -i hosts/prod.yml -e release=shop_7"
ROLL_BACK_ANY = "ansible-playbook playbooks/rollback.yml -i hosts/prod.yml -e release=shop_7"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("playbooks/restore.yml", "playbooks/rollback.yml", "restore_shop_7.yml", "hosts/prod.yml", "back.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch(mode=0o755)
    return tmp_path


def ways(
    project: Path, *commands: str, folder: str = ".", inventories: tuple[str, ...] = ("hosts/prod.yml",), **more: Any
) -> list[str]:
    release = {"ways_back": [{"title": "Back", "command": command} for command in commands], **more}
    given = [one if "," in one else str(project / one) for one in inventories]
    found = checked_ways(
        release, "shop_7", "production", folder=(project / folder).resolve(), root=project, inventories=given
    )
    return [way["command"] for way in found]


OWN = "ansible-playbook restore_shop_7.yml -i"
COMMANDS = {
    "one that is there": (f"{OWN} {{environment}}", f"{OWN} hosts/prod.yml"),
    "an inventory that is there": (f"{OWN} hosts/prod.yml", f"{OWN} hosts/prod.yml"),
    "an inventory that is not": (f"{OWN} prod", f"{OWN} hosts/prod.yml"),
    "a playbook that is not there": ("ansible-playbook restore_other.yml -i {environment}", RESTORE_ANY),
    "no playbook": ("ansible-playbook -e x=y.yml", RESTORE_ANY),
    "a program": ("./back.sh {environment}", "./back.sh production"),
    "a program of the path": ("sh back.sh", "sh back.sh"),
    "a program that is not there": ("./forward.sh", RESTORE_ANY),
    "no command": ("'", RESTORE_ANY),
}


@pytest.mark.parametrize(("declared", "printed"), COMMANDS.values(), ids=COMMANDS.keys())
def test_what_is_declared_is_printed_where_it_is_there(project: Path, declared: str, printed: str) -> None:
    assert ways(project, declared) == ([ROLL_BACK_ANY, RESTORE_ANY] if printed == RESTORE_ANY else [printed])


RECONCILE = {
    "declared": ("ansible-playbook back.yml -i {environment}", "ansible-playbook back.yml -i hosts/prod.yml"),
    "not there": (
        "ansible-playbook gone.yml -i {environment}",
        "ansible-playbook playbooks/reconcile.yml -i hosts/prod.yml -e release=shop_7",
    ),
}


@pytest.mark.parametrize(("declared", "printed"), RECONCILE.values(), ids=RECONCILE.keys())
def test_what_messages_recommend_has_the_inventory_of_the_run(project: Path, declared: str, printed: str) -> None:
    for name in ("back.yml", "playbooks/reconcile.yml"):
        (project / name).touch()
    release = {"release": "shop_7", "commands": {"reconcile": declared}}
    found = checked_commands(release, folder=project, root=project, inventories=[str(project / "hosts/prod.yml")])
    assert found == {"reconcile": printed, "restore": "ansible-playbook restore_shop_7.yml -i hosts/prod.yml"}
    (project / "restore_shop_7.yml").unlink()
    found = checked_commands(release, folder=project, root=project, inventories=[])
    assert "-i {environment}" in found["reconcile"]
    assert found["restore"] == "ansible-playbook playbooks/restore.yml -i {environment} -e release=shop_7"
    assert set(checked_commands({"release": "shop_7"}, folder=project, root=project, inventories=[])) == {"restore"}


def test_without_a_declared_one_there_are_the_projects_own(project: Path) -> None:
    assert ways(project) == [ROLL_BACK_ANY, RESTORE_ANY]
    (project / "playbooks/rollback.yml").unlink()
    assert ways(project) == [RESTORE_ANY]
    assert ROLL_BACK != RESTORE


def test_the_folder_and_the_inventories_are_those_of_the_run(project: Path) -> None:
    (project / "elsewhere").mkdir()
    (_, outside) = ways(project, folder="elsewhere")
    assert outside == f"ansible-playbook {project}/playbooks/restore.yml -i {project}/hosts/prod.yml -e release=shop_7"
    assert ways(project, inventories=("a,b", "hosts/prod.yml"))[0].count("-i ") == 2
    assert "-i production " in ways(project, inventories=())[0]
