"""The containers of a release's services, as an inventory names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.plugins.lookup import LookupBase  # type: ignore[import-untyped]

DOCUMENTATION = r"""
name: containers
author: The authors of dbrelease
short_description: The containers of a release's services, as the inventory names them
description:
  - The variable C(<service>_container) names a service's container; empty where there is no such variable, for a
    target without it.
  - Where there is no such variable, but C(compose_project), it is the container that C(run_opened) has found in that
    Compose project.
  - The services C(backend) and C(db), which every release may use, are always included.
options:
  composed:
    description:
      - Whether to return the services that no variable names, with their names in the Compose file, as
        C(compose_services) has them.
    type: bool
    default: false
  _terms:
    description: The names of the services that the release declares.
    required: true
"""

EXAMPLES = r"""
- name: Open the run
  run:
    containers: "{{ lookup('containers', ['backend', 'db', 'search']) }}"
"""

RETURN = r"""
_raw:
  description: The name of the container, or an empty text, by service.
  type: list
  elements: dict
"""

ALWAYS = ("backend", "db")


class LookupModule(LookupBase):  # type: ignore[misc]
    """See DOCUMENTATION."""

    def run(self, terms: list[Any], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[dict[str, str]]:
        """One dict."""
        (services,) = terms
        known = variables or {}
        names = list(dict.fromkeys([*ALWAYS, *services]))
        unnamed = [name for name in names if f"{name}_container" not in known]
        if kwargs.get("composed"):
            own = self._templar.template(known.get("compose_services") or {})
            return [{name: str(own.get(name) or name) for name in unnamed}]
        # Found on the target: never a template.
        opened = known.get("run_opened")
        found = (opened.get("containers") or {}) if isinstance(opened, Mapping) and known.get("compose_project") else {}
        named = {name: self._templar.template(known.get(f"{name}_container") or "") or "" for name in names}
        return [{name: str(found.get(name) or "") if name in unnamed else one for name, one in named.items()}]
