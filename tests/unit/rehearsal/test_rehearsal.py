"""The module `rehearsal`: a backup is proved in a container of its server's image, and nothing of that is left."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import backup as backup_module
import docker
import pytest
import rehearsal
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.core.proof import Proof
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.rehearsal import rehearse as act
from ansible.module_utils.dbrelease.rehearsal import server as server_module
from ansible.module_utils.dbrelease.rehearsal.recipe import Limits, LiveServer
from ansible.module_utils.dbrelease.rehearsal.server import TARGET_LABEL, throwaway_server
from ansible.module_utils.dbrelease.restore.compare import read_state
from ansible.module_utils.dbrelease.restore.copy import make_copy as real_make_copy
from own_sessions import connect
from run_ids import RUN_ID
from server_in_container import PASSWORD, container, engine, own_server

__all__ = ["container", "engine", "own_server"]

# Roles, a tablespace, settings and an extension: what a dump of one database needs, and does not have.
SCHEMA = """
CREATE ROLE "shop owner" LOGIN PASSWORD 'a secret' CONNECTION LIMIT 7;
CREATE ROLE readers ROLE "shop owner";
ALTER ROLE "shop owner" SET statement_timeout = '5min';
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE "fast disk" LOCATION '';
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('1a2b3c4d5e6f');
CREATE TABLE orders (id serial PRIMARY KEY, title text NOT NULL) TABLESPACE "fast disk";
INSERT INTO orders (title) SELECT 'order ' || n FROM generate_series(1, 500) n;
ALTER TABLE orders OWNER TO "shop owner";
GRANT SELECT ON orders TO readers;
"""


class Shop:
    """A live database in a container, whose last backup can be rehearsed."""

    def __init__(self, login: Login, container: str, state: Path, engine: docker.DockerClient) -> None:
        self.login, self.container, self.state, self.engine = login, container, state, engine
        # The names of containers are those of the run: of no other test's that runs beside.
        self.run_id = f"{RUN_ID[:-6]}{secrets.token_hex(3)}"

    def base(self) -> dict[str, Any]:
        login = self.login
        return {
            "login_host": login.host,
            "login_port": login.port,
            "login_user": login.user,
            "login_password": login.password,
            "login_db": login.database,
            "ssl_mode": login.ssl_mode,
            "ssl_root_cert": "",
            "bookkeeping_table": "alembic_version",
            "run": {
                "run_id": self.run_id,
                "release": "sample",
                "environment": "test",
                "playbook": "rehearse",
                "state_dir": str(self.state),
            },
            "db_container": self.container,
            "label": "2.4",
            "timeout_seconds": 120,
        }

    def back_up(self) -> dict[str, Any]:
        return backup_module.act({**self.base(), "observations": []}, False)

    def rehearse(self, check_mode: bool = False, **changes: Any) -> dict[str, Any]:
        given = {key: option.get("default") for key, option in rehearsal.OPTIONS.items()}
        return rehearsal.act({**given, **self.base(), "required": True, **changes}, check_mode)

    def manifest(self) -> dict[str, Any]:
        (path,) = self.state.glob(f"*{self.run_id.split('-')[0].replace('T', '_').rstrip('Z')}*.manifest.json")
        return dict(json.loads(path.read_text()))

    def left(self) -> list[str]:
        """Containers, networks and volumes that a rehearsal of this target made."""
        labelled: dict[str, Any] = {"label": f"{TARGET_LABEL}={self.state}"}
        containers = [str(one.name) for one in self.engine.containers.list(all=True, filters=labelled)]
        return containers + [str(one.name) for one in self.engine.networks.list(filters=labelled)]

    def rows(self) -> dict[str, Any]:
        return read_state(self.login, "tests")[0]


@pytest.fixture(scope="module")
def live(own_server: Login) -> Login:
    with closing(connect(own_server, "tests")) as session, session.cursor() as cursor:
        for statement in SCHEMA.strip().split(";\n"):
            cursor.execute(statement)
    return own_server


@pytest.fixture
def shop(live: Login, container: str, engine: docker.DockerClient, tmp_path: Path) -> Iterator[Shop]:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    made = Shop(live, container, state, engine)
    yield made
    assert made.left() == []


def statuses(proofs: list[dict[str, Any]]) -> dict[str, str]:
    return {proof["name"]: proof["status"] for proof in proofs}


def test_a_restore_in_a_throwaway_server_proves_the_backup_and_leaves_nothing(
    shop: Shop, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.back_up()
    before = shop.rows()
    taken: list[str] = []

    def watched(target: Any, *more: Any) -> Any:
        (name,) = shop.left()[:1]
        attributes = engine.containers.get(name).attrs
        assert not attributes["HostConfig"]["PortBindings"]
        assert engine.networks.get(name).attrs["Internal"]
        taken.extend(mount["Name"] for mount in attributes["Mounts"])
        return real_make_copy(target, *more)

    monkeypatch.setattr(act, "make_copy", watched)
    result = shop.rehearse()

    assert statuses(result["proofs"]) == {
        "restore.backup": "pass",
        "rehearse.restored": "pass",
        "rehearse.settings": "pass",
        "rehearse.sequences": "pass",
        "backup.restorable": "pass",
    }
    restored = shop.manifest()["restored"]
    assert restored["where"] == "container"
    assert restored["run_id"] == shop.run_id
    assert restored["restore_ms"] == result["restore_ms"] > 0
    assert shop.rows() == before
    assert taken
    assert not {one.name for one in engine.volumes.list()} & set(taken)
    # Neither the verifiers of roles nor the superuser's own password are written anywhere.
    kept = "".join(path.read_text(errors="replace") for path in shop.state.rglob("*.json*"))
    assert "SCRAM-SHA-256$" not in kept
    assert PASSWORD not in kept


def test_check_mode_starts_nothing(shop: Shop) -> None:
    result = shop.rehearse(check_mode=True)

    assert set(statuses(result["proofs"]).values()) == {"skipped"}
    assert list(shop.state.iterdir()) == []


def test_a_copy_that_differs_from_the_baseline_is_no_proof(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.back_up()

    def another(target: Any, backup: Any, *more: Any) -> Any:
        tables = backup.content["tables"]
        tables["public.orders"] = {**tables["public.orders"], "rows": tables["public.orders"]["rows"] + 1}
        return real_make_copy(target, backup, *more)

    monkeypatch.setattr(act, "make_copy", another)
    with pytest.raises(
        ReleaseError, match=r"“The restored copy equals the baseline” failed: Different: public\.orders"
    ) as caught:
        shop.rehearse()

    assert statuses(caught.value.facts["proofs"])["backup.restorable"] == "fail"
    assert shop.manifest()["restored"] is None


def test_an_image_that_starts_no_server_is_refused_with_what_it_printed(
    shop: Shop, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.back_up()
    monkeypatch.setattr(
        "ansible.module_utils.dbrelease.rehearsal.server.environment_for", lambda *_: {"POSTGRES_USER": "keeper"}
    )

    with pytest.raises(
        ReleaseError, match=r"Rehearsing was refused .*ended while it started.*POSTGRES_PASSWORD"
    ) as error:
        shop.rehearse()

    assert error.value.refused
    assert "-e rehearsal=same_server" in error.value.message


def test_where_none_is_required_a_deploy_goes_on_without_one_and_says_why(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.back_up()
    monkeypatch.setattr(
        "ansible.module_utils.dbrelease.rehearsal.server.environment_for", lambda *_: {"POSTGRES_USER": "keeper"}
    )

    shop.rehearse(required=False)

    last = json.loads((shop.state / "journal.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["event"]) == ("rehearse", "skipped")
    said = last["facts"]["message"]
    assert "The release was not rehearsed on a restored copy of the database (" in said
    assert "ended while it started" in said


def test_a_backup_that_fails_is_refused_also_where_no_rehearsal_is_required(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.back_up()
    monkeypatch.setattr(act, "_sequences", lambda *_: Proof(act.SEQUENCES_PROOF, "Sequences", "fail", detail="Behind."))

    with pytest.raises(ReleaseError, match="“Sequences” failed: Behind") as caught:
        shop.rehearse(required=False)

    assert caught.value.refused


def test_a_backup_that_cannot_be_restored_is_refused_with_its_cause(shop: Shop) -> None:
    with closing(connect(shop.login, "tests")) as session, session.cursor() as cursor:
        cursor.execute("CREATE SCHEMA tools")
        cursor.execute("CREATE FUNCTION tools.small(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)'")
        cursor.execute("SET search_path = public, tools")
        cursor.execute("CREATE TABLE notes (body text)")
        cursor.execute(
            "CREATE FUNCTION public.slug(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN small($1); END'"
        )
        cursor.execute("CREATE INDEX ON notes (slug(body))")
        cursor.execute("INSERT INTO notes VALUES ('A')")
    try:
        shop.back_up()
    finally:  # other tests have the same database
        with closing(connect(shop.login, "tests")) as session, session.cursor() as cursor:
            cursor.execute("DROP TABLE notes; DROP FUNCTION public.slug(text); DROP SCHEMA tools CASCADE")

    with pytest.raises(ReleaseError, match=r"could not be restored, .*function small\(text\) does not exist") as caught:
        shop.rehearse(required=False)

    assert caught.value.refused
    assert shop.left() == []


def test_a_server_that_is_too_slow_is_refused(shop: Shop) -> None:
    shop.back_up()

    with pytest.raises(ReleaseError, match="did not accept a session from the target within 0 s") as error:
        shop.rehearse(start_seconds=0)

    assert error.value.refused


def test_the_next_rehearsal_removes_what_a_killed_one_left(shop: Shop, engine: docker.DockerClient) -> None:
    shop.back_up()
    image = engine.containers.get(shop.container).attrs["Image"]
    labels = {TARGET_LABEL: str(shop.state)}
    name = f"dbrelease_rehearsal_dead_{secrets.token_hex(4)}"
    network = engine.networks.create(name, internal=True, labels=labels)
    engine.containers.run(
        image,
        name=name,
        detach=True,
        network=network.name,
        environment={"POSTGRES_PASSWORD": "x"},
        labels=labels,
    )
    assert shop.left() == [name] * 2

    shop.rehearse()

    assert shop.left() == []


def test_the_container_ends_with_its_lifetime_though_nothing_removes_it(
    shop: Shop, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after kill -9, when no run follows."""
    run = Run(**shop.base()["run"])
    image = engine.containers.get(shop.container).attrs["Image"]
    monkeypatch.setattr(server_module, "_wait", lambda *_: shop.login)

    with (
        pytest.raises(ReleaseError, match=r"did not end within 1 s \(rehearse_lifetime_seconds\)"),
        throwaway_server(run, image, LiveServer("keeper"), Limits(1.0, 512 << 20, 60, 1)) as server,
    ):
        deadline = time.monotonic() + 60
        while engine.containers.list(all=True, filters={"name": server.container}):
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_without_a_container_a_database_beside_the_live_one_is_used_and_dropped(shop: Shop) -> None:
    shop.back_up()
    before = names_of(shop.login)

    result = shop.rehearse(rehearsal="same_server")

    assert statuses(result["proofs"])["backup.restorable"] == "pass"
    assert shop.manifest()["restored"]["where"] == "same_server"
    assert names_of(shop.login) == before


def test_no_image_is_known_without_a_container(shop: Shop) -> None:
    shop.back_up()

    with pytest.raises(ReleaseError, match="the inventory names no container of the database"):
        replaced = replace(act.RehearsalPlan.of({**defaults(), **shop.base()}, False), container="")
        with act._in_container(replaced, None):  # type: ignore[arg-type]
            pass


def defaults() -> dict[str, Any]:
    return {key: option.get("default") for key, option in rehearsal.OPTIONS.items()}


def names_of(login: Login) -> list[str]:
    with closing(connect(login, "tests")) as session, session.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database ORDER BY 1")
        return [name for (name,) in cursor.fetchall()]
