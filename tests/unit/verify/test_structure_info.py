"""structure: every kind of deviation goes red in that very proof."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.verify.structure import act
from declared_tables import PROOFS, SQL, TABLES

COLUMNS, INDEXES, CONSTRAINTS = PROOFS[2:]
DROP_FK = "ALTER TABLE order_items DROP CONSTRAINT order_items_order_id_fkey;"
ADD_FK = DROP_FK + "ALTER TABLE order_items ADD CONSTRAINT order_items_order_id_fkey FOREIGN KEY "
DROP_INDEX = "DROP INDEX idx_order_items_order_id;"
ADD_INDEX = DROP_INDEX + "CREATE INDEX idx_order_items_order_id ON order_items "

DEVIATIONS: list[tuple[str, str, list[str], str]] = [
    ("older revision", "UPDATE alembic_version SET version_num = 'a1'", ["structure.revision"], "holds a1, not b2"),
    ("two heads", "INSERT INTO alembic_version VALUES ('c3')", ["structure.revision"], "holds b2, c3, not b2"),
    ("no revision", "DELETE FROM alembic_version", ["structure.revision"], "holds no revision"),
    ("no bookkeeping", "DROP TABLE alembic_version", ["structure.revision"], "no table alembic_version"),
    ("old column gone", 'ALTER TABLE orders DROP "Title"', ["structure.orders.columns"], "Missing: Title."),
    ("old table gone", "DROP TABLE orders CASCADE", ["structure.orders.columns", CONSTRAINTS], "no table orders"),
    ("new table gone", "DROP TABLE order_items", [COLUMNS, INDEXES, CONSTRAINTS], "There is no table order_items"),
    ("a view instead", "DROP TABLE order_items; CREATE VIEW order_items AS SELECT 1 AS id", PROOFS[2:], "no table"),
    ("column missing", "ALTER TABLE order_items DROP by", [COLUMNS], "Missing: by."),
    ("column more", "ALTER TABLE order_items ADD extra int", [COLUMNS], "Unexpected: extra."),
    ("length", "ALTER TABLE order_items ALTER by TYPE varchar(20)", [COLUMNS], "character varying(20) instead of"),
    ("type", "ALTER TABLE order_items ALTER at TYPE timestamp", [COLUMNS], "timestamp without time zone instead"),
    ("nullable", "ALTER TABLE order_items ALTER at DROP NOT NULL", [COLUMNS], "nullable True instead of False"),
    ("not nullable", "ALTER TABLE order_items ALTER by SET NOT NULL", [COLUMNS], "nullable False instead of True"),
    ("index missing", DROP_INDEX, [INDEXES], "Missing: idx_order_items_order_id"),
    ("index on another column", ADD_INDEX + "(account_id)", [INDEXES], "columns (account_id) instead of (order_id)"),
    ("index on an expression", ADD_INDEX + "(upper(by))", [INDEXES], "columns (upper(by::text)) instead of"),
    ("index partial", ADD_INDEX + "(order_id) WHERE by IS NULL", [INDEXES], "where by IS NULL instead of nothing"),
    ("index of another kind", ADD_INDEX + "USING hash (order_id)", [INDEXES], "method hash instead of btree"),
    (
        "index unique",
        DROP_INDEX + "CREATE UNIQUE INDEX idx_order_items_order_id ON order_items (order_id)",
        [INDEXES],
        "unique True instead of False",
    ),
    (
        "index invalid",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_order_items_order_id'::regclass",
        [INDEXES],
        "valid False instead of True",
    ),
    (
        "index not ready",
        "UPDATE pg_index SET indisready = false WHERE indexrelid = 'idx_order_items_order_id'::regclass",
        [INDEXES],
        "ready False instead of True",
    ),
    (
        "order of columns",
        "ALTER TABLE order_items DROP CONSTRAINT uq_order_items, "
        "ADD CONSTRAINT uq_order_items UNIQUE (account_id, order_id)",
        [INDEXES, CONSTRAINTS],
        "columns (account_id, order_id) instead of (order_id, account_id)",
    ),
    ("no primary key", "ALTER TABLE order_items DROP CONSTRAINT order_items_pkey", [CONSTRAINTS], "Missing: order_"),
    ("foreign key missing", DROP_FK, [CONSTRAINTS], "Missing: order_items_order_id_fkey"),
    ("not cascading", ADD_FK + "(order_id) REFERENCES orders", [CONSTRAINTS], "on_delete no_action instead of cascade"),
    (
        "set null",
        ADD_FK + "(order_id) REFERENCES orders ON DELETE SET NULL",
        [CONSTRAINTS],
        "on_delete set_null instead of cascade",
    ),
    (
        "cascading updates",
        ADD_FK + "(order_id) REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE",
        [CONSTRAINTS],
        "on_update cascade instead of no_action",
    ),
    (
        "matching in full",
        ADD_FK + "(order_id) REFERENCES orders MATCH FULL ON DELETE CASCADE",
        [CONSTRAINTS],
        "match full instead of simple",
    ),
    (
        "references another table",
        ADD_FK + "(order_id) REFERENCES accounts ON DELETE CASCADE",
        [CONSTRAINTS],
        "references accounts (id) instead of orders (id)",
    ),
    (
        "from another column",
        ADD_FK + "(account_id) REFERENCES orders ON DELETE CASCADE",
        [CONSTRAINTS],
        "columns (account_id) instead of (order_id)",
    ),
    (
        "not validated",
        ADD_FK + "(order_id) REFERENCES orders ON DELETE CASCADE NOT VALID",
        [CONSTRAINTS],
        "validated False instead of True",
    ),
    (
        "deferrable",
        ADD_FK + "(order_id) REFERENCES orders ON DELETE CASCADE DEFERRABLE",
        [CONSTRAINTS],
        "deferrable True instead of False",
    ),
    (
        "deferred",
        ADD_FK + "(order_id) REFERENCES orders ON DELETE CASCADE INITIALLY DEFERRED",
        [CONSTRAINTS],
        "deferrable True instead of False, initially_deferred True instead of False",
    ),
    (
        "of another type",
        DROP_FK + "ALTER TABLE order_items ADD CONSTRAINT order_items_order_id_fkey CHECK (order_id IS NOT NULL)",
        [CONSTRAINTS],
        "type check instead of foreign_key",
    ),
    (
        "a constraint more",
        "ALTER TABLE order_items ADD CONSTRAINT more CHECK (by <> '')",
        [CONSTRAINTS],
        "Unexpected: more",
    ),
]


@pytest.fixture
def params(login_parameters: dict[str, Any], run_parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        **login_parameters,
        "run": run_parameters,
        "tables": copy.deepcopy(TABLES),
        "revision": "b2",
        "bookkeeping_table": "alembic_version",
        "reconcile_command": "",
    }


@pytest.fixture
def cursor(session: psycopg2.extensions.connection) -> psycopg2.extensions.cursor:
    cursor = session.cursor()
    cursor.execute(SQL)
    return cursor


def statuses(result: dict[str, Any]) -> dict[str, str]:
    return {proof["name"]: proof["status"] for proof in result["proofs"]}


def test_the_declared_structure_passes(params: dict[str, Any], cursor: Any) -> None:
    result = act(params, False)
    assert statuses(result) == dict.fromkeys(PROOFS, "pass"), result["message"]
    assert result["message"] == ""
    assert result["proofs"][2]["observed"]["by"] == {"type": "character varying(255)", "nullable": True}


@pytest.mark.parametrize(("broken", "red", "said"), [row[1:] for row in DEVIATIONS], ids=[row[0] for row in DEVIATIONS])
def test_a_deviation_is_red_in_its_own_proof(
    params: dict[str, Any], cursor: Any, broken: str, red: list[str], said: str
) -> None:
    cursor.execute(broken)
    result = act(params, False)
    assert [name for name, status in statuses(result).items() if status == "fail"] == red
    assert said in result["message"]


@pytest.mark.parametrize(
    ("broken", "proof", "named"),
    [
        (DROP_FK, CONSTRAINTS, True),
        (DROP_FK + "ALTER TABLE order_items DROP CONSTRAINT uq_order_items", CONSTRAINTS, True),
        (ADD_FK + "(order_id) REFERENCES orders ON DELETE CASCADE DEFERRABLE", CONSTRAINTS, True),
        (
            "ALTER TABLE order_items ADD FOREIGN KEY (order_id) REFERENCES orders, ADD CHECK (by <> '')",
            CONSTRAINTS,
            True,
        ),
        ("ALTER TABLE order_items ADD CHECK (by <> '')", CONSTRAINTS, False),
        ("ALTER TABLE order_items DROP CONSTRAINT uq_order_items", CONSTRAINTS, False),
        (
            DROP_FK + "ALTER TABLE order_items ADD CONSTRAINT order_items_order_id_fkey CHECK (by <> '')",
            CONSTRAINTS,
            False,
        ),
        (DROP_INDEX, INDEXES, False),
        ("DROP TABLE order_items", CONSTRAINTS, False),
    ],
)
def test_red_foreign_keys_name_the_command_that_repairs_them(
    params: dict[str, Any], cursor: Any, broken: str, proof: str, named: bool
) -> None:
    cursor.execute(broken)
    result = act({**params, "reconcile_command": "reconcile -i {environment}"}, False)
    (red,) = [one for one in result["proofs"] if one["name"] == proof]
    assert red["status"] == "fail" and ("`reconcile -i test`" in red["remedy"]) == named


BOOKINGS = """
CREATE TABLE bookings (
  id int, room text, email text, amount int, during int4range, code int, order_id uuid,
  CONSTRAINT bookings_pkey PRIMARY KEY (id),
  CONSTRAINT amount_is_positive CHECK (amount > 0),
  CONSTRAINT none_overlap EXCLUDE USING gist (during WITH &&) WHERE (amount > 1) DEFERRABLE INITIALLY DEFERRED,
  CONSTRAINT code_is_unique UNIQUE (code) DEFERRABLE,
  CONSTRAINT order_is_known FOREIGN KEY (order_id) REFERENCES orders (id) DEFERRABLE INITIALLY DEFERRED);
