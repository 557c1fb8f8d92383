"""The action of a module that needs no other: a link of its name leads here, and says which module it is."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.action import DeclaredAction, declared_by  # noqa: E402


class ActionModule(DeclaredAction):
    """See library/ for the module of this name."""

    declared = declared_by(__file__)
