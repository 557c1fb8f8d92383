"""Tables as a release declares them."""

from __future__ import annotations

from typing import Any

SQL = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('b2');
CREATE TABLE orders (id uuid PRIMARY KEY, "Title" text, note text);
CREATE TABLE accounts (id uuid PRIMARY KEY);
CREATE TABLE order_items (
  id uuid NOT NULL, order_id uuid NOT NULL, account_id uuid NOT NULL, at timestamptz NOT NULL, by varchar(255),
  CONSTRAINT order_items_pkey PRIMARY KEY (id),
  CONSTRAINT uq_order_items UNIQUE (order_id, account_id),
  CONSTRAINT order_items_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders (id) ON DELETE CASCADE);
CREATE INDEX idx_order_items_order_id ON order_items (order_id);
"""

TABLES: dict[str, Any] = {
    "existing": {"orders": ["id", "Title"]},
    "created": {
        "order_items": {
            "columns": {
                "id": {"type": "uuid", "nullable": False},
                "order_id": {"type": "uuid", "nullable": False},
                "account_id": {"type": "uuid", "nullable": False},
                "at": {"type": "timestamp with time zone", "nullable": False},
                "by": {"type": "character varying(255)", "nullable": True},
            },
            "indexes": {
                "idx_order_items_order_id": {"columns": ["order_id"], "unique": False},
                "uq_order_items": {"columns": ["order_id", "account_id"], "unique": True},
            },
            "constraints": {
                "order_items_pkey": {"type": "primary_key", "columns": ["id"]},
                "uq_order_items": {"type": "unique", "columns": ["order_id", "account_id"]},
                "order_items_order_id_fkey": {
                    "type": "foreign_key",
                    "columns": ["order_id"],
                    "references": {"table": "orders", "columns": ["id"]},
                    "on_delete": "cascade",
                },
            },
        }
    },
}

PROOFS = [
    "structure.revision",
    "structure.orders.columns",
    "structure.order_items.columns",
    "structure.order_items.indexes",
    "structure.order_items.constraints",
]
