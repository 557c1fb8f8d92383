"""The application beside the throwaway server: what it is made of, what it gets, and what it cannot reach."""

from __future__ import annotations

import io
import secrets
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.host.http import Answer
from ansible.module_utils.dbrelease.postgres.session import Login, select, session
from ansible.module_utils.dbrelease.rehearsal import files as copied_files
from ansible.module_utils.dbrelease.rehearsal.api_on_copy import prove_new, prove_old
from ansible.module_utils.dbrelease.rehearsal.application import Recipe, aliases_of, api_port, rehearsing
from ansible.module_utils.dbrelease.rehearsal.files import NewFile, copy_files, hidden_in, roots_of
from ansible.module_utils.dbrelease.rehearsal.recipe import Limits, LiveServer
from ansible.module_utils.dbrelease.rehearsal.server import labels_of, throwaway_server
from ansible.module_utils.dbrelease.release.requirements import PayloadFile
from ansible.module_utils.dbrelease.verify.api import Endpoint, EndpointObservation, Latency
from run_ids import RUN_ID
from server_in_container import container, engine, own_server

__all__ = ["container", "engine", "own_server"]

DATABASE = {
    "Name": "/shop_db_1",
    "Config": {"Hostname": "0123abc", "Labels": {"com.docker.compose.service": "db"}},
    "NetworkSettings": {
        "Networks": {
            "shop": {"Aliases": ["postgres"], "DNSNames": ["shop_db_1", "db.internal"], "IPAddress": "172.20.0.2"},
            "back": {"Aliases": None, "IPAddress": ""},
        }
    },
}
NAMES = ["0123abc", "db", "db.internal", "postgres", "shop_db_1"]


@pytest.mark.parametrize(
    ("host", "more"),
    [
        pytest.param({}, [], id="nothing else"),
        pytest.param({"ExtraHosts": ["main-db:172.20.0.2", "mail:172.20.0.9"]}, ["main-db"], id="extra host"),
        pytest.param({"ExtraHosts": ["host.docker.internal=host-gateway"]}, ["host.docker.internal"], id="gateway"),
        pytest.param({"Links": ["/shop_db_1:/shop_web_1/database", "/mail:/shop_web_1/mail"]}, ["database"], id="link"),
    ],
)
def test_the_copy_has_each_name_by_which_the_application_may_find_the_live_one(
    host: dict[str, Any], more: list[str]
) -> None:
    assert aliases_of(DATABASE, {"HostConfig": host}) == sorted([*NAMES, *more])
    assert aliases_of(DATABASE, None) == NAMES


@pytest.mark.parametrize(
    ("ports", "exposed", "published", "port"),
    [
        ({"8000/tcp": [{"HostPort": "8001"}]}, {}, 8001, 8000),
        ({"8000/tcp": [{"HostPort": "8001"}], "9000/tcp": None}, {}, 8001, 8000),
        ({"8000/tcp": None}, {}, 443, 8000),
        ({}, {"5000/tcp": {}, "5000/udp": {}}, 443, 5000),
        ({"8000/tcp": None, "9000/tcp": None}, {}, 443, None),
        ({"8000/tcp": None, "9000/tcp": None}, {}, 9000, 9000),
        ({}, {}, 80, None),
    ],
)
def test_the_port_of_the_api_in_its_container(
    ports: dict[str, Any], exposed: dict[str, Any], published: int, port: int | None
) -> None:
    attributes = {"NetworkSettings": {"Ports": ports}, "Config": {"ExposedPorts": exposed}}

    assert api_port(attributes, published) == port


MOUNTED = {
    "Mounts": [
        {"Source": "/srv/shop/migrations", "Destination": "/app/migrations"},
        {"Source": "/srv/shop/settings.ini", "Destination": "/etc/shop.ini"},
        {"Source": "/srv/shop/data", "Destination": "/data"},
    ]
}


