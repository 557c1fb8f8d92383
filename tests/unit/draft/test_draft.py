"""The module `draft` refuses before anything is restored, and its folder is written whole or not at all."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import draft
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.draft.write import Source, write
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect
from run_ids import RUN_ID
from shared_database import database, emptied

__all__ = ["database", "emptied"]


def act(login: Login, state: Path, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {key: option.get("default") for key, option in draft.OPTIONS.items()}
    given |= {
        "login_host": login.host,
        "login_port": login.port,
        "login_user": login.user,
        "login_password": login.password,
        "login_db": login.database,
        "ssl_mode": login.ssl_mode,
        "ssl_root_cert": "",
        "bookkeeping_table": "alembic_version",
        "run": {
            "run_id": RUN_ID,
            "release": "sample",
            "environment": "test",
            "playbook": "draft",
            "state_dir": str(state),
        },
        "db_container": "no_such_container",
        "backend_container": "no_such_application",
        "directory": "/nowhere",
        "title": "A change",
        "label": "sample",
        "to_revision": "bbbb00000002",
    }
    return draft.act({**given, **changes}, False)


@pytest.mark.parametrize(
    ("rows", "changes", "why"),
    [
        pytest.param(["a1"], {"backend_container": ""}, "names no container in which Alembic runs", id="on the target"),
        pytest.param(["a1", "b2"], {}, "has a1, b2, and a draft begins at one revision", id="two revisions"),
        pytest.param([], {}, "has no revision", id="no revision"),
        pytest.param(["bbbb00000002"], {}, "is at bbbb00000002 already", id="it is there"),
    ],
)
def test_what_cannot_be_drafted_is_refused(
    database: Login, tmp_path: Path, rows: list[str], changes: dict[str, Any], why: str
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    with closing(connect(database, "tests")) as session, session.cursor() as cursor:
        cursor.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
        cursor.execute("INSERT INTO alembic_version SELECT unnest(%s::text[])", (rows,))
    with pytest.raises(ReleaseError, match=why) as refusal:
        act(database, state, **changes)
    assert refusal.value.refused
    assert list(state.iterdir()) == []


def test_a_folder_is_written_whole(tmp_path: Path) -> None:
    revision = tmp_path / "1_a.py"
    revision.write_text("down_revision = None")
    names = write(tmp_path / "releases/a", {"release.yml": "release: a\n"}, [Source(revision, "/app/1_a.py")])
    assert names == ["release.yml", "migrations/1_a.py"]
    assert {one.name for one in (tmp_path / "releases/a").rglob("*")} == {"release.yml", "migrations", "1_a.py"}


def test_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"Writing the draft to .* failed"):
        write(tmp_path / "a", {"release.yml": "release: a\n"}, [Source(tmp_path / "gone.py", "/app/gone.py")])
    (tmp_path / "b").mkdir()
    (tmp_path / "b/kept").write_text("of somebody")
    with pytest.raises(ReleaseError, match=r"Writing the draft to .* failed"):
        write(tmp_path / "b", {"release.yml": "release: b\n"}, [])
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["b", "kept"]
