"""The action of every module without its own: a link with the module's name leads here and identifies it."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.action import DeclaredAction, declared_by  # noqa: E402


class ActionModule(DeclaredAction):
    """See library/ for the module of this name."""

    declared = declared_by(__file__)
