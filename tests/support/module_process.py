"""A module as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible.module_utils.dbrelease.core.journal import Run

MODULE = """
import json, sys, time
import ansible.module_utils
ansible.module_utils.__path__.append(sys.argv[1])
from ansible.module_utils.dbrelease.runs.exclusive import acting
from ansible.module_utils.dbrelease.core.journal import Journal, Run
run = Run(**json.loads(sys.argv[2]))
with Journal(run).step("upgrade"), acting(run):
    print("acting", flush=True)
    time.sleep(60)
"""


@contextmanager
def module_of(run: Run) -> Iterator[subprocess.Popen[str]]:
    """A module that acts for a run, in a process of its own."""
    folder = str(Path(__file__).resolve().parents[2] / "module_utils")
    argv = [sys.executable, "-c", MODULE, folder, json.dumps(vars(run))]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "acting\n"
        yield process
        process.kill()
