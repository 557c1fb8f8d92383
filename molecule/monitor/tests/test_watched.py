"""A watch sees what an operator would have to: nothing in a quiet window, and each way in which one is not quiet."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from outside import (
    ARTIFACTS,
    BACKEND,
    POSTGRES,
    REDIS,
    ROOT,
    STATE,
    WORKER,
    Playbook,
    Psql,
    Releases,
    descendants,
    docker,
    journal,
    play,
    until,
)

ONE_SAMPLE = ("-e", "monitor_watch_seconds=0")
RELEASES = Releases.copied()
MARK = "dbrelease monitor (8_1a staging)"


def watch(*arguments: str) -> Playbook:
    """The watch alone, of the release as the tests have it."""
    return play("monitor_8_1a.yml", *RELEASES.arguments, *arguments)


def samples() -> list[dict[str, Any]]:
    return [line for line in journal() if line["step"] == "sample"]


def claims(sample: dict[str, Any]) -> dict[str, str]:
    return {claim["name"]: claim["verdict"] for claim in sample["facts"]["claims"]}


def window() -> dict[str, Any]:
    """The newest judged watch."""
    found = [line for line in journal() if line["step"] == "monitor" and line["event"] in ("passed", "failed")]
    facts: dict[str, Any] = found[-1]["facts"]
    return facts


def log_line(container: str, text: str) -> None:
    """Write to a container's log, as its own program would: by its user, for not even root may without capabilities."""
    docker("exec", container, "sh", "-c", f"printf '%s\\n' {shlex.quote(text)} > /proc/1/fd/1")


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S,000", time.gmtime())


def test_the_deploy_watched_and_says_for_how_long() -> None:
    deploys = [line for line in journal() if line["playbook"] == "deploy"]
    taken = [line for line in deploys if line["step"] == "sample"]
    assert taken
    assert [line["event"] for line in deploys if line["step"] == "monitor"] == ["started", "passed"]
    (evidence,) = (json.loads(path.read_text()) for path in STATE.glob(f"runs/{deploys[0]['run_id']}/evidence.json"))
    assert evidence["outcome"] == "deployed"
    assert len(evidence["monitoring"]["samples"]) == len(taken)
    proofs = {proof["name"]: proof for proof in evidence["proofs"]}
    # Two seconds without an error are no fifteen minutes.
    assert proofs["monitor.backend_log"]["status"] == "inconclusive"
    assert "900" in proofs["monitor.backend_log"]["detail"]
    items = {item["item"]: item["status"] for item in evidence["checklist"]}
    assert items["No errors in backend logs (15 min)"] == "inconclusive"


def test_a_quiet_window_passes_and_changes_nothing(psql: Psql) -> None:
    before = psql.fingerprint()
    run = watch("-e", "monitor_watch_seconds=12", "-e", "monitor_interval_seconds=1")
    assert run.status == 0, run.output
    assert psql.fingerprint() == before
    assert run.evidence["outcome"] == "already_deployed"
    taken = run.evidence["monitoring"]["samples"]
    assert {sample["verdict"] for sample in taken} == {"pass"}
    assert run.output.count(" UTC pass: ") == len(taken) >= 2, "each sample is shown as it is taken"
    assert not [proof for proof in run.evidence["proofs"] if proof["status"] == "fail"]


def test_windows_of_a_log_meet_exactly() -> None:
    watch(*ONE_SAMPLE)
    first, second = (line["facts"]["logs"] for line in samples()[-2:])
    for name, log in second.items():
        assert log["begin"] == first[name]["end"]
        assert log["begin"] < log["end"] and log["begin"].endswith("Z")


def test_a_window_of_fifteen_minutes_proves_its_claims() -> None:
    """The length is the release's: here it declares a short one."""
    with RELEASES.edited("window_seconds: 900", "window_seconds: 2"):
        run = watch("-e", "monitor_watch_seconds=2", "-e", "monitor_interval_seconds=1")
    statuses = {proof["name"]: proof["status"] for proof in run.evidence["proofs"]}
    assert run.status == 0, run.output
    for name in ("backend_log", "worker_log", "database_log", "api", "latency", "connections", "drift", "queue"):
        assert statuses[f"monitor.{name}"] == "pass", name


