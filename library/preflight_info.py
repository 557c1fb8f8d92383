#!/usr/bin/python
"""Whether a release may begin: everything that stands in its way, at once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight_info
short_description: Whether a release may start, with everything that prevents it
description:
  - Checks services, database, migration history, files, disk space and API of a target in parallel, and judges each.
  - Every rule is a proof C(preflight.<rule>), and every rule is in every result. A rule that cannot be judged because
    another one failed is skipped, and names that one.
  - A failed proof does not fail the module, but ends the journal's step C(preflight) as C(refused). Where the state
    directory cannot be written, or others may write it, nothing is journalled, and a proof reports it.
  - C(preflight.state_dir) also reports other access to the state directory, which is no reason to refuse. That is a git
    work tree that contains it, and a container of the release in which it is mounted writable.
  - The declared statements are planned in a transaction that is always rolled back, the observations on the current
    tables, the others on the tables as the release leaves them. In it an empty table represents one that the
    release will create, without foreign keys, so that no other table is locked; and a temporary one represents a table
    that lacks what the release will add to it, which takes C(ACCESS SHARE) on that table. A temporary table is found by
    its bare name only; where a statement names the schema and needs an addition, the proof reports it.
  - Nothing is planned where the release's text could call an operator or a function that has a name of the server's own
    and belongs to a role that is not trusted. Where such roles may make one, the proof is inconclusive and names the
    schema. Trusted are superusers, the user with the roles that it may become, the owner of the database, whoever may
    become one of them, and whoever may write the table with the revision.
  - It waits up to 30 seconds for a declared service that is still starting.
extends_documentation_fragment: [environment, login, run, api, db_container, backend]
options:
  release:
    description: The whole release, as M(release_info) returns it.
    type: dict
    required: true
  services:
    description: The state of the services, as M(run) returns it.
    type: dict
    default: {}
  address_problem:
    description: Why the database has no address, as M(run) returns it.
    type: str
    default: ""
  workdir:
    description: Working directory of the migration command if it runs on the target itself.
    type: path
  require_restorable:
    description: Whether a doubt that the backup can be restored (C(preflight.restorable)) refuses the release.
    type: bool
    default: false
  require_staging_evidence:
    description: Whether evidence of a run that deployed this release in staging is required.
    type: bool
    default: false
  staging_evidence_path:
    description: The C(evidence.json) of that run, on the target; refused where others than root may write it.
    type: path
    default: ""
requirements: [psycopg2, docker, requests]
attributes:
  check_mode:
    support: full
    description: Checks as usual, but does not write the journal.
  diff_mode:
    support: none
    description: There is nothing to compare.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Check the preconditions
  preflight_info:
    run: "{{ opened.run }}"
    login_host: "{{ target.login_host }}"
    login_port: "{{ target.login_port }}"
    login_user: shop
    login_password: "{{ shop_password }}"
    login_db: shop
    release: "{{ release }}"
    services: "{{ target.services }}"
    address_problem: "{{ target.address_problem }}"
    backend_container: shop_backend
    db_container: shop_postgres
    api_base_url: http://localhost:8000
  register: preflight
"""

RETURN = r"""
state:
  description:
    - V(ready) if the release may start, V(deployed) if the database already has it, V(unfinished) if it has it from
      a run that started the upgrade and was not verified since, or was interrupted afterwards, V(refused) if
      any proof failed.
  type: str
  returned: always
  sample: ready
unreconciled:
  description:
    - Whether the release is deployed, and an interrupted M(reconcile) left a foreign key that is not as declared or not
      valid yet. Another M(reconcile) finishes it.
  type: bool
  returned: always
proofs:
  description:
    - One proof of each rule, with C(name), C(title), C(status), C(expected), C(observed), C(detail), C(remedy).
  type: list
  elements: dict
  returned: always
message:
  description: One sentence on each failed proof, with its remedy; empty if there is none.
  type: str
  returned: always
  sample: ""
summary:
  description: The number of failed proofs, and their rules; empty if there is none.
  type: str
  returned: always
  sample: "2 problems: services, database."
server_version:
  description: The version of the server; empty if it was not reached.
  type: str
  returned: always
  sample: "15.18"
revision:
  description: The revision of the database; empty if it has none, or more than one.
  type: str
  returned: always
  sample: 3f1c0a9b7d52
watched:
  description: Whether the release is deployed, and a watch since then has passed.
  type: bool
  returned: always
payload_missing:
  description: The destinations of the release's files that are still missing.
  type: list
  elements: str
  returned: always
  sample: [/app/migrations/versions/9b7d523f1c0a_create_order_items.py]
target_facts:
  description:
    - The observations, with C(services), C(server_version), C(server_major), C(data_directory), C(revisions), C(heads),
      C(dump_bytes_estimate), C(dump_free_bytes), C(existing_bytes), C(table_free_bytes), C(dump_tools) and
      C(payload_missing). Numbers are null where they could not be observed.
  type: dict
  returned: always
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.options import (
    API_OPTIONS,
    BACKEND_OPTIONS,
    DB_CONTAINER_OPTIONS,
    ENVIRONMENT_OPTIONS,
    LOGIN_OPTIONS,
    RUN_OPTIONS,
    Options,
)
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.preflight.preflight import preflight

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **ENVIRONMENT_OPTIONS,
    **BACKEND_OPTIONS,
    **DB_CONTAINER_OPTIONS,
    **API_OPTIONS,
    "release": {"type": "dict", "required": True},
    "services": {"type": "dict", "default": {}},
    "address_problem": {"type": "str", "default": ""},
    "workdir": {"type": "path"},
    "require_restorable": {"type": "bool", "default": False},
    "require_staging_evidence": {"type": "bool", "default": False},
    "staging_evidence_path": {"type": "path", "default": ""},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Look, judge, and journal what came of it."""
    return preflight(params, check_mode)


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
