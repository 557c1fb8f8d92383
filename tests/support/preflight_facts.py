"""What preflight sees of a target where all is well."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.dbrelease.core.proof import Proof
from ansible.module_utils.dbrelease.host.http import Answer
from ansible.module_utils.dbrelease.host.inspect import Service
from ansible.module_utils.dbrelease.migrate.alembic_probe import AlembicSession
from ansible.module_utils.dbrelease.preflight.facts import Database, Facts, Migrator, Payload, StateDir, Table
from ansible.module_utils.dbrelease.release.requirements import Demands
from preflight_world import START, release

MIB = 1 << 20

DEMANDS = Demands.of(release(Path("/srv/backend")))

DESTINATION = DEMANDS.payload[0].destination

SEEN = Database(
    version="15.4",
    major=15,
    standby=False,
    read_only=False,
    data_directory="/data",
    revisions=[START],
    tables={
        "accounts": Table("r", ("id", "email"), 1),
        "orders": Table("p", ("id", "account_id", "title", "note"), 2),
        "order_items": None,
    },
    created_rows={},
    existing_bytes=100 * MIB,
    dump_bytes=80 * MIB,
)

PLANNED = [Proof("x", "", "pass")] * len(DEMANDS.statements)

HEALTHY = Facts(
    services={"db": Service("shop_postgres", "running", "healthy")},
    database=SEEN,
    heads=[START],
    current=[START],
    history={},
    tools={"pg_dump": "15.4", "pg_restore": "16.0"},
    payload=Payload({DESTINATION: "missing"}),
    planned=PLANNED,
    state_dir=StateDir("/state", 1000 * MIB),
    table_free_bytes=1000 * MIB,
    answers={"orders": Answer(1.0, 200, "list")},
    staging=None,
    session=AlembicSession("dbrelease-probe-x", "arrived", "500", "deployer", "shop"),
    migrator=Migrator("deployer"),
)