MEASURED = "latency: {requests: 5, factor: 3.0, floor_ms: "


@pytest.fixture(autouse=True, scope="module")
def a_busy_machine_is_no_slow_application() -> Iterator[None]:
    """What the API takes on the machine that tests it is no claim of these tests, but for the one about latency."""
    with RELEASES.edited(f"{MEASURED}250}}", f"{MEASURED}9000}}"):
        yield


class Slow(BaseHTTPRequestHandler):
    """Between the sample and the API: each answer takes a second longer."""

    def do_GET(self) -> None:
        time.sleep(1)  # plays: a slow API
        answer = requests.get(f"http://localhost:8001{self.path}", timeout=30)
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)


@contextmanager
def slow() -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 8009), Slow)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        with RELEASES.edited(f"{MEASURED}9000}}", f"{MEASURED}250}}"):
            yield
    finally:
        server.shutdown()
        server.server_close()


HEARTBEAT, RESUMED = "/tmp/worker.heartbeat", "/tmp/resumed"


def done_in(container: str, *command: str) -> bool:
    """Whether a command in a container ended with status 0."""
    return subprocess.run(["docker", "exec", container, *command], check=False, capture_output=True).returncode == 0


@contextmanager
def paused(container: str) -> Iterator[None]:
    docker("pause", container)
    try:
        yield
    finally:
        docker("unpause", container)
        docker("exec", container, "touch", RESUMED)
        until(lambda: done_in(container, "test", HEARTBEAT, "-nt", RESUMED), f"{container} sent a heartbeat")
        docker("exec", container, "rm", RESUMED)
        watch(*ONE_SAMPLE)  # what it has to say about the pause is read here


@contextmanager
def queued() -> Iterator[None]:
    """Work that nobody does, on a queue of its own name."""
    with RELEASES.edited("llen, celery]", "llen, nobody]"), RELEASES.edited("limit: 1000", "limit: 2"):
        docker("exec", REDIS, "redis-cli", "rpush", "nobody", "a", "b", "c")
        try:
            yield
        finally:
            docker("exec", REDIS, "redis-cli", "del", "nobody")


ASSOCIATIONS = "drawing_project_associations"


@contextmanager
def shrunk() -> Iterator[None]:
    """Every fifth row is gone between two samples."""
    watch(*ONE_SAMPLE)
    sql(
        f"CREATE TABLE gone AS SELECT * FROM {ASSOCIATIONS} WHERE id::text < '33'; "
        f"DELETE FROM {ASSOCIATIONS} WHERE id IN (SELECT id FROM gone)"
    )
    try:
        yield
    finally:
        sql(f"INSERT INTO {ASSOCIATIONS} SELECT * FROM gone; DROP TABLE gone")


@contextmanager
def without_vacuum() -> Iterator[None]:
    """Half of a table's rows are dead, and nobody takes them away."""
    sql(f"ALTER TABLE {ASSOCIATIONS} SET (autovacuum_enabled = off)")
    sql(f"UPDATE {ASSOCIATIONS} SET assigned_at = assigned_at")
    try:
        with RELEASES.edited("floor: 10000}", "floor: 100}"):
            yield
    finally:
        sql(f"ALTER TABLE {ASSOCIATIONS} RESET (autovacuum_enabled)")
        sql(f"VACUUM ANALYZE {ASSOCIATIONS}")


STANDBY, STANDBY_PORT = "/tmp/standby", "5499"
PSQL = ("psql", "-v", "ON_ERROR_STOP=1", "-U", "user", "-d", "drawing_index")


