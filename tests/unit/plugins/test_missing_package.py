"""A Python of the target without a package that a module needs is named, and so is what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_target import play


@pytest.mark.parametrize(
    ("module", "arguments", "package", "install"),
    [
        ("payload", {"payload": []}, "docker", "docker"),
        ("sql_check_info", {"checks": []}, "psycopg2", "psycopg2-binary"),
    ],
)
def test_it_is_named(tmp_path: Path, module: str, arguments: dict[str, object], package: str, install: str) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    names = {"run_id": "20260102T030405Z-a1b2c3", "release": "x", "environment": "e", "playbook": "p"}
    run = {**names, "state_dir": str(tmp_path / "state")}
    python = f"{bare}/bin/python"
    played = play(
        tmp_path,
        [{"name": "Begin", module: {"run": run, **arguments}}],
        {"shop": {"ansible_python_interpreter": python}},
    )
    said = " ".join(played.output.split())
    assert f"{module} on shop failed ({python} there has no package {package}), and it did nothing" in said
    assert f"-m pip install {install}`" in said and "Traceback" not in said
    assert not (tmp_path / "state").exists(), json.dumps(names)
