#!/usr/bin/python
"""The baseline and the backup of a database, taken at one instant."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup
short_description: The baseline and the backup of a database, taken at one instant
description:
  - Exports one snapshot, and reads the baseline from it (identity, revision, rows and fingerprint of every table, the
    release's observations) while C(pg_dump) streams the same instant to the state directory. Writers are not blocked.
  - The dump gets its name only after it was read back from disk completely and decoded by C(pg_restore), with an
    unchanged sha256. The manifest is written last. A dump without a manifest is no backup.
  - Files are created with mode 0600, folders with mode 0700. No file is ever overwritten.
  - After a failure no file is left that could be mistaken for a backup, and no server session of C(pg_dump).
  - Files in the state directory are C(backup_before_<label>_<stamp>.dump),
    C(backup_before_<label>_<stamp>.manifest.json), C(pre_migration_state_<stamp>.json) and
    C(pre_migration_state_<stamp>.txt).
extends_documentation_fragment: [login, run, db_container]
options:
  label:
    description: The release, as written in the names of files.
    type: str
    required: true
  changed:
    description:
      - C(tables.changed) of the release. Of each of these tables the baseline also has a fingerprint of the columns
        that keep their type, which are compared after the release.
    type: dict
    default: {}
  observations:
    description: What to record with the baseline.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Identifier.
        type: str
        required: true
      title:
        description: Heading for people.
        type: str
        required: true
      sql:
        description: One SELECT. The server refuses anything that writes.
        type: str
        required: true
  timeout_seconds:
    description: The time limit of the dump, and of decoding it, in seconds each.
    type: int
    default: 3600
attributes:
  check_mode:
    support: full
    description: Reads the database's identity and size; takes no backup and writes no file.
  diff_mode:
    support: none
    description: There is nothing to compare.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Take the backup
  backup:
    login_host: "{{ target.login_host }}"
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    label: "2.4"
    db_container: shop_postgres
    observations:
      - name: total_orders
        title: Total orders
        sql: SELECT count(*) AS total_orders FROM orders
  register: backup
"""

RETURN = r"""
proofs:
  description:
    - C(baseline.documented), C(backup.saved), C(backup.decoded), and C(backup.restorable), which is V(inconclusive)
      until the backup has been restored; V(skipped) in check mode.
  type: list
  elements: dict
  returned: always
message:
  description: One sentence for each proof that failed; empty if none failed.
  type: str
  returned: always
dump:
  description: Path of the dump (in check mode, where it would be).
  type: str
  returned: always
manifest:
  description: Path of its manifest.
  type: str
  returned: always
files:
  description: Paths of the baseline, C(json) in full and C(txt) for people.
  type: dict
  returned: always
sha256:
  description: The sha256 of the dump; empty in check mode.
  type: str
  returned: always
bytes:
  description: Size of the dump; 0 in check mode.
  type: int
  returned: always
duration_ms:
  description: Time for the dump, in milliseconds; 0 if none was taken.
  type: int
  returned: always
tool_version:
  description: What C(pg_dump --version) prints; empty in check mode.
  type: str
  returned: always
server_version:
  description: The version of the database server.
  type: str
  returned: always
decoded:
  description: Whether the dump was decoded in full.
  type: bool
  returned: always
baseline:
  description:
    - C(system_identifier) (null if the role may not read it), C(database), C(database_oid), C(database_bytes),
      C(server_version), C(xid); in run mode also C(taken_at), C(revision), C(observations), C(table_count) and
      C(row_count). The state of each table is in the files and the journal.
  type: dict
  returned: always
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.backup.take import back_up
from ansible.module_utils.dbrelease.core.options import (
    DB_CONTAINER_OPTIONS,
    LOGIN_OPTIONS,
    RUN_OPTIONS,
    Options,
)
from ansible.module_utils.dbrelease.module import run_module

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **DB_CONTAINER_OPTIONS,
    "label": {"type": "str", "required": True},
    "changed": {"type": "dict", "default": {}},
    "observations": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {key: {"type": "str", "required": True} for key in ("name", "title", "sql")},
    },
    "timeout_seconds": {"type": "int", "default": 3600},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Take both; in check mode report what would be taken."""
    return back_up(params, check_mode)


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