@contextmanager
def standby_that_stands_still() -> Iterator[None]:
    """A real one, in the database's container, which streams but does not replay any more."""
    server = ("exec", "-u", "postgres", POSTGRES, "sh", "-ec")
    docker(*server, f"rm -rf {STANDBY}; pg_basebackup -U user -D {STANDBY} -R -c fast")
    # By default a standby reports its lag only every ten seconds.
    settings = f"-p {STANDBY_PORT} -c hot_standby=on -c wal_receiver_status_interval=1"
    docker(*server, f"$(pg_config --bindir)/pg_ctl -D {STANDBY} -w -o '{settings}' -l {STANDBY}.log start")
    try:
        sql("CREATE TABLE noticed AS SELECT 1 AS a")  # the lag is measured by what it has replayed
        until(lambda: there("to_regclass('noticed') IS NOT NULL", STANDBY_PORT), "the standby replayed a table")
        docker("exec", POSTGRES, *PSQL, "-p", STANDBY_PORT, "-c", "SELECT pg_wal_replay_pause()")
        paused = "pg_get_wal_replay_pause_state() = 'paused'"
        until(lambda: there(paused, STANDBY_PORT), "the standby paused its replay")
        sql("DROP TABLE noticed")
        lags = "EXISTS (SELECT FROM pg_stat_replication WHERE replay_lag > interval '3 seconds')"
        until(lambda: there(lags), "the standby lagged by 3 s")
        with RELEASES.edited("lag_seconds: 60", "lag_seconds: 2"):
            yield
    finally:
        docker(*server, f"$(pg_config --bindir)/pg_ctl -D {STANDBY} -m immediate stop; rm -rf {STANDBY} {STANDBY}.log")


def sql(text: str) -> None:
    docker("exec", POSTGRES, *PSQL, "-c", text)


def there(condition: str, port: str = "5432") -> bool:
    """Whether a condition is true on the server at that port of the database's container."""
    return docker("exec", POSTGRES, *PSQL, "-p", port, "-Atc", f"SELECT {condition}").strip() == "t"


def logged(container: str, text: str) -> Callable[[], AbstractContextManager[None]]:
    def write() -> AbstractContextManager[None]:
        log_line(container, text.format(now=now(), server_now=now().replace(",", ".")))
        return nullcontext()

    return write


