"""What a deploy prints, with the real playbook and roles, and with stubs for the modules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
RUN_ID = "20260102T030405Z-abcdef"
SHARED = ("lookup", "callback", "doc_fragments")
STUB = """
import json
from pathlib import Path
from ansible.plugins.action import ActionBase

ANSWERS = json.loads((Path(__file__).parents[2] / "answers.json").read_text())


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        with (Path(__file__).parents[2] / "given").open("a") as given:
            given.write(json.dumps([self._task.action, self._task.args]) + "\\n")
        return {"changed": False, **ANSWERS.get(self._task.action, {})}
"""
RELEASE: dict[str, Any] = {
    **{"title": "Items", "label": "1", "services": [], "commands": {}, "checks": [], "scenarios": [], "plans": []},
    **{
        "observations": [],
        "api": {},
        "monitoring": {},
        "tables": {**{kind: {} for kind in ("existing", "created", "altered", "changed", "dropped")}, "audit": []},
    },
    "migration": {
        "container": "backend",
        "version_table": "alembic_version",
        "environment": [],
        **{"from_revision": "a", "to_revision": "b", "payload": [], "finalize": [], "lock": {}, "command": ["x"]},
        **{"timeout_seconds": 1, "success_pattern": "", "revision_files": [], "throttle": {}, "budget": {}},
    },
    "rollback": {"guards": [], "script": {}},
}
RUN = {"run_id": RUN_ID, "release": "items", "environment": "test", "playbook": "deploy", "state_dir": "/nowhere"}
RED = {"name": "preflight.services", "title": "Services run", "status": "fail", "detail": "cache is stopped."}
READY: dict[str, Any] = {
    **{"state": "ready", "unreconciled": False, "watched": False, "payload_missing": [], "proofs": [], "message": ""},
    "summary": "",
}
ANSWERS: dict[str, dict[str, Any]] = {
    "release_info": {"release": RELEASE},
    "run": {
        **{"run": RUN, "refused": False, "unsettled": False, "message": "", "login_host": "h", "login_port": 1},
        **{"services": {}, "address_problem": ""},
    },
    "preflight_info": READY,
    "api_contract_info": {"message": ""},
    "monitor_watch": {"watch": {}, "samples": 1},
    "monitor_sample": {"ended": True, "line": "ok"},
    "evidence": {
        **{"outcome": "deployed", "succeeded": True, "headline": "Deployed.", "summary": "Deployed.", "problems": []},
        **{"run_id": RUN_ID, "report": "/nowhere/report.html", "ways_back": []},
    },
    "notification": {"event": "success", "journal_event": "passed", "facts": {}},
}
PROBLEM = {"sentence": "Services run: cache is stopped.", "remedy": "Start it."}
REFUSED = {
    **ANSWERS,
    "preflight_info": {
        **READY,
        "state": "refused",
        "message": "1) Services run: cache is stopped. Start it.",
        "summary": "1 problem: services.",
        "proofs": [RED],
    },
    "evidence": {
        **ANSWERS["evidence"],
        "outcome": "refused",
        "succeeded": False,
        "summary": "Refused.",
        "headline": "Refused: Services run: cache is stopped. Start it.",
        "problems": [PROBLEM],
    },
}
NOTIFIED = {"notify_webhook_url": "http://127.0.0.1:9/"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The project with stubs in the place of its modules."""
    for name in ("ansible.cfg", "playbooks/deploy.yml", "playbooks/settings.yml", "playbooks/in_force.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("roles", "library", "module_utils", "collections", *(f"plugins/{kind}" for kind in SHARED)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "plugins/action").mkdir()
    for module in (ROOT / "library").glob("*.py"):
        (tmp_path / "plugins/action" / module.name).write_text(STUB)
    return tmp_path


def played(
    folder: Path, answers: dict[str, Any], playbook: str = "playbooks/deploy.yml", **variables: Any
) -> tuple[int, str]:
    """The status, and what is printed."""
    (folder / "answers.json").write_text(json.dumps(answers))
    names = {"app_root": "/nowhere", "db_name": "x", "db_user": "x", "db_password": "x", "deploy_environment": "test"}
    names["db_host"] = "127.0.0.1"
    target = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **names, **variables}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"a": target}}}))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), playbook, "-i", "hosts.json"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(folder / "ansible.cfg")}
    done = subprocess.run(
        [*argv, "-e", "release=items"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variables", "at_most"), [({}, 40), (NOTIFIED, 46)], ids=["without notifications", "with notifications"]
)
def test_a_successful_deploy_is_read_at_a_glance(folder: Path, variables: dict[str, Any], at_most: int) -> None:
    status, output = played(folder, ANSWERS, api_base_url="http://127.0.0.1:9", **variables)
    headings = [line for line in output.splitlines() if line.startswith("TASK [")]
    assert status == 0
    assert len(headings) <= at_most, "\n".join(headings)
    assert "a: deployed" in output.partition("VERDICT")[2]


def test_a_problem_is_said_in_full_once(folder: Path) -> None:
    status, output = played(folder, REFUSED)
    assert status != 0 and "1 problem: services." in output
    assert output.count("cache is stopped") == 1 and "cache is stopped" in output.partition("VERDICT")[2]


def test_a_program_is_given_it_in_the_results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "ansible.posix.json")
    _, output = played(folder, REFUSED)
    tasks = json.loads(output[output.index("{") : output.rindex("}") + 1])["plays"][-1]["tasks"]
    results = {task["task"]["name"].rpartition(" : ")[2]: task["hosts"].get("a", {}) for task in tasks}
    assert results["Gather the evidence and bring it to the controller"]["problems"] == [PROBLEM]
    assert "cache is stopped" in results["Refuse unless every precondition holds"]["msg"]
    assert "cache is stopped" in results["Fail unless the outcome is good"]["msg"]


