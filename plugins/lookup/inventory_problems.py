"""What is wrong with the variables of a target, before anything is done with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils
import yaml
from ansible.errors import AnsibleError  # type: ignore[import-untyped]
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator  # type: ignore[import-untyped]
from ansible.plugins.lookup import LookupBase  # type: ignore[import-untyped]
from ansible.utils.display import Display  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.release import inventory  # noqa: E402
from ansible.module_utils.dbrelease.release.schema_errors import Schemas  # noqa: E402

DOCUMENTATION = r"""
name: inventory_problems
author: The authors of dbrelease
short_description: What is wrong with the variables of a target
description:
  - Checks all variables by C(schemas/inventory.schema.json), and those that set an option of a role by the role's
    C(meta/argument_specs.yml).
  - Warns of each unknown variable whose name is nearly that of a known one.
options: {}
"""

EXAMPLES = r"""
- name: Refuse variables that are missing or wrong
  ansible.builtin.fail:
    msg: "{{ lookup('inventory_problems', wantlist=true) | join(' ') }}"
  when: lookup('inventory_problems', wantlist=true) | length > 0
"""

RETURN = r"""
_raw:
  description: One sentence for each variable that is missing or wrong, with its meaning and an example.
  type: list
  elements: str
"""

CHECKED = ("type", "elements", "choices")


class LookupModule(LookupBase):  # type: ignore[misc]
    """See DOCUMENTATION."""

    def run(self, terms: list[Any], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """The sentences."""
        given = variables or {}
        schemas, roles = Schemas(ROOT / "schemas"), _options_of_roles()
        values: dict[str, Any] = {}
        unreadable: dict[str, str] = {}
        known = schemas.content(inventory.NAME)["properties"]
        for name in given:
            if name not in known and name not in roles:
                continue
            try:
                values[name] = self._templar.template(given[name])
            except AnsibleError as error:
                if name in known:  # an option of a role may use what that role registers
                    unreadable[name] = " ".join(str(error).split())
        for name, meant in inventory.unknown(given, schemas, roles).items():
            Display().warning(f"The variable {name} is not known; if {meant} is meant, correct its name.")
        found = [*inventory.problems(values, unreadable, list(given), schemas), *wrong_options(values, roles)]
        return [f"{number}) {text}" for number, text in enumerate(found, start=1)] if len(found) > 1 else found


def wrong_options(values: Mapping[str, Any], roles: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One sentence for each option of a role that is set to what it does not take."""
    found = []
    for name in [name for name in roles if name in values]:
        spec = {key: value for key, value in roles[name].items() if key in CHECKED}
        errors = ArgumentSpecValidator({name: spec}).validate({name: values[name]}).error_messages
        if errors:
            meaning = roles[name]["description"]
            meaning = meaning if isinstance(meaning, str) else " ".join(meaning)
            said = "it has another type or value" if roles[name].get("no_log") else " ".join(errors)
            found.append(f"{name} is not valid ({said}): {meaning}")
    return found


def _read(file: Path) -> Any:
    # The loader in C takes a tenth of the time, where PyYAML has it.
    return yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506


def _options_of_roles() -> dict[str, dict[str, Any]]:
    """The options that a user may set; those of role run are the variables of the schema under other names."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml")):
        if file.parts[-3] == "run":
            continue
        for entry in _read(file)["argument_specs"].values():
            found |= entry.get("options") or {}
    return found