def failing_statement() -> AbstractContextManager[None]:
    done = subprocess.run(
        ["docker", "exec", POSTGRES, "psql", "-U", "user", "-d", "drawing_index", "-c", "SELECT 1/0"],
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
    return nullcontext()


@contextmanager
def crowded() -> Iterator[None]:
    """Somebody opens sessions and keeps them; they end in order, so that the server logs no error of it."""
    session = "(while [ -e /tmp/crowd ]; do sleep 1; done) | PGAPPNAME=crowd psql -U user -d drawing_index &"
    connected = "(SELECT count(*) FROM pg_stat_activity WHERE application_name = 'crowd') = "
    docker("exec", "--detach", POSTGRES, "sh", "-c", f"touch /tmp/crowd; for n in $(seq 30); do {session} done; wait")
    until(lambda: there(f"{connected}30"), "all sessions of the crowd were connected")
    try:
        with RELEASES.edited("of_maximum: 0.8", "of_maximum: 0.3"):
            yield
    finally:
        docker("exec", POSTGRES, "rm", "/tmp/crowd")
        until(lambda: there(f"{connected}0"), "the sessions of the crowd ended")


FAILING: list[tuple[str, Callable[[], AbstractContextManager[None]], list[str], str, str]] = [
    ("an error in the backend's log", logged(BACKEND, "{now} ERROR [app] broken"), [], "backend_log", "broken"),
    (
        "a traceback in the worker's log",
        logged(WORKER, "[{now}: ERROR/ForkPoolWorker-1] Task failed\nTraceback (most recent call last):\nKeyError: 1"),
        [],
        "worker_log",
        "1 error in the log",
    ),
    ("an error of the database", failing_statement, [], "database_log", "division by zero"),
    ("the API is down", nullcontext, ["-e", "api_base_url=http://localhost:9"], "api", "http://localhost:9"),
    (
        "an endpoint that is not there",
        lambda: RELEASES.edited("path: /api/v1/projects", "path: /api/v1/no_such"),
        [],
        "api",
        "had status 404",
    ),
    ("an API that has become slow", slow, ["-e", "api_base_url=http://localhost:8009"], "latency", "above the limit"),
    ("connections", crowded, [], "connections", "above the limit of 30 ("),
    ("a queue that grows", queued, [], "queue", "3 tasks wait"),
    ("a table that loses its rows", shrunk, [], "growth", "find out who deleted the rows"),
    ("dead rows", without_vacuum, [], "dead_rows", "check why vacuum does not reach it"),
    ("a standby that stays behind", standby_that_stands_still, [], "replication", "above the limit of 2 s"),
    ("a worker that is down", lambda: paused(WORKER), [], "worker_log", "paused"),
]


@pytest.mark.parametrize(
    ("break_it", "arguments", "claim", "says"), [case[1:] for case in FAILING], ids=[case[0] for case in FAILING]
)
def test_a_failing_sample_fails_the_watch(
    break_it: Callable[[], AbstractContextManager[None]], arguments: list[str], claim: str, says: str
) -> None:
    with break_it():
        run = watch(*ONE_SAMPLE, *arguments)
    assert run.status != 0, run.output
    assert run.evidence["outcome"] == "failed"
    (sample,) = [line for line in samples() if line["run_id"] == run.evidence["run"]["run_id"]]
    assert claims(sample)[claim] == "fail"
    (proof,) = [proof for proof in run.evidence["proofs"] if proof["name"] == f"monitor.{claim}"]
    assert proof["status"] == "fail" and says in proof["detail"], proof
    assert says in run.output
    assert run.evidence["ways_back"]


def test_one_failing_sample_of_many_is_within_the_limits() -> None:
    log_line(BACKEND, f"{now()} ERROR [app] once")
    run = watch("-e", "monitor_watch_seconds=12", "-e", "monitor_interval_seconds=1")
    assert run.status == 0, run.output
    (proof,) = [proof for proof in run.evidence["proofs"] if proof["name"] == "monitor.backend_log"]
    assert proof["status"] == "inconclusive" and "within the limits" in proof["detail"]


def test_one_error_about_the_release_is_not() -> None:
    log_line(BACKEND, f'{now()} ERROR [app] relation "drawing_project_associations" is gone')
    run = watch("-e", "monitor_watch_seconds=60", "-e", "monitor_interval_seconds=1")
    assert run.status != 0
    assert len(run.evidence["monitoring"]["samples"]) == 1, "a watch that has failed is not prolonged"


def test_two_failing_samples_on_end_are_not() -> None:
    with RELEASES.edited("    total: total_associations", "    total: no_such_figure"):
        run = watch("-e", "monitor_watch_seconds=60", "-e", "monitor_interval_seconds=1")
    assert run.status != 0 and run.evidence["outcome"] == "failed"
    assert [sample["verdict"] for sample in run.evidence["monitoring"]["samples"]] == ["fail", "fail"]


def test_too_little_traffic_is_inconclusive() -> None:
    with RELEASES.edited("minimum_lines: 1 ", "minimum_lines: 5000 "):
        run = watch(*ONE_SAMPLE)
    assert run.status == 0, run.output
    claim = next(c for c in samples()[-1]["facts"]["claims"] if c["name"] == "backend_log")
    assert claim["verdict"] == "inconclusive" and "5000" in claim["detail"], claim


def test_words_are_no_errors() -> None:
    log_line(BACKEND, f'{now()} INFO [uvicorn.access] "GET /error?exception=fatal" 200')
    assert watch(*ONE_SAMPLE).status == 0


def test_drift_is_reported_and_is_no_failure(psql: Psql) -> None:
    (drawing,) = psql.lines("SELECT id FROM drawings WHERE project_id IS NOT NULL ORDER BY id LIMIT 1")
    project, _ = psql.lines(
        f"DELETE FROM drawing_project_associations WHERE drawing_id = '{drawing}' RETURNING project_id"
    )
    try:
        run = watch(*ONE_SAMPLE)
        assert run.status == 0, run.output
        assert samples()[-1]["facts"]["drift"] == {"no_missing_association": 1, "no_stale_association": 0}
        assert claims(samples()[-1])["drift"] == "inconclusive"
    finally:
        psql.lines(
            "INSERT INTO drawing_project_associations (drawing_id, project_id, assigned_by)"
            f" VALUES ('{drawing}', '{project}', 'migration_8.1a')"
        )


def test_a_restarted_service_is_inconclusive() -> None:
    docker("restart", "-t", "1", WORKER)
    run = watch(*ONE_SAMPLE)
    assert claims(samples()[-1])["worker_log"] == "inconclusive", run.output
    assert run.status == 0
    assert "restarted" in next(c["detail"] for c in samples()[-1]["facts"]["claims"] if c["name"] == "worker_log")
    watch(*ONE_SAMPLE)
    assert claims(samples()[-1])["worker_log"] == "pass"


def test_lines_that_were_rotated_away_are_inconclusive() -> None:
    path = docker("inspect", "-f", "{{.LogPath}}", WORKER).strip()
    subprocess.run(["truncate", "-s", "0", path], check=True)
    log_line(WORKER, f"[{now()}: INFO/MainProcess] after")
    run = watch(*ONE_SAMPLE)
    assert run.status == 0, run.output
    claim = next(c for c in samples()[-1]["facts"]["claims"] if c["name"] == "worker_log")
    assert claim["verdict"] == "inconclusive" and "rotated out" in claim["detail"]


def test_a_killed_watch_goes_on_where_it_was() -> None:
    before = len(samples())
    command = ["ansible-playbook", "monitor_8_1a.yml", "-i", "staging"]
    patience = ["-e", "monitor_watch_seconds=45", "-e", "monitor_interval_seconds=2"]
    process = subprocess.Popen(
        [*command, *RELEASES.arguments, *patience],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 180
        while len(samples()) < before + 2 and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        for pid in [process.pid, *descendants(process.pid)]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
    killed = samples()[before:]
    assert len(killed) >= 2
    run = watch(*patience)
    assert run.status == 0, run.output
    facts = window()
    begun = [line["facts"] for line in journal() if (line["step"], line["event"]) == ("monitor", "started")]
    assert begun[-1]["resumed"] and begun[-1]["taken"] >= 2
    assert facts["window"]["started_at"] == begun[-2]["watch"]["started_at"]
    assert facts["window"]["samples"] == len(killed) + len(run.evidence["monitoring"]["samples"])
    assert facts["window"]["watched_seconds"] >= 45


def test_check_mode_samples_nothing() -> None:
    before = (STATE / "journal.jsonl").read_text()
    run = watch("--check")
    assert run.status == 0, run.output
    assert (STATE / "journal.jsonl").read_text() == before


def test_a_second_deploy_does_not_watch_again() -> None:
    before = len(samples())
    run = play("deploy_8_1a.yml")
    assert (run.status, run.evidence["outcome"]) == (0, "already_deployed"), run.output
    assert len(samples()) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-e", "monitor_watch_seconds=-5"], "monitor_watch_seconds"),
        (["-e", "monitor_watch_seconds=soon"], "monitor_watch_seconds"),
        (["-e", "monitor_interval_seconds=0"], "monitor_interval_seconds"),
        (["-e", "monitor_schedule=daily"], "hourly"),
    ],
)
def test_bad_input_is_one_clear_sentence(arguments: list[str], says: str) -> None:
    before = len(samples())
    run = watch(*arguments)
    assert run.status != 0 and says in run.output and "Traceback" not in run.output
    assert len(samples()) == before


