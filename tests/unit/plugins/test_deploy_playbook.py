"""The playbook deploy with toys for its roles: what a failure, or a connection that drops, on a target does to all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TOY = """
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        step = self._task.args["step"]
        with open(task_vars["seen"], "a") as file:
            file.write(f"{task_vars['inventory_hostname']} {step}\\n")
        end = task_vars["ends"].get(step, "ready")
        if end == "lost":
            raise AnsibleConnectionFailure("It was away for a moment.")
        unproven = ["all_there"] if end == "unproven" else []
        facts = {"state": end, "unproven": unproven, "unreconciled": False, "watched": False}
        return {"failed": end in ("failed", "unproven"), "msg": end, **facts}
"""
ROLES = {
    **{
        role: ["main"]
        for role in ("run", "recovery", "notify", "preflight", "baseline", "backup", "rehearse", "migrate")
    },
    **{role: ["main"] for role in ("reconcile", "verify")},
    "monitor": ["plan", "main", "schedule"],
    "rollback": ["automatic"],
    "report": ["cause", "main"],
}
REGISTERED = {"preflight": "preflight_result", "migrate": "migrate_finalize"}

Ends = dict[str, dict[str, str]]  # by target, and by step


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project of which only the playbook and the settings are ours."""
    for name in ("ansible.cfg", "playbooks/deploy.yml", "playbooks/settings.yml", "playbooks/in_force.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "collections").symlink_to(ROOT / "collections")
    (tmp_path / "plugins/action").mkdir(parents=True)
    for folder in ("lookup", "callback"):
        (tmp_path / "plugins" / folder).symlink_to(ROOT / "plugins" / folder)
    (tmp_path / "plugins/action/toy.py").write_text(TOY)
    for role, files in ROLES.items():
        tasks = tmp_path / "roles" / role / "tasks"
        tasks.mkdir(parents=True)
        for file in files:
            task = {"name": file, "toy": {"step": f"{role}.{file}"}, "register": REGISTERED.get(role, "toy")}
            (tasks / f"{file}.yml").write_text(json.dumps([task]))
    return tmp_path


def played(folder: Path, ends: Ends, *arguments: str) -> list[str]:
    """Each target and step that was come to."""
    seen = folder / "seen"
    given = dict.fromkeys(("release", "deploy_environment", "db_name", "db_user", "db_password", "db_host"), "x")
    given |= {"app_root": "/nowhere", "ansible_connection": "local", "seen": str(seen)}
    targets = {name: {**given, "ends": end} for name, end in ends.items()}
    (folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": targets}}))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "playbooks/deploy.yml", "-i", "hosts.yml"]
    ended = subprocess.run([*argv, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    lines = seen.read_text().splitlines() if seen.exists() else []
    seen.unlink(missing_ok=True)
    print(ended.stdout, ended.stderr)
    return sorted(lines)


@pytest.mark.parametrize(
    ("ends", "back"),
    [
        pytest.param({"a": {}, "b": {}}, "", id="nothing fails"),
        pytest.param({"a": {"verify.main": "failed"}}, "a", id="the verification of one alone"),
        pytest.param({"a": {"verify.main": "failed"}, "b": {}}, "ab", id="the verification of one"),
        pytest.param({"a": {}, "b": {"monitor.main": "failed"}}, "ab", id="the watch of one"),
        pytest.param({"a": {"verify.main": "lost"}}, "", id="the connection to one alone"),
        pytest.param({"a": {}, "b": {"verify.main": "lost"}}, "", id="the connection to one"),
        pytest.param({"a": {}, "b": {"migrate.main": "lost"}}, "", id="the connection to one that migrates"),
        pytest.param(
            {"a": {"verify.main": "failed"}, "b": {"verify.main": "lost"}}, "ab", id="a verification and a connection"
        ),
        pytest.param({"a": {"migrate.main": "failed"}, "b": {}}, "", id="the migration of one"),
        pytest.param({"a": {"migrate.main": "unproven"}}, "a", id="what the migration of one alone must prove"),
        pytest.param({"a": {"migrate.main": "unproven"}, "b": {}}, "ab", id="what the migration of one must prove"),
        pytest.param(
            {"a": {"preflight.main": "deployed", "verify.main": "failed"}, "b": {}}, "", id="what one had long before"
        ),
    ],
)
def test_what_is_taken_back(folder: Path, ends: Ends, back: str) -> None:
    lines = played(folder, ends)
    assert [line for line in lines if "rollback" in line] == [f"{target} rollback.automatic" for target in back]
    assert [line for line in lines if "report.main" in line] == [f"{target} report.main" for target in ends]


def test_a_tag_leaves_nothing_out(folder: Path) -> None:
    whole = played(folder, {"a": {}})
    assert {"a migrate.main", "a verify.main"} < set(whole)
    assert played(folder, {"a": {}}, "--tags=verify") == whole
