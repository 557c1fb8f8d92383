"""The lookup controller names the process that runs the playbook, also from a worker that renders a template."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.dbrelease.core.process import Machine, Process, is_running, this_machine

PLUGIN = Path(__file__).resolve().parents[3] / "plugins/lookup/controller.py"


def look() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("controller", PLUGIN)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (found,) = module.LookupModule().run([])
    return dict(found)


def test_it_is_this_process_on_this_machine() -> None:
    seen = look()
    assert seen["pid"] == os.getpid() and seen["user"] and seen["host"]
    assert Machine(seen["boot_id"], seen["pid_namespace"]) == this_machine()
    assert is_running(Process(seen["pid"], seen["started"]))
    assert not is_running(Process(seen["pid"], seen["started"] + "0"))


def test_in_a_forked_worker_it_is_the_worker_s_parent() -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(look) == look()