@pytest.fixture
def crontab(tmp_path: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """A crontab of the test's own, for the machine's is none of its business."""
    table = tmp_path / "table"
    program = tmp_path / "bin/crontab"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\nif [ "$1" = -l ]; then [ -s "$TABLE" ] && cat "$TABLE"; '
        'elif [ "$1" = -r ]; then rm -f "$TABLE"; else cat "$1" > "$TABLE.new"; mv "$TABLE.new" "$TABLE"; fi\n'
    )
    program.chmod(0o755)
    yield {"PATH": f"{program.parent}:{os.environ['PATH']}", "TABLE": str(table)}, table


def test_a_schedule_is_installed_once_and_removed(crontab: tuple[dict[str, str], Path]) -> None:
    environment, table = crontab
    before = len(samples())
    for _ in range(2):
        run = play("monitor_8_1a.yml", "-e", "monitor_schedule=hourly", environment=environment)
        assert run.status == 0, run.output
    assert len(samples()) == before + 2, "one sample at once"
    entries = [line for line in table.read_text().splitlines() if not line.startswith("#")]
    assert len(entries) == 1 and entries[0].startswith("@hourly ") and "monitor_watch_seconds=0" in entries[0]
    for _ in range(2):
        run = play("monitor_8_1a.yml", "-e", "monitor_schedule=absent", environment=environment)
        assert run.status == 0, run.output
    assert MARK not in table.read_text()


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """A copy of the stack's inventory, in a folder whose name is a trial to a shell and to cron."""
    folder = tmp_path / "100% o'clock"
    shutil.copytree(ROOT / "inventories/staging", folder)
    variables = folder / "group_vars/drawing_index.yml"
    root = "{{ (inventory_dir ~ '/../..') | realpath }}"
    assert root in variables.read_text()
    variables.write_text(variables.read_text().replace(root, str(ROOT)))
    return folder