CREATE UNIQUE INDEX ix_email ON bookings (lower(email), room, (amount + code));
CREATE INDEX ix_room ON bookings USING hash (room) WHERE amount > 10 AND room <> 'a  b';
"""
DEFERRED = {"deferrable": True, "initially_deferred": True}
BOOKED: dict[str, Any] = {
    "columns": {
        "id": {"type": "integer", "nullable": False},
        "room": {"type": "text", "nullable": True},
        "email": {"type": "text", "nullable": True},
        "amount": {"type": "integer", "nullable": True},
        "during": {"type": "int4range", "nullable": True},
        "code": {"type": "integer", "nullable": True},
        "order_id": {"type": "uuid", "nullable": True},
    },
    "indexes": {
        "ix_email": {"columns": ["lower(email)", "room", "(amount + code)"], "unique": True},
        "ix_room": {
            "columns": ["room"],
            "unique": False,
            "method": "hash",
            "where": "amount > 10 AND room <> 'a  b'::text",
        },
    },
    "constraints": {
        "bookings_pkey": {"type": "primary_key", "columns": ["id"]},
        "amount_is_positive": {"type": "check", "definition": "CHECK ((amount > 0))"},
        "none_overlap": {
            "type": "exclusion",
            "definition": "EXCLUDE USING gist (during WITH &&) WHERE ((amount > 1)) DEFERRABLE INITIALLY DEFERRED",
            **DEFERRED,
        },
        "code_is_unique": {"type": "unique", "columns": ["code"], "deferrable": True},
        "order_is_known": {
            "type": "foreign_key",
            "columns": ["order_id"],
            "references": {"table": "orders", "columns": ["id"]},
            "on_delete": "no_action",
            **DEFERRED,
        },
    },
}


def instead(kind: str, name: str, definition: str) -> str:
    """Another one under the name."""
    if kind == "index":
        return f"DROP INDEX {name}; CREATE {definition.format(name)}"
    return f"ALTER TABLE bookings DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {definition}"


# What is broken, in which part, and what is said.
BROKEN_BOOKINGS: dict[str, tuple[str, str, str]] = {
    "check gone": ("ALTER TABLE bookings DROP CONSTRAINT amount_is_positive", "constraints", "Missing: amount_is_pos"),
    "check of less": (
        instead("check", "amount_is_positive", "CHECK (amount >= 0)"),
        "constraints",
        "definition CHECK ((amount >= 0)) instead of CHECK ((amount > 0))",
    ),
    "check not valid": (
        instead("check", "amount_is_positive", "CHECK (amount > 0) NOT VALID"),
        "constraints",
        "validated False instead of True",
    ),
    "a check more": ("ALTER TABLE bookings ADD CONSTRAINT more CHECK (code > 0)", "constraints", "Unexpected: more"),
    "exclusion gone": ("ALTER TABLE bookings DROP CONSTRAINT none_overlap", "constraints", "Missing: none_overlap"),
    "exclusion of more rows": (
        instead("exclusion", "none_overlap", "EXCLUDE USING gist (during WITH &&) DEFERRABLE INITIALLY DEFERRED"),
        "constraints",
        "definition EXCLUDE USING gist (during WITH &&) DEFERRABLE INITIALLY DEFERRED instead of",
    ),
    "exclusion not deferrable": (
        instead("exclusion", "none_overlap", "EXCLUDE USING gist (during WITH &&) WHERE (amount > 1)"),
        "constraints",
        "deferrable False instead of True",
    ),
    "key not deferrable": (
        instead("unique", "code_is_unique", "UNIQUE (code)"),
        "constraints",
        "deferrable False instead of True",
    ),
    "key deferred": (
        instead("unique", "code_is_unique", "UNIQUE (code) INITIALLY DEFERRED"),
        "constraints",
        "initially_deferred True instead of False",
    ),
    "foreign key not deferrable": (
        instead("foreign key", "order_is_known", "FOREIGN KEY (order_id) REFERENCES orders"),
        "constraints",
        "deferrable False instead of True",
    ),
    "foreign key not deferred": (
        instead("foreign key", "order_is_known", "FOREIGN KEY (order_id) REFERENCES orders DEFERRABLE"),
        "constraints",
        "initially_deferred False instead of True",
    ),
    "index of another expression": (
        instead("index", "ix_email", "UNIQUE INDEX {} ON bookings (upper(email), room, (amount + code))"),
        "indexes",
        "columns (upper(email), room, (amount + code)) instead of (lower(email), room, (amount + code))",
    ),
    "index of the column": (
        instead("index", "ix_email", "UNIQUE INDEX {} ON bookings (email, room, (amount + code))"),
        "indexes",
        "columns (email, room, (amount + code)) instead of",
    ),
    "index by another method": (
        instead("index", "ix_room", "INDEX {} ON bookings (room) WHERE amount > 10 AND room <> 'a  b'"),
        "indexes",
        "method btree instead of hash",
    ),
    "index of every row": (
        instead("index", "ix_room", "INDEX {} ON bookings USING hash (room)"),
        "indexes",
        "where nothing instead of amount > 10 AND room <> 'a  b'::text",
    ),
    "index of other rows": (
        instead("index", "ix_room", "INDEX {} ON bookings USING hash (room) WHERE amount > 10 AND room <> 'a b'"),
        "indexes",
        "where amount > 10 AND room <> 'a b'::text instead of amount > 10 AND room <> 'a  b'::text",
    ),
}


def test_what_is_declared_as_the_server_writes_it_passes(params: dict[str, Any], cursor: Any) -> None:
    cursor.execute(BOOKINGS)
    params["tables"]["created"]["bookings"] = copy.deepcopy(BOOKED)
    result = act(params, False)
    assert set(statuses(result).values()) == {"pass"}, result["message"]


@pytest.mark.parametrize(("broken", "part", "said"), BROKEN_BOOKINGS.values(), ids=BROKEN_BOOKINGS.keys())
def test_what_is_not_as_the_server_wrote_it_is_red(
    params: dict[str, Any], cursor: Any, broken: str, part: str, said: str
) -> None:
    cursor.execute(BOOKINGS)
    cursor.execute(broken)
    params["tables"]["created"]["bookings"] = copy.deepcopy(BOOKED)
    result = act(params, False)
    assert [name for name, status in statuses(result).items() if status == "fail"] == [f"structure.bookings.{part}"]
    assert said in result["message"]


PARTITIONED = f"""
{DROP_FK} DROP TABLE orders;
CREATE TABLE orders (id uuid PRIMARY KEY, "Title" text) PARTITION BY HASH (id);
CREATE TABLE orders_0 PARTITION OF orders FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY HASH (id);
CREATE TABLE orders_10 PARTITION OF orders_1 FOR VALUES WITH (MODULUS 1, REMAINDER 0);
"""
ADD_TO = "ADD CONSTRAINT order_items_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders (id)"


@pytest.mark.parametrize("on", ["order_items", "every_item"])
def test_a_foreign_key_to_a_partitioned_table_is_one(params: dict[str, Any], cursor: Any, on: str) -> None:
    """Also that of a table of which the release's own is a partition."""
    cursor.execute(f"{PARTITIONED} CREATE TABLE every_item (LIKE order_items) PARTITION BY RANGE (at)")
    cursor.execute("ALTER TABLE every_item ATTACH PARTITION order_items DEFAULT")
    cursor.execute(f"ALTER TABLE {on} {ADD_TO} ON DELETE CASCADE")
    assert statuses(act(params, False)) == dict.fromkeys(PROOFS, "pass")
    cursor.execute(f"ALTER TABLE {on} DROP CONSTRAINT order_items_order_id_fkey, {ADD_TO}")
    result = act(params, False)
    assert [name for name, status in statuses(result).items() if status == "fail"] == [CONSTRAINTS]
    assert "on_delete no_action instead of cascade" in result["message"] and "Unexpected" not in result["message"]


