"""What a run writes: on disk before it has its name, for its owner only, and never over another file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.backup.dump import DumpFile
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.files import create_private, publish, replace_private, write_private
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.migrate.log import MigrationLog
from ansible.module_utils.dbrelease.rollback import lost_rows

RUN = "20260102T030405Z-abcdef"


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was made durable and what was named, in its order."""
    done: list[str] = []

    def noting(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **more: Any) -> Any:
            folder = name == "synced" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            done.append("folder synced" if folder else name)
            return act(*arguments, **more)

        return noted

    for name, what in (("fsync", "synced"), ("link", "named"), ("replace", "named")):
        monkeypatch.setattr(os, name, noting(what, getattr(os, name)))
    return done


def written_by_a_dump(path: Path) -> None:
    file = DumpFile(path)
    file.write(b"x")
    file.close()


def written_to_a_log(path: Path) -> None:
    log = MigrationLog(path, None)
    log.feed(b"x\n")
    log.close()


def journaled(path: Path) -> None:
    Journal(Run(RUN, "sample", "test", "tests", str(path.parent))).append("backup", "started")


WRITERS: list[tuple[str, Callable[[Path], Any], list[str]]] = [
    ("a new file", lambda path: write_private(path, "x", RUN), ["synced", "named", "folder synced"]),
    ("a file in its place", lambda path: replace_private(path, b"x", RUN), ["synced", "named", "folder synced"]),
    ("a dump", written_by_a_dump, ["synced"]),
    ("lost rows", lambda path: lost_rows._write(path, lambda file: file.write(b"x")), ["synced"]),
    ("a log", written_to_a_log, ["synced", "folder synced"]),
    ("the journal", journaled, ["synced"]),
]


@pytest.mark.parametrize(("write", "expected"), [row[1:] for row in WRITERS], ids=[row[0] for row in WRITERS])
def test_it_is_on_disk_before_it_counts(
    order: list[str], tmp_path: Path, write: Callable[[Path], Any], expected: list[str]
) -> None:
    write(tmp_path / "state" / "file")
    assert order == expected


@pytest.mark.parametrize("write", [row[1] for row in WRITERS], ids=[row[0] for row in WRITERS])
def test_it_is_for_its_owner_only(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    before = os.umask(0)
    try:
        write(tmp_path / "state" / "file")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
    assert (modes, stat.S_IMODE((tmp_path / "state").stat().st_mode)) == ({0o600}, 0o700)


def no_hard_links(*_: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")


@pytest.mark.parametrize("hard_links", [True, False])
def test_another_file_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool) -> None:
    if not hard_links:
        monkeypatch.setattr(os, "link", no_hard_links)
    taken, new = tmp_path / "taken", tmp_path / "new"
    taken.write_text("theirs")
    new.write_text("ours")
    for act in (lambda: create_private(taken), lambda: publish(new, taken)):
        with pytest.raises(FileExistsError):
            act()
    with pytest.raises(ReleaseError, match="a run never overwrites a file"):
        write_private(taken, "ours", RUN)
    assert taken.read_text() == "theirs"
    publish(new, tmp_path / "free")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["free", "taken"]
