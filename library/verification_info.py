#!/usr/bin/python
"""Whether everything is true that a release promises."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verification_info
short_description: Whether everything is true that a release promises
description:
  - Takes the looks that are given, in the order of this page, and then judges by all their proofs. One call in place of
    one for each look, since a call costs more than what it looks at.
  - Each look does what the module of its name does, with the same options and in a session of its own, and journals
    its own step. A look that is not given is not taken, and proves nothing.
  - Journals V(verify) as passed or failed. Fails if a proof is red or a look cannot be taken.
extends_documentation_fragment: [login, run]
options:
  structure:
    description: Options of M(structure_info).
    type: dict
  checks:
    description: Options of M(sql_check_info).
    type: dict
  scenarios:
    description: Options of M(sql_scenario_info).
    type: dict
  plans:
    description: Options of M(query_plan_info).
    type: dict
  untouched:
    description: Options of M(untouched_info).
    type: dict
  api:
    description: Options of M(api_contract_info).
    type: dict
  left_out:
    description: By journal step, why a look is not given; journalled as skipped, so that the evidence says it.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Reads only. In check mode nothing is journalled either.
  diff_mode:
    support: none
    description: The proofs show what was expected and what was seen.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Verify
  verification_info:
    login_host: 172.18.0.2
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    checks:
      checks:
        - name: no_order_without_account
          title: No order without its account
          violations: SELECT o.id FROM orders o LEFT JOIN accounts a ON a.id = o.account_id WHERE a.id IS NULL
    untouched:
      except_tables: [order_items]
"""

RETURN = r"""
proofs:
  description: The proofs of every look, in their order.
  type: list
  elements: dict
  returned: always
held:
  description: Of the proofs that failed, the names of the checks that held when they were proved, after the migration.
  type: list
  elements: str
  returned: always
  sample: []
message:
  description: One sentence per proof that failed, else empty.
  type: str
  returned: always
  sample: ""
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal
from ansible.module_utils.dbrelease.core.options import LOGIN_OPTIONS, RUN_OPTIONS, Options, run_of
from ansible.module_utils.dbrelease.core.proof import Proof
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.postgres.could_not_run import could_not_run, verdict_of
from ansible.module_utils.dbrelease.verify import api, checks, plans, scenarios, structure, unchanged

LOOKS = {
    "structure": structure,
    "checks": checks,
    "scenarios": scenarios,
    "plans": plans,
    "untouched": unchanged,
    "api": api,
}
# Of a claim that stands for a whole look, where the server could not answer at all.
TITLES = {
    "structure": "The structure can be read",
    "checks": "The declared checks can be read",
    "scenarios": "The scenarios can be played",
    "plans": "The plans of the declared queries can be read",
    "untouched": "The tables that the release leaves alone can be compared with the baseline",
    "api": "The API can be compared with its contract",
}
OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **{name: {"type": "dict", "options": look.OPTIONS} for name, look in LOOKS.items()},
    "left_out": {"type": "dict", "default": {}},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Take every look that is given; red proofs end in ReleaseError, and so do claims that could not be looked at."""
    journal = Journal(run_of(params), dry=check_mode)
    proofs: list[dict[str, Any]] = []
    held: list[str] = []
    for name, look in LOOKS.items():
        if params[name] is None:
            continue
        try:
            result = look.act({**params, **params[name]}, check_mode)
        except ReleaseError as error:
            if not could_not_run(error):
                raise
            result = {"proofs": [Proof(f"verify.{name}", TITLES[name], **verdict_of(error, "It")).as_dict()]}
        proofs += result["proofs"]
        held += result.get("held") or ()
    for step, reason in params["left_out"].items():
        journal.append(step, "skipped", {"message": reason})
    try:
        journal.judge("verify", proofs)
    except ReleaseError as error:
        error.facts.update(proofs=proofs, held=held)
        raise
    return {"proofs": proofs, "held": held, "message": ""}


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
