"""The steps of this run that may not be in its journal, for its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.plugins.lookup import LookupBase  # type: ignore[import-untyped]

DOCUMENTATION = r"""
name: unwritten_steps
author: The authors of dbrelease
short_description: The steps of this run that may not be in its journal, for its evidence
description:
  - In check mode the journal is not written, and preflight refuses a journal that it may not write. What preflight, the
    guards and readiness found is then in their registered results alone. With these lines the evidence has it.
  - Of a run that writes its journal it returns only what was refused; M(evidence) takes no step that the journal has.
"""

EXAMPLES = r"""
- name: Gather the evidence
  evidence:
    events: "{{ lookup('unwritten_steps', wantlist=true) }}"
"""

RETURN = r"""
_raw:
  description: Lines with C(step), C(event) and C(facts), as the option O(evidence#module:events) takes them.
  type: list
  elements: dict
"""

REGISTERED = {"preflight": "preflight_result", "guards": "rollback_guards", "readiness": "readiness_result"}


class LookupModule(LookupBase):  # type: ignore[misc]
    """See DOCUMENTATION."""

    def run(self, terms: list[Any], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        """A line for each; the terms are ignored."""
        known = variables or {}
        results = {step: known.get(name) for step, name in REGISTERED.items()}
        lines = [
            line(step, result) for step, result in results.items() if isinstance(result, Mapping) and judged(result)
        ]
        return [one for one in lines if known.get("ansible_check_mode") or one["event"] == "refused"]


def judged(result: Mapping[str, Any]) -> bool:
    """Whether the module completed: for one that failed, Ansible has the message."""
    return "proofs" in result and not result.get("failed")


def line(step: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """The line as the module journals it."""
    refused = result.get("state") == "refused" or result.get("ready") is False
    facts = {key: result[key] for key in ("proofs", "message", "state") if key in result}
    return {"step": step, "event": "refused" if refused else "passed", "facts": facts}