def test_the_steps_that_a_role_skips_are_one_line(folder: Path) -> None:
    _, output = played(folder, {**ANSWERS, "preflight_info": {**READY, "state": "deployed", "watched": True}})
    headings = [line for line in output.splitlines() if line.startswith("TASK [")]
    for role in ("baseline", "backup", "migrate", "reconcile", "monitor"):
        own = [line for line in headings if line.startswith(f"TASK [{role} : ") and "watch" not in line]
        assert len([line for line in own if "Validating" not in line]) == 0, own


def given_to(folder: Path) -> dict[str, dict[str, Any]]:
    """The arguments of each module, of its first task."""
    lines = [json.loads(line) for line in (folder / "given").read_text().splitlines()]
    return dict(reversed(lines))


OWN = """
- hosts: all
  any_errors_fatal: true
  module_defaults:
    group/dbrelease.engine.run: "{{ run_given }}"
    group/dbrelease.engine.database: "{{ run_login }}"
  vars: {playbook: verify, report_asked: [already_deployed], run_exclusive: false}
  tasks:
    - ansible.builtin.import_role: {name: run}
    - ansible.builtin.include_role: {name: verify}
"""
LOGIN = {
    **{"login_host": "h", "login_port": 1, "login_db": "x", "login_user": "x", "login_password": "x"},
    **{"ssl_mode": "require", "ssl_root_cert": "", "bookkeeping_table": "alembic_version"},
}
WITH_LOGIN = {"preflight_info", "backup", "alembic_revision", "sql_step", "verification_info", "monitor_sample"}


@pytest.mark.parametrize(
    ("playbook", "modules"),
    [("playbooks/deploy.yml", WITH_LOGIN), ("own.yml", {"verification_info"})],
    ids=["deploy", "a playbook of the user's own"],
)
def test_each_module_is_given_the_run_and_the_login(folder: Path, playbook: str, modules: set[str]) -> None:
    (folder / "own.yml").write_text(OWN)
    status, _ = played(folder, ANSWERS, playbook, db_sslmode="require")
    assert status == 0
    given = given_to(folder)
    for module in modules:
        assert {**LOGIN, "run": RUN}.items() <= given[module].items(), module
    without = given.keys() & {"release_info", "run", "journal", "evidence"}
    assert not any("login_host" in given[name] for name in without)


def test_that_a_run_cannot_be_opened_is_sent_without_a_run(folder: Path) -> None:
    status, output = played(folder, {**ANSWERS, "run": {"failed": True, "msg": "Its folder is no folder."}}, **NOTIFIED)
    assert status != 0 and "Its folder is no folder." in output
    sent = given_to(folder)["notification"]
    assert (sent["run"]["run_id"], sent["moment"], sent["outcome"]) == ("", "end", "failed")
    assert sent["headline"] == "Its folder is no folder."


def test_a_login_that_the_inventory_does_not_have_opens_no_run(folder: Path) -> None:
    status, output = played(folder, ANSWERS, db_password="{{ undef(hint='Set DB_PASSWORD in your environment.') }}")
    assert status != 0 and "Set DB_PASSWORD in your environment." in output
    assert not (folder / "given").exists() or "run" not in given_to(folder)


def test_the_full_name_of_a_module_leads_to_its_action(folder: Path) -> None:
    """Whoever writes it so: what the target answers is kept as declared, and the module is given the login."""
    (folder / "own.yml").write_text(OWN + "    - ansible.legacy.sql_check_info: {checks: []}\n")
    status, _ = played(folder, ANSWERS, "own.yml", db_sslmode="require")
    assert status == 0
    assert given_to(folder)["ansible.legacy.sql_check_info"] == {**LOGIN, "run": RUN, "checks": []}