def test_a_scheduled_entry_takes_a_sample_and_ends_by_itself(
    crontab: tuple[dict[str, str], Path], inventory: Path
) -> None:
    environment, table = crontab
    table.write_text("@daily true\n")
    run = play("monitor_8_1a.yml", "-e", "monitor_schedule=hourly", inventory=str(inventory), environment=environment)
    assert run.status == 0, run.output
    (entry,) = [line for line in table.read_text().splitlines() if line.startswith("@hourly ")]
    # cron hands a line to sh after taking the backslash from before each %, and with next to no environment.
    command = entry.removeprefix("@hourly ").replace("\\%", "%")
    path = f"{environment['PATH'].split(':')[0]}:/usr/bin:/bin"
    bare = {"PATH": path, "TABLE": str(table), "HOME": os.environ["HOME"]}
    bare |= {"DOCKER_HOST": os.environ["DOCKER_HOST"]} if "DOCKER_HOST" in os.environ else {}
    before = len(samples())
    subprocess.run(["sh", "-c", command], env=bare, check=True)
    assert len(samples()) == before + 1
    assert " UTC " in (ARTIFACTS / "scheduled-staging.log").read_text(), "what it said is kept"
    (end,) = [word for word in command.split() if word.isdigit()]
    assert 48 * 3600 < int(end) - time.time() < 51 * 3600
    subprocess.run(["sh", "-c", command.replace(end, "1")], env=bare, check=True)
    assert table.read_text() == "@daily true\n", "the others' entries stay"
    assert len(samples()) == before + 1


def test_a_schedule_that_could_take_no_sample_is_refused(crontab: tuple[dict[str, str], Path], inventory: Path) -> None:
    """cron does not have the environment of whoever installs it."""
    environment, table = crontab
    variables = inventory / "group_vars/drawing_index.yml"
    lines = [line for line in variables.read_text().splitlines() if not line.startswith("db_password:")]
    lookup = "lookup('ansible.builtin.env', 'DB_PASSWORD', default=undef(hint='Set DB_PASSWORD.'))"
    variables.write_text("\n".join([*lines, f'db_password: "{{{{ {lookup} }}}}"', ""]))
    password = (ROOT / ".stack/db_password").read_text().strip()
    run = play(
        "monitor_8_1a.yml",
        "-e",
        "monitor_schedule=hourly",
        inventory=str(inventory),
        environment={**environment, "DB_PASSWORD": password},
    )
    assert run.status != 0 and "cron has neither your environment nor your -e options" in run.evidence["headline"], (
        run.output
    )
    assert not table.exists() and password not in run.output


