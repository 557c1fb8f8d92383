"""The files of a release on a hostile target: what it answers is data, and no link that it plants gets a file."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import payload
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from hostile_target import ROOT, Played, kept, opened, play, wrapper

CONTENT = "revision = 'abc'\n"
SHA256 = hashlib.sha256(CONTENT.encode()).hexdigest()
# What whichever module puts the files there answers in place of the truth.
COPIES = "if module in ('copy', 'payload', 'docker_container_copy_into'):\n    "
LIES = {
    "escapes": COPIES + "answer |= {'warnings': ['\\x1b]0;title\\x07'], '\\x1b]0;title\\x07': 1, "
    "'add_host': {'host_name': 'x'}, 'ansible_facts': {'stolen': 1}, 'invented': 1}",
    "many": COPIES + "answer['rows'] = [0] * 600000\n    answer['copied'] = [''] * 600000",
    "linked": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """One play of the role's tasks on every host; on one a link is planted that preflight has not seen."""
    folder = tmp_path_factory.mktemp("payload")
    (folder / "new.py").write_text(CONTENT)
    (folder / "etc").mkdir()
    for name in LIES:
        (folder / name / "migrations").mkdir(parents=True)
    (folder / "linked" / "migrations" / "versions").symlink_to(folder / "etc")
    for name in ("escapes", "many"):
        (folder / name / "migrations" / "versions").mkdir()
    destination = f"{folder}/{{{{ inventory_hostname }}}}/migrations/versions/new.py"
    item = {"source": "new.py", "path": str(folder / "new.py"), "destination": destination, "sha256": SHA256}
    variables = {
        "run_migration_container": "",
        "preflight_result": {
            "payload_missing": "{{ run_release.release.migration.payload | map(attribute='destination') | list }}"
        },
        "run_release": {
            "release": {
                "migration": {
                    "to_revision": "abc",
                    "payload": [{**item, "folder": f"{folder}/{{{{ inventory_hostname }}}}/migrations"}],
                }
            }
        },
    }
    hosts = {name: {"ansible_python_interpreter": wrapper(folder, lie or "pass", name)} for name, lie in LIES.items()}
    tasks = [
        opened(folder),
        {
            "block": [{"ansible.builtin.import_tasks": str(ROOT / "roles/migrate/tasks/payload.yml")}],
            "rescue": [{"ansible.builtin.debug": {"var": "ansible_failed_result.msg"}}],
        },
        kept(failed="(ansible_failed_result | default({})).msg | default('')", groups="groups.all"),
    ]
    return play(folder, tasks, hosts, "--forks=3", variables=variables)


def test_of_what_a_target_answers_to_a_copy_only_what_is_declared_is_kept(played: Played) -> None:
    assert "\x1b" not in played.output and "Removed unexpected internal key" not in played.output
    assert played.said("escapes") == {"failed": "", "groups": list(LIES)}
    assert (played.folder / "escapes/migrations/versions/new.py").read_text() == CONTENT


def test_an_answer_to_a_copy_is_bounded(played: Played) -> None:
    assert "The answer of payload on many was refused (it holds more than " in played.said("many")["failed"]


def test_a_link_that_is_planted_after_preflight_gets_no_file(played: Played) -> None:
    assert list((played.folder / "etc").iterdir()) == []
    assert re.match(
        r"Copying .*/linked/migrations/versions/new\.py was refused \(a link leads to .*/etc, out of ",
        played.said("linked")["failed"],
    )


# The module by itself, with whatever stands there.


def put(run: dict[str, Any], destination: Path, folder: Path) -> dict[str, Any]:
    item = {"source": "new.py", "destination": str(destination), "sha256": SHA256, "folder": str(folder)}
    item["content"] = base64.b64encode(CONTENT.encode()).decode()
    return payload.act({"run": run, "payload": [item], "backend_container": ""}, False)


@pytest.mark.parametrize("kind", ["a link", "a link to nothing yet", "a file", "a pipe", "a folder"])
def test_nothing_that_was_planted_is_written_through_or_replaced(
    tmp_path: Path, run_parameters: dict[str, Any], kind: str
) -> None:
    folder, victim = tmp_path / "migrations", tmp_path / "victim"
    folder.mkdir()
    planted = folder / "new.py"
    if kind == "a link":
        victim.write_text("theirs")
        planted.symlink_to(victim)
    elif kind == "a link to nothing yet":
        planted.symlink_to(victim)
    elif kind == "a file":
        planted.write_text("theirs")
    elif kind == "a pipe":
        os.mkfifo(planted)
    else:
        planted.mkdir()
    before = planted.lstat()
    with pytest.raises(ReleaseError, match="something with that name was created after preflight") as raised:
        put(run_parameters, planted, folder)
    assert raised.value.refused and planted.lstat() == before
    assert not victim.exists() or victim.read_text() == "theirs"


def test_a_link_that_stays_in_the_folder_is_followed(tmp_path: Path, run_parameters: dict[str, Any]) -> None:
    (tmp_path / "real" / "kept").mkdir(parents=True)
    (tmp_path / "migrations").symlink_to("real")
    (tmp_path / "real" / "versions").symlink_to("kept")
    put(run_parameters, tmp_path / "migrations" / "versions" / "new.py", tmp_path / "migrations")
    assert (tmp_path / "real" / "kept" / "new.py").read_text() == CONTENT
