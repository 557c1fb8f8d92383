"""Each long step starts its meter: its counter is shown while it works, and its series is in the evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import restore_world
import sql_script
import sql_step
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.core.stages import stages_of
from ansible.module_utils.dbrelease.report.parts import progress_of_stages
from restore_world import World
from shown_progress import shown_progress

world = restore_world.world
SLOWLY = "DO $$ BEGIN PERFORM pg_sleep(0.5); END $$;"  # so that its counter is read
LOCK = {"timeout_ms": 100, "attempts": 3, "deadline_seconds": 20}


def moved(world: World, revision: str) -> None:
    """By a script, which has the same mover as Alembic."""
    params: dict[str, Any] = {"script": f"{SLOWLY} UPDATE alembic_version SET version_num = '{revision}'", "lock": LOCK}
    params |= {"from_revision": "1a2b3c4d5e6f", "revision": revision, "bookkeeping_table": "alembic_version"}
    params |= {"timeout_seconds": 60, "session_settings": {}, "log_label": "log"}
    assert sql_script.act({**world.base(), **params}, False)["changed"]


def finalized(world: World, batch: dict[str, Any]) -> None:
    pending = "SELECT count(*) AS pending FROM orders WHERE at > now()"
    some = f"SELECT id FROM orders WHERE at > now() LIMIT {batch.get('batch_rows', 'ALL')}"
    sql = f"{SLOWLY} UPDATE orders SET at = now() WHERE id IN ({some})"
    step = {"name": "titles", "title": "Fill the titles", "pending": pending, "sql": sql, **batch}
    world.execute("UPDATE orders SET at = now() + interval '1 hour'")
    services = {"guards": [], "containers": {}, "api_base_url": "", "timeout_seconds": 5.0}
    budget = {"tables": [], "budget": {"write_wait_ms": 1000}}
    params = {"steps": [step], "checks": [], "lock": LOCK, "services": services, **budget}
    assert sql_step.act({**world.base(), **params, "application_name": "dbrelease finalize"}, False)["changed"]


def restored(world: World) -> None:
    world.back_up()
    world.execute("DELETE FROM orders WHERE id = 7")
    assert world.restore()["changed"]


WORK: dict[str, tuple[Callable[[World], object], str]] = {
    "dump": (lambda world: world.back_up(), "bytes"),
    "decode": (lambda world: world.back_up(), "bytes"),
    "restore": (restored, "bytes"),
    "downgrade": (lambda world: moved(world, "0a1b2c3d4e5f"), "bytes"),
    "finalize": (lambda world: finalized(world, {}), "bytes"),
    "finalize in batches": (lambda world: finalized(world, {"batch_rows": 1500}), "rows"),
}


@pytest.mark.parametrize("name", WORK)
def test_a_long_step_is_measured(name: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    work, unit = WORK[name]
    if name == "dump":
        world.execute("INSERT INTO orders (title) SELECT repeat(md5(n::text), 200) FROM generate_series(1, 20000) n")
    world.next_run()
    shown = shown_progress(monkeypatch)
    work(world)
    step = name.partition(" ")[0]
    counted = {state["unit"] for state in shown if state["step"] == step and "done" in state}
    stages = stages_of(Journal(Run(**world.run)).read())
    series = {one["unit"] for one in progress_of_stages(stages) if one["step"] == step and one["points"]}
    assert counted == series == {unit}