def test_what_is_mounted_is_copied_but_not_the_state_of_the_runs() -> None:
    payload = [PayloadFile("a.py", "/app/migrations/versions/a.py", ""), PayloadFile("b.sql", "/sql/b.sql", "")]

    assert roots_of(MOUNTED, "/app", payload) == ["/app", "/data", "/etc/shop.ini", "/sql"]
    assert roots_of({}, "/", []) == []
    assert hidden_in(MOUNTED, "/srv/shop/migrations/backups") == ["/app/migrations/backups"]
    assert hidden_in(MOUNTED, "/srv/shop/data") == ["/data"]
    assert hidden_in(MOUNTED, "/var/lib/releases") == []


IMAGE = "drawing-backend:stack"


@pytest.fixture
def application(engine: docker.DockerClient, tmp_path: Path) -> Iterator[Any]:
    """A running application with a mounted folder, which also has the state of the runs and a socket."""
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    (folder / "versions/first.py").write_text("first")
    (folder / "latest.py").symlink_to("versions/first.py")
    (folder / "backups").mkdir()
    (folder / "backups/secret.dump").write_text("rows")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "live.sock"))
        made = engine.containers.run(
            IMAGE,
            ["sleep", "600"],
            name=f"test_application_{secrets.token_hex(4)}",
            init=True,
            detach=True,
            working_dir="/app",
            environment={"FLAVOUR": "vanilla", "VIRTUAL_HOST": "live.example"},
            volumes={str(folder): {"bind": "/app/migrations", "mode": "rw"}},
        )
        yield made
        made.remove(force=True)


def run_of(state: Path) -> Run:
    return Run(f"{RUN_ID[:-6]}{secrets.token_hex(3)}", "sample", "test", "rehearse", str(state))


OTHERS = """
SELECT auth_method FROM pg_hba_file_rules
WHERE type <> 'local' AND netmask IS DISTINCT FROM '255.255.255.255' AND address NOT IN ('127.0.0.1', '::1')
"""
LIMITS = Limits(1.0, 512 << 20, 60, 300)


def test_it_runs_with_the_live_files_and_settings_reaches_the_copy_and_nothing_else(
    own_server: Login, container: str, application: Any, engine: docker.DockerClient, tmp_path: Path
) -> None:
    run = run_of(tmp_path / "migrations/backups")
    item = PayloadFile("second.py", "/app/migrations/versions/second.py", "")
    live = engine.containers.get(container).attrs
    superuser = live["Config"]["Env"]
    user = next(line.partition("=")[2] for line in superuser if line.startswith("POSTGRES_USER="))
    with throwaway_server(run, live["Image"], LiveServer(user), LIMITS, ["live-db"]) as server:
        recipe = Recipe.of(run, str(application.name), LIMITS)
        with rehearsing(recipe, "alembic", [NewFile(item, b"second")], server.login, environment={"MORE": "x"}) as one:

            def printed(*argv: str) -> str:
                finished = one.commands.run(argv, timeout_s=30)
                return finished.stdout.strip() if finished.status == 0 else f"status {finished.status}"

            assert printed("cat", "/app/migrations/latest.py") == "first"
            assert printed("cat", "/app/migrations/versions/second.py") == "second"
            assert printed("ls", "/app/migrations/backups") != "secret.dump"
            assert printed("test", "-e", "/app/migrations/live.sock") == "status 1"
            assert printed("printenv", "FLAVOUR", "MORE") == "vanilla\nx"
            assert printed("printenv", "VIRTUAL_HOST") == "status 1"
            attributes = engine.containers.get(one.name).attrs
            assert attributes["Mounts"] == []
            assert list(attributes["NetworkSettings"]["Networks"]) == [server.network]
            # Without a password, by a name of the live server, and as any role.
            reach = (
                "import psycopg2, sys; print(psycopg2.connect(host=sys.argv[1], user=sys.argv[2], dbname='postgres',"
                " connect_timeout=3).info.host)"
            )
            assert printed("python3", "-c", reach, "live-db", user) == "live-db"
            assert printed("python3", "-c", reach, own_server.host, user) == "status 1"
        assert engine.containers.list(all=True, filters={"name": one.name}) == []
        # Nobody else comes in without a password.
        assert "trust" not in _hba_for(server.login)
    labelled: dict[str, Any] = {"label": [f"{key}={value}" for key, value in labels_of(run).items()]}
    assert engine.containers.list(all=True, filters=labelled) == []