def test_an_index_more_is_mentioned_but_not_red(params: dict[str, Any], cursor: Any) -> None:
    cursor.execute("CREATE INDEX idx_more ON order_items (at)")
    result = act(params, False)
    assert statuses(result) == dict.fromkeys(PROOFS, "pass")
    assert result["proofs"][3]["detail"] == "All 2 are as declared. Also there: idx_more."


def test_names_are_found_by_the_search_path_or_their_schema(params: dict[str, Any], cursor: Any) -> None:
    cursor.execute('CREATE SCHEMA "Sales"; CREATE TABLE "Sales"."Odd ""Name" (id int)')
    cursor.execute('CREATE TABLE "Sales".orders (id int)')
    params["tables"]["existing"] = {'Sales.Odd "Name': ["id"], "public.orders": ["Title"], "Sales.orders": ["Title"]}
    reference = params["tables"]["created"]["order_items"]["constraints"]["order_items_order_id_fkey"]["references"]
    reference["table"] = "public.orders"
    found = statuses(act(params, False))
    assert found['structure.Sales.Odd "Name.columns'] == "pass"
    assert found["structure.public.orders.columns"] == "pass"
    assert found["structure.Sales.orders.columns"] == "fail"
    assert found[CONSTRAINTS] == "pass"


def test_it_is_journalled_but_not_in_check_mode(params: dict[str, Any], cursor: Any) -> None:
    journal = Path(params["run"]["state_dir"]) / "journal.jsonl"
    planned = act(params, True)
    assert not journal.exists()
    assert statuses(planned) == statuses(act(params, False))
    assert '"step": "structure", "event": "passed"' in journal.read_text()


