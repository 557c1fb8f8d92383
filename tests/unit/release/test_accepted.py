"""What a role hands from a release to its modules is accepted by their options: a new key breaks no run."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator  # type: ignore[import-untyped]
from ansible.module_utils.dbrelease.release.load import load

ROOT = Path(__file__).resolve().parents[3]
RELEASES = sorted(path.parent for path in (ROOT / "releases").glob("*/release.yml"))

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
