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
  - The services C(backend) and C(db), which every release may use, are always included.
options:
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
        named = {name: known.get(f"{name}_container") or "" for name in dict.fromkeys([*ALWAYS, *services])}
        return [{name: self._templar.template(container) or "" for name, container in named.items()}]
