"""Nothing runs away: what a container, a program, a log or an API answers is bounded in time, memory and disk."""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible.module_utils.dbrelease.backup import dump
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.host import commands, container_log
from ansible.module_utils.dbrelease.host.commands import ContainerCommands, HostCommands
from ansible.module_utils.dbrelease.host.container_log import TooMuchError, Window, whole_lines, window_lines
from ansible.module_utils.dbrelease.host.http import Answer, HttpSession
from ansible.module_utils.dbrelease.migrate import log as migration_log
from ansible.module_utils.dbrelease.migrate.log import MigrationLog
from ansible.module_utils.dbrelease.rollback.in_services import Services
from preflight_world import POSTGRES_IMAGE

ENDLESS = ["sh", "-c", "exec 2>/dev/null; while echo 0123456789abcdef0123456789abcdef; do :; done"]


@pytest.fixture
def container() -> Iterator[Any]:
    """A throwaway one, of which an attacker has the programs."""
    engine = docker.from_env()
    made = engine.containers.run(POSTGRES_IMAGE, ["sleep", "120"], entrypoint="", init=True, detach=True)
    yield made
    made.remove(force=True, v=True)


# Programs.


def test_what_a_program_writes_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "OUTPUT_BYTES_AT_MOST", 1 << 20)
    begun = time.monotonic()
    with pytest.raises(
        ReleaseError, match=r"Running sh on the target was stopped \(it printed more than 1048576 bytes"
    ):
        HostCommands().run(ENDLESS, timeout_s=60)
    assert time.monotonic() - begun < 30


def test_what_a_container_answers_without_an_end_is_refused(container: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "OUTPUT_BYTES_AT_MOST", 1 << 20)
    there = ContainerCommands(docker.from_env(), container.id)
    with pytest.raises(ReleaseError, match=r"Running sh in container .* was stopped \(it printed more than 1048576"):
        there.run(ENDLESS, timeout_s=60)


@pytest.mark.parametrize("held", [">/dev/null", "2>/dev/null"])
def test_a_program_that_is_left_behind_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, held: str) -> None:
    """It has one of the two streams, and ends by itself much later than the command that began it."""
    monkeypatch.setattr(commands, "LATE_S", 0)
    monkeypatch.setattr(commands, "KILL_GRACE_S", 1)
    begun = time.monotonic()
    argv = ["sh", "-c", f"setsid sleep 30 {held} & echo $!"]
    if held == ">/dev/null":
        left = HostCommands().run(argv, timeout_s=1).stdout
    else:
        with pytest.raises(ReleaseError, match="a program that it started has kept its output open"):
            HostCommands().run(argv, timeout_s=1)
        left = ""
    assert time.monotonic() - begun < 15
    if left:
        subprocess.run(["kill", left.strip()], check=False)


# Logs of containers.


def test_a_line_without_an_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_log, "LINE_BYTES_AT_MOST", 1000)
    read = []

    def chunks() -> Iterator[bytes]:
        for number in range(10_000):
            read.append(number)
            yield b"x" * 100

    with pytest.raises(TooMuchError, match="it has a line of more than 1000 bytes"):
        list(whole_lines(chunks()))
    assert len(read) < 20
    assert list(whole_lines([b"a\nb", b"c", b"\n\nd"])) == [b"a", b"bc", b"", b"d"]


class Talking:
    """An engine with one log."""

    def __init__(self, lines: int) -> None:
        """Of so many lines in the first second."""
        self.api = self
        self.lines = lines

    def logs(self, *_: Any, **__: Any) -> Iterator[bytes]:
        return (b"1970-01-01T00:00:00.5Z INFO: x\n" for _ in range(self.lines))


