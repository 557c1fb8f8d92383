"""Where Ansible ignores ansible.cfg, each playbook says so and what to do, before anything else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = sorted({path.name for path in (ROOT / "playbooks").glob("*.yml")} - {"settings.yml", "in_force.yml"})
SAID = ("ansible.cfg) are not in force", "nothing was touched", "chmod o-w .", "ANSIBLE_CONFIG=$PWD/ansible.cfg")


def check_syntax(folder: Path, playbook: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "ansible-playbook")
    argv = [program, "--syntax-check", f"playbooks/{playbook}", "-i", "target,", "-e", "release=sample"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return subprocess.run(
        argv, cwd=folder, env={**clean, **environment}, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As a CI runner or WSL makes one: everybody may write to it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    needed = "playbooks roles library module_utils plugins ansible.cfg collections releases schemas"
    for part in needed.split():
        (folder / part).symlink_to(ROOT / part)
    folder.chmod(0o777)
    return folder


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_a_checkout_that_everybody_may_write_to_is_named(checkout: Path, playbook: str) -> None:
    ended = check_syntax(checkout, playbook)
    assert ended.returncode != 0
    assert [said in " ".join(ended.stderr.split()) for said in SAID] == [True] * len(SAID), ended.stderr


def test_with_the_configuration_named_it_is_no_matter(checkout: Path) -> None:
    ended = check_syntax(checkout, "verify.yml", ANSIBLE_CONFIG=str(checkout / "ansible.cfg"))
    assert ended.returncode == 0, ended.stderr