ADD = """
ALTER TABLE orders ADD state varchar(10) NOT NULL DEFAULT 'new', ADD closed_at timestamptz, ADD parent uuid,
  ADD CONSTRAINT state_is_known CHECK (state IN ('new', 'done')),
  ADD CONSTRAINT parent_is_known FOREIGN KEY (parent) REFERENCES orders (id) ON DELETE SET NULL,
  ADD CONSTRAINT title_once UNIQUE ("Title", parent);
CREATE INDEX ix_open ON orders (state, lower(note)) WHERE closed_at IS NULL;
"""
ADDED: dict[str, Any] = {
    "columns": {
        "state": {"type": "character varying(10)", "nullable": False},
        "closed_at": {"type": "timestamp with time zone", "nullable": True},
        "parent": {"type": "uuid", "nullable": True},
    },
    "indexes": {"ix_open": {"columns": ["state", "lower(note)"], "unique": False, "where": "closed_at IS NULL"}},
    "constraints": {
        "state_is_known": {
            "type": "check",
            "definition": "CHECK (((state)::text = ANY ((ARRAY['new'::character varying, 'done'::character varying])"
            "::text[])))",
        },
        "parent_is_known": {
            "type": "foreign_key",
            "columns": ["parent"],
            "references": {"table": "orders", "columns": ["id"]},
            "on_delete": "set_null",
        },
        "title_once": {"type": "unique", "columns": ["Title", "parent"]},
    },
}
ADDED_PROOFS = [f"structure.orders.added_{part}" for part in ADDED]
BROKEN_ADDITIONS: dict[str, tuple[str, list[str], str]] = {
    "column gone": ("ALTER TABLE orders DROP parent CASCADE", ["columns", "constraints"], "Missing: parent."),
    "column of another type": (
        "ALTER TABLE orders ALTER closed_at TYPE date",
        ["columns"],
        "closed_at has type date instead of timestamp with time zone",
    ),
    "column nullable": ("ALTER TABLE orders ALTER state DROP NOT NULL", ["columns"], "nullable True instead of False"),
    "index gone": ("DROP INDEX ix_open", ["indexes"], "Missing: ix_open."),
    "index of every row": (
        "DROP INDEX ix_open; CREATE INDEX ix_open ON orders (state, lower(note))",
        ["indexes"],
        "where nothing instead of closed_at IS NULL",
    ),
    "index not valid": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_open'::regclass",
        ["indexes"],
        "valid False instead of True",
    ),
    "check gone": ("ALTER TABLE orders DROP CONSTRAINT state_is_known", ["constraints"], "Missing: state_is_known."),
    "check of another": (
        "ALTER TABLE orders DROP CONSTRAINT state_is_known, ADD CONSTRAINT state_is_known CHECK (state <> '')",
        ["constraints"],
        "instead of CHECK (((state)::text = ANY",
    ),
    "foreign key not valid": (
        "ALTER TABLE orders DROP CONSTRAINT parent_is_known, ADD CONSTRAINT parent_is_known FOREIGN KEY (parent)"
        " REFERENCES orders (id) ON DELETE SET NULL NOT VALID",
        ["constraints"],
        "validated False instead of True",
    ),
    "key of another order": (
        'ALTER TABLE orders DROP CONSTRAINT title_once, ADD CONSTRAINT title_once UNIQUE (parent, "Title")',
        ["constraints"],
        "columns (parent, Title) instead of (Title, parent)",
    ),
}