@pytest.mark.parametrize(("name", "most"), [("WINDOW_LINES_AT_MOST", 100), ("WINDOW_BYTES_AT_MOST", 700)])
def test_a_window_of_a_log_that_holds_too_much_is_not_judged(
    monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    monkeypatch.setattr(container_log, name, most)
    engine: Any = Talking(101)
    with pytest.raises(TooMuchError, match=r"check `docker logs shop` for what writes so much"):
        list(window_lines(engine, "shop", Window(0, 10**9)))
    engine.lines = 100
    assert len(list(window_lines(engine, "shop", Window(0, 10**9)))) == 100


def test_a_guard_reads_a_log_that_grows_faster_than_it_is_read_up_to_now(container: Any) -> None:
    """What writes to it writes on; of what matches a few lines are kept, and all are counted."""
    writer = "while :; do echo 'GET /api/v2/'; done > /proc/1/fd/1"
    container.exec_run(["sh", "-c", f'timeout 60 sh -c "{writer}" 2>/dev/null'], detach=True)
    deadline = time.monotonic() + 20
    while not container.logs(tail=1):
        assert time.monotonic() < deadline
    seen = Services("", {"backend": container.id}, 5).look({"log": {"service": "backend", "pattern": "GET /api/v2/"}})
    assert seen.status == "fail" and time.monotonic() < deadline + 20
    assert seen.observed["lines"] == seen.observed["looked_at"] >= 1 and len(seen.sample) <= 3


def test_a_guard_asks_for_a_log_up_to_now(container: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    real = docker.APIClient.logs

    def logs(self: Any, name: str, **options: Any) -> Any:
        asked.append(options)
        return real(self, name, **options)

    monkeypatch.setattr(docker.APIClient, "logs", logs)
    Services("", {"backend": container.id}, 5).look({"log": {"service": "backend", "pattern": "x"}})
    assert abs(asked[-1]["until"] - time.time()) < 60


# What a migration prints.


def test_a_migration_that_prints_without_an_end_fills_no_disk(
    monkeypatch: pytest.MonkeyPatch, run_parameters: dict[str, Any]
) -> None:
    monkeypatch.setattr(migration_log, "LOG_BYTES_AT_MOST", 10_000)
    path = Path(run_parameters["state_dir"]) / "migration.log"
    log = MigrationLog(path, "the secret")
    log.begin("begun")
    for _ in range(10_000):
        log.feed(b"0123456789\n" * 10)
    kept = log.end("ended")
    proof = log.close()
    assert path.stat().st_size < 11_000 and path.read_text().endswith(
        "the output after 10000 bytes is omitted\n=== ended\n"
    )
    assert proof.status == "inconclusive" and "bytes, but the output after 10000 bytes is omitted." in proof.detail
    assert kept.endswith("0123456789\n"), "the end of it decides"


def test_a_migrations_line_without_an_end_is_left_out_whole(
    monkeypatch: pytest.MonkeyPatch, run_parameters: dict[str, Any]
) -> None:
    monkeypatch.setattr(migration_log, "LINE_BYTES_AT_MOST", 1000)
    path = Path(run_parameters["state_dir"]) / "migration.log"
    log = MigrationLog(path, "Secr3t-pass!word")
    for _ in range(100):
        log.feed(b"x" * 10)
    log.feed(b"Secr3t-pass!word")
    assert len(log._rest) <= 1000
    log.feed(b"\nthe next\n")
    assert log.end("ended") == "the next\n" and log.close().status == "inconclusive"
    assert path.read_text() == "=== a line of more than 1000 bytes is omitted\nthe next\n=== ended\n"


def test_a_dump_without_an_end_leaves_room_on_the_disk(
    monkeypatch: pytest.MonkeyPatch, run_parameters: dict[str, Any]
) -> None:
    path = Path(run_parameters["state_dir"]) / "a.dump"
    path.parent.mkdir(mode=0o700)
    free = os.statvfs(path.parent)
    monkeypatch.setattr(dump, "RESERVE_BYTES", free.f_bavail * free.f_frsize * 2)
    monkeypatch.setattr(dump, "LOOK_EVERY_BYTES", 1 << 20)
    file = dump.DumpFile(path)
    for _ in range(100):
        file.write(bytes(1 << 20))
    with pytest.raises(ReleaseError, match=r"a\.dump failed \(No space left on device\): make room there"):
        file.close()
    assert path.stat().st_size <= 1 << 20


# What an API answers.

Ask = Callable[[bytes, str], Answer]
ZEROS = bytes(256 << 20)


@pytest.fixture
def ask() -> Iterator[Ask]:
    """What comes of an answer with this body in this coding."""
    said: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Encoding", said["coding"])
            self.send_header("Content-Length", str(len(said["body"])))
            self.end_headers()
            self.wfile.write(said["body"])

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def asking(body: bytes, coding: str) -> Answer:
        said.update(body=body, coding=coding)
        with HttpSession(f"http://127.0.0.1:{server.server_address[1]}", 60) as session:
            return session.get("/")

    yield asking
    server.shutdown()
    server.server_close()


def test_an_answer_in_one_coding_is_read(ask: Ask) -> None:
    body = json.dumps([{"id": 1}]).encode()
    for coding, sent in (("identity", body), ("gzip", gzip.compress(body)), (" GZIP", gzip.compress(body))):
        assert (answer := ask(sent, coding)).items == (frozenset({"id"}),), answer


@pytest.mark.parametrize("coding", ["gzip", "gzip, gzip", "gzip, gzip, gzip", "br", "zstd", "unknown"])
def test_a_small_answer_that_stands_for_a_large_one_is_refused(ask: Ask, coding: str) -> None:
    body = gzip.compress(ZEROS, 1)
    for _ in range(coding.count("gzip") - 1):
        body = gzip.compress(body)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = ask(body, coding)
    assert answer.problem == "returned too large an answer, or one with an invalid encoding."
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_an_answer_that_is_cut_off_is_refused(ask: Ask) -> None:
    assert ask(gzip.compress(b"[]" * 1000)[:-20], "gzip").problem.endswith("one with an invalid encoding.")