@pytest.mark.parametrize("name", ["api_base_url=http://127.0.0.1:8001", "release_state_dir={state}/"])
def test_a_schedule_that_would_watch_something_else_is_refused(crontab: tuple[dict[str, str], Path], name: str) -> None:
    """cron does not have the extra variables of whoever installs it."""
    environment, table = crontab
    given = name.format(state=STATE)
    run = play("monitor_8_1a.yml", "-e", "monitor_schedule=hourly", "-e", given, environment=environment)
    assert run.status != 0, run.output
    assert f"does not give the {name.partition('=')[0]} of this run" in run.evidence["headline"]
    assert not table.exists()


def test_a_schedule_that_could_not_reach_its_target_is_refused(
    crontab: tuple[dict[str, str], Path], inventory: Path
) -> None:
    """Here by a python that only the environment names; so would be a key for ssh, or the engine's address."""
    environment, table = crontab
    hosts = inventory / "hosts.yml"
    python = "{{ ansible_playbook_python }}"
    assert python in hosts.read_text()
    named = "{{ lookup('ansible.builtin.env', 'A_PYTHON') or '/usr/bin/false' }}"
    hosts.write_text(hosts.read_text().replace(python, named))
    environment |= {"A_PYTHON": sys.executable}
    run = play("monitor_8_1a.yml", "-e", "monitor_schedule=hourly", inventory=str(inventory), environment=environment)
    assert run.status != 0, run.output
    assert "without it the target cannot be watched (" in run.evidence["headline"]
    assert not table.exists()


def test_a_deploy_brings_the_schedule_in_line_too(crontab: tuple[dict[str, str], Path]) -> None:
    environment, table = crontab
    run = play("deploy_8_1a.yml", "-e", "monitor_schedule=hourly", environment=environment)
    assert (run.status, run.evidence["outcome"]) == (0, "already_deployed"), run.output
    assert MARK in table.read_text()


def test_without_cron_there_is_nothing_to_remove(crontab: tuple[dict[str, str], Path]) -> None:
    environment, _ = crontab
    Path(environment["PATH"].split(":")[0], "crontab").write_text("#!/bin/sh\necho not allowed >&2; exit 1\n")
    assert play("monitor_8_1a.yml", "-e", "monitor_schedule=absent", environment=environment).status == 0


def test_without_cron_it_says_so(crontab: tuple[dict[str, str], Path]) -> None:
    environment, table = crontab
    Path(environment["PATH"].split(":")[0], "crontab").write_text("#!/bin/sh\necho not allowed >&2; exit 1\n")
    run = play("monitor_8_1a.yml", "-e", "monitor_schedule=hourly", environment=environment)
    assert run.status != 0 and "install cron" in run.output
    assert not table.exists()


def test_a_deploy_refuses_a_watch_that_cannot_be_before_it_begins() -> None:
    run = play("deploy_8_1a.yml", "-e", "monitor_watch_seconds=-5")
    assert run.status != 0 and "monitor_watch_seconds" in run.output
    steps = {line["step"] for line in journal() if line["run_id"] == journal()[-1]["run_id"]}
    assert steps == {"run", "claim", "playbook", "notify", "report"}, "nothing was begun"


# The last one: the release is gone afterwards.
def test_a_rollback_ends_the_schedule(crontab: tuple[dict[str, str], Path]) -> None:
    environment, table = crontab
    table.write_text("@daily true\n")
    run = play("monitor_8_1a.yml", "-e", "monitor_schedule=hourly", environment=environment)
    assert run.status == 0 and MARK in table.read_text(), run.output
    dry = play("rollback_8_1a.yml", "--check", environment=environment)
    assert dry.status == 0 and MARK in table.read_text(), dry.output
    run = play("rollback_8_1a.yml", environment=environment)
    assert (run.status, run.evidence["outcome"]) == (0, "rolled_back"), run.output
    assert table.read_text() == "@daily true\n"