@pytest.fixture
def altered(params: dict[str, Any], cursor: Any) -> dict[str, Any]:
    cursor.execute(ADD)
    params["tables"]["altered"] = {"orders": copy.deepcopy(ADDED)}
    return params


def test_what_is_added_to_an_existing_table_passes_whatever_else_it_has(altered: dict[str, Any], cursor: Any) -> None:
    cursor.execute("ALTER TABLE orders ADD more int CHECK (more > 0); CREATE INDEX ON orders (more)")
    result = act(altered, False)
    assert statuses(result) == dict.fromkeys([*PROOFS, *ADDED_PROOFS], "pass"), result["message"]
    found = {proof["name"]: proof for proof in result["proofs"]}
    assert list(found[ADDED_PROOFS[0]]["observed"]) == list(ADDED["columns"])
    assert found[ADDED_PROOFS[1]]["detail"] == "All 1 are as declared."


@pytest.mark.parametrize(("broken", "parts", "said"), BROKEN_ADDITIONS.values(), ids=BROKEN_ADDITIONS.keys())
def test_what_is_not_added_as_declared_is_red(
    altered: dict[str, Any], cursor: Any, broken: str, parts: list[str], said: str
) -> None:
    cursor.execute(broken)
    result = act({**altered, "reconcile_command": "reconcile"}, False)
    assert [name for name, status in statuses(result).items() if status == "fail"] == [
        f"structure.orders.added_{part}" for part in parts
    ]
    # Nothing but the tables that the release makes is reconciled.
    assert said in result["message"] and "reconcile" not in result["message"]


def test_only_what_is_declared_is_proved(altered: dict[str, Any], cursor: Any) -> None:
    altered["tables"]["altered"]["orders"] = {"indexes": ADDED["indexes"]}
    assert [name for name in statuses(act(altered, False)) if "added" in name] == ["structure.orders.added_indexes"]


def test_a_missing_table_has_nothing_of_what_is_added(altered: dict[str, Any], cursor: Any) -> None:
    cursor.execute("DROP TABLE orders CASCADE")
    found = {proof["name"]: proof for proof in act(altered, False)["proofs"]}
    assert {(found[name]["status"], found[name]["detail"]) for name in ADDED_PROOFS} == {
        ("fail", "There is no table orders.")
    }
