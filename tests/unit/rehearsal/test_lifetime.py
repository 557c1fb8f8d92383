"""A rehearsal that its throwaway server did not outlive says so, and names the limit; without an engine."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import psycopg2
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.rehearsal import server as server_module
from ansible.module_utils.dbrelease.rehearsal.recipe import Limits, LiveServer, refused
from ansible.module_utils.dbrelease.rehearsal.server import throwaway_server

LOST = "server closed the connection unexpectedly"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An engine in which the server still exists, or has ended."""
    state: dict[str, Any] = {"server": {"State": {"Running": True}}}
    client = MagicMock()
    client.api.inspect_image.return_value = {"Config": {"Cmd": ["postgres"]}}
    for name, value in {
        "docker_client": lambda: client,
        "create_container": lambda *_, **__: "made",
        "output_of": lambda *_: [],
        "_wait": lambda *_: Login("127.0.0.1", 1, "keeper", "postgres", "x"),
        "remove": lambda *_: None,
        "inspect_one": lambda *_: state["server"],
    }.items():
        monkeypatch.setattr(server_module, name, value)
    return state


@pytest.mark.parametrize(
    ("lifetime", "ended", "error", "says"),
    [
        (0, True, psycopg2.OperationalError(LOST), f"{LOST}"),
        (0, True, ReleaseError(f"pg_restore failed ({LOST})."), "The error was: pg_restore failed"),
        (0, True, refused("the application did not start"), "the application did not start"),
        (0, True, None, "rehearse on a staging system."),
        # It runs, or it had more time: what ended the rehearsal is something else.
        (0, False, ReleaseError("pg_restore failed."), ""),
        (900, True, ReleaseError("pg_restore failed."), ""),
        (900, True, None, ""),
    ],
)
def test_the_limit_is_named_where_it_ended_the_rehearsal(
    engine: dict[str, Any],
    run_parameters: dict[str, Any],
    lifetime: int,
    ended: bool,
    error: Exception | None,
    says: str,
) -> None:
    def rehearse() -> None:
        limits = Limits(1.0, 512 << 20, 60, lifetime)
        with throwaway_server(Run(**run_parameters), "image", LiveServer("keeper"), limits):
            if ended:
                engine["server"] = None
            if error:
                raise error

    if not says:
        if error is None:
            rehearse()
            return
        with pytest.raises(type(error)) as same:
            rehearse()
        assert same.value is error
        return
    with pytest.raises(ReleaseError, match=r"did not end within 0 s \(rehearse_lifetime_seconds\)") as caught:
        rehearse()
    assert type(caught.value) is ReleaseError, "A rehearsal was possible, and what took so long may be the release."
    assert caught.value.refused
    assert says in caught.value.message
    assert "-e rehearse_lifetime_seconds=SECONDS" in caught.value.message
