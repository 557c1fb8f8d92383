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
STUB = """
import json
from pathlib import Path
from ansible.plugins.action import ActionBase

ANSWERS = json.loads((Path(__file__).parents[2] / "answers.json").read_text())


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        return {"changed": False, **ANSWERS.get(self._task.action, {})}
"""
RELEASE: dict[str, Any] = {
    **{"title": "Items", "label": "1", "services": [], "commands": {}, "checks": [], "scenarios": [], "plans": []},
    **{"observations": [], "api": {}, "monitoring": {}, "tables": {"created": {}, "altered": {}}},
    "migration": {
        "container": "backend",
        "version_table": "alembic_version",
        "environment": [],
        **{"from_revision": "a", "to_revision": "b", "payload": [], "finalize": [], "lock": {}, "command": ["x"]},
        **{"timeout_seconds": 1, "success_pattern": "", "revision_files": []},
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
    for name in ("ansible.cfg", "playbooks/deploy.yml", "playbooks/configuration/demanded.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("roles", "library", "module_utils", "plugins/lookup", "plugins/callback", "plugins/doc_fragments"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "plugins/action").mkdir()
    for module in (ROOT / "library").glob("*.py"):
        (tmp_path / "plugins/action" / module.name).write_text(STUB)
    return tmp_path


def played(folder: Path, answers: dict[str, Any], **variables: Any) -> tuple[int, str]:
    """The status, and what is printed."""
    (folder / "answers.json").write_text(json.dumps(answers))
    names = {"app_root": "/nowhere", "db_name": "x", "db_user": "x", "db_password": "x", "deploy_environment": "test"}
    target = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **names, **variables}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"a": target}}}))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "playbooks/deploy.yml", "-i", "hosts.json"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(folder / "ansible.cfg")}
    done = subprocess.run(
        [*argv, "-e", "release=items"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variables", "at_most"), [({}, 40), (NOTIFIED, 46)], ids=["nobody is told", "somebody is told"]
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
    assert results["Gather the evidence, and bring it to the controller"]["problems"] == [PROBLEM]
    assert "cache is stopped" in results["Refuse while anything stands in the way"]["msg"]
    assert "cache is stopped" in results["End as the outcome deserves"]["msg"]


def test_the_steps_that_a_role_skips_are_one_line(folder: Path) -> None:
    _, output = played(folder, {**ANSWERS, "preflight_info": {**READY, "state": "deployed", "watched": True}})
    headings = [line for line in output.splitlines() if line.startswith("TASK [")]
    for role in ("baseline", "backup", "migrate", "reconcile", "monitor"):
        own = [line for line in headings if line.startswith(f"TASK [{role} : ") and "watch" not in line]
        assert len([line for line in own if "Validating" not in line]) == 0, own
