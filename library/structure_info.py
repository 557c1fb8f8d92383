#!/usr/bin/python
"""Whether the database has the structure that a release declares."""

from __future__ import annotations

DOCUMENTATION = r"""
module: structure_info
short_description: Whether revision, tables, columns, indexes and constraints are as a release declares them
description:
  - Reads the server's catalogs, in one snapshot, and compares.
  - A table that the release makes has exactly the declared columns and constraints, and at least the declared indexes,
    which are valid and ready. Constraints are validated, and deferrable only if they are declared so. A table that was
    there before still has the columns that the release relies on.
  - A table that is missing makes all of its proofs red.
  - Fails only if the catalogs cannot be read. Journals the step V(structure).
extends_documentation_fragment: [login, run]
options:
  tables:
    description:
      - The release's tables. Names without a schema are resolved by the search path.
    type: dict
    required: true
    suboptions:
      existing:
        description: What was there before; by table a list of columns.
        type: dict
        default: {}
      created:
        description:
          - What the release makes; by table C(columns), C(indexes) and C(constraints), each by name.
          - A column has C(type), as the server's C(format_type) spells it (V(character varying(255))), and C(nullable).
          - An index has C(columns) in their order (an expression as pg_get_indexdef(index, number, true) writes it),
            C(unique), and if need be C(method) (else V(btree)) and C(where), the condition of a partial one as
            pg_get_expr(indpred, indrelid, true) writes it.
          - A constraint has C(type) (V(primary_key), V(unique), V(foreign_key), V(check), V(exclusion)) and C(columns);
            a V(check) and an V(exclusion) have, in place of these, C(definition) as pg_get_constraintdef() writes it.
            A foreign key has also C(references) (C(table), C(columns)) and C(on_delete) (V(cascade), V(set_null),
            V(no_action), V(restrict), V(set_default)), and may have C(on_update) (one of these, else V(no_action)) and
            C(match) (V(full), else V(simple)). All but a check may have C(deferrable) and C(initially_deferred), which
            are else V(false).
        type: dict
        default: {}
      altered:
        description:
          - What the release adds to tables that were there before; by table C(columns), C(indexes) and C(constraints),
            any of them, in the same form. The table may have others besides.
        type: dict
        default: {}
  revision:
    description: The one revision that the database must be at.
    type: str
    required: true
  reconcile_command:
    description:
      - What the remedy of red foreign keys tells the operator to type.
      - C({environment}) in it stands for the environment of O(run).
    type: str
    default: ""
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
- name: Read the structure back
  structure_info:
    login_host: 172.18.0.2
    login_user: user
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    revision: 9b1c7d2e4f60
    tables:
      existing:
        orders: [id, account_id]
      created:
        order_items:
          columns:
            id: {type: uuid, nullable: false}
            order_id: {type: uuid, nullable: false}
          indexes:
            idx_order_items_order_id: {columns: [order_id], unique: false}
          constraints:
            order_items_pkey: {type: primary_key, columns: [id]}
            order_items_order_id_fkey:
              {type: foreign_key, columns: [order_id], references: {table: orders, columns: [id]}, on_delete: cascade}
      altered:
        orders:
          columns:
            item_count: {type: integer, nullable: false}
          constraints:
            item_count_is_possible: {type: check, definition: CHECK ((item_count >= 0))}
  register: structure
"""

RETURN = r"""
proofs:
  description:
    - C(structure.revision), for each existing table C(structure.<table>.columns), for each created one also
      C(structure.<table>.indexes) and C(structure.<table>.constraints). C(observed) is everything that is there.
    - For each altered table C(structure.<table>.added_columns), C(structure.<table>.added_indexes) and
      C(structure.<table>.added_constraints), where it has any. C(observed) is what is there under the declared names.
  type: list
  elements: dict
  returned: always
message:
  description: One sentence per proof that failed, else empty.
  type: str
  returned: always
  sample: ""
"""

from ansible.module_utils.dbrelease.core.options import LOGIN_OPTIONS, RUN_OPTIONS, Options
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.verify import structure

OPTIONS: Options = {**LOGIN_OPTIONS, **RUN_OPTIONS, **structure.OPTIONS}
act = structure.act


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