def _hba_for(login: Login) -> list[str]:
    """The methods for more than one address of another machine."""
    with session(login, "tests") as cursor:
        return [row["auth_method"] for row in select(cursor, OTHERS)]


def test_a_folder_that_is_too_large_is_left_out_with_the_reason(
    application: Any, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copied_files, "FILES_AT_MOST", 2)
    target = engine.containers.create(IMAGE, ["sleep", "60"])
    try:
        left = copy_files(engine, application.name, str(target.id), ["/app/migrations", "/no/such"], [])
        with pytest.raises(docker.errors.NotFound):
            target.get_archive("/app/migrations/latest.py")
    finally:
        target.remove(force=True)

    assert left == ["/app/migrations (it has more than 256 MiB or 2 files)", "/no/such (it does not exist)"]


def test_a_long_name_keeps_its_place() -> None:
    """tarfile writes the name of a PAX header in place of the entry's own."""
    packed, kept, name = io.BytesIO(), io.BytesIO(), f"{'é' * 60}/{'x' * 120}"
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(f"app/{name}"))
    packed.seek(0)
    with tarfile.open(fileobj=kept, mode="w|") as archive:
        assert copied_files._filter(packed, archive, "/usr/src", []) == ""

    kept.seek(0)
    with tarfile.open(fileobj=kept) as archive:
        assert archive.getnames() == [f"usr/src/app/{name}"]


def test_a_folder_with_a_name_that_leads_out_of_it_is_left_out() -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("app/../../../tmp/out")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"out"))
    kept = io.BytesIO()
    packed.seek(0)
    with tarfile.open(fileobj=kept, mode="w|") as archive:
        reason = copied_files._filter(packed, archive, "/", [])

    assert reason == "it has a name that leads out of it"


def test_an_application_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="there is no container no_such_container") as caught:
        Recipe.of(run_of(tmp_path), "no_such_container", LIMITS)

    assert caught.value.refused


ORDERS = Endpoint("orders", "/orders", 200, "list", ("id", "title"))
LATENCY = Latency(requests=2, factor=3.0, floor_ms=250)


def answered(status: int = 200, *keys: str) -> list[EndpointObservation]:
    items = (frozenset(keys or ("id", "title")),)
    return [EndpointObservation(ORDERS, (Answer(5.0, status=status, kind="list", items=items),))]


GOOD = answered()


@pytest.mark.parametrize(
    ("before", "now", "old", "new", "says"),
    [
        pytest.param(GOOD, GOOD, "pass", "pass", "as on the old schema", id="the same answers"),
        pytest.param(GOOD, answered(500), "pass", "fail", "had status 500", id="it fails on the new schema"),
        pytest.param(GOOD, answered(200, "id"), "pass", "fail", "missing: title", id="a key is missing"),
        pytest.param(GOOD, "its container ended", "pass", "fail", "on the new one, its container ended", id="it ends"),
        pytest.param(answered(500), GOOD, "inconclusive", "inconclusive", "downgraded copy, either", id="never works"),
        pytest.param("it did not answer", "", "inconclusive", "inconclusive", "either", id="needs another service"),
    ],
)
def test_the_api_is_judged_by_its_answers_on_the_old_schema(
    before: Any, now: Any, old: str, new: str, says: str
) -> None:
    proved = prove_new(before, now, LATENCY)

    assert (prove_old(before).status, proved.status) == (old, new)
    assert says in proved.detail
