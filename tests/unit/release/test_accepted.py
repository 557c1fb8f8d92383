"""What a role hands from a release to its modules is accepted by their options: a new key breaks no run."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator  # type: ignore[import-untyped]
from ansible.module_utils.dbrelease.rehearsal.change import Change
from ansible.module_utils.dbrelease.release.load import load
from ansible.module_utils.dbrelease.release.requirements import Demands
from ansible.module_utils.dbrelease.report.commands import checked_commands

ROOT = Path(__file__).resolve().parents[3]
MINIMAL = Path(__file__).parent / "data/minimal"
RELEASES = [*sorted(path.parent for path in (ROOT / "releases").glob("*/release.yml")), MINIMAL]

# Of each module the options that hold parts of the release, as its role passes them.
PASSED: dict[str, Any] = {
    "verification_info": lambda release: {
        "structure": {"tables": release["tables"], "revision": release["migration"]["to_revision"]},
        "checks": {"checks": release["checks"]},
        "scenarios": {"scenarios": release["scenarios"]},
        "plans": {"plans": release["plans"]},
    },
    "preflight_info": lambda release: {"release": release},
    "guard_info": lambda release: {
        "guards": release["rollback"]["guards"],
        "created": release["tables"]["created"],
        "altered": release["tables"]["altered"],
    },
    "payload": lambda release: {"payload": release["migration"]["payload"]},
}


@pytest.mark.parametrize("module", PASSED)
@pytest.mark.parametrize("folder", RELEASES, ids=lambda folder: folder.name)
def test_the_parts_of_a_release_are_accepted(folder: Path, module: str) -> None:
    passed = PASSED[module](load(folder, ROOT / "schemas"))
    options = importlib.import_module(module).OPTIONS
    result = ArgumentSpecValidator({name: options[name] for name in passed}).validate(passed)
    assert result.error_messages == []


def test_every_reader_takes_the_smallest_release() -> None:
    """What it omits has been filled in, so that no reader needs a default of its own."""
    release = load(MINIMAL, ROOT / "schemas")
    demands, change = Demands.of(release, "test"), Change.of(release)
    assert (demands.from_revision, demands.to_revision, demands.minimum_major) == ("aaa1", "bbb2", 14)
    assert (change.goes_back, change.guards, change.default_wait) == (True, [], True)
    commands = checked_commands(release, folder=ROOT, root=ROOT, inventories=["staging"])
    assert commands == {"restore": "ansible-playbook playbooks/restore.yml -i staging -e release=minimal"}
