"""Logs as events: a row is what a program wrote, and what is counted of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.dbrelease.core.clock import moment, nanoseconds
from ansible.module_utils.dbrelease.host.container_log import Container, Window, split, window_lines
from ansible.module_utils.dbrelease.host.log_events import Line, LogStats, Rules, read
from ansible.module_utils.dbrelease.monitor.known import known_kinds, recurring
from ansible.module_utils.dbrelease.monitor.logs import Log, doubts, judge

ROOT = Path(__file__).resolve().parents[3]
MONITORING = yaml.safe_load((ROOT / "releases/8_1a/release.yml").read_text())["monitoring"]
LOGS = {log["name"]: log for log in MONITORING["logs"]}
LOG = Log(LOGS["backend_log"], "shop", Rules.of(LOGS["backend_log"], []), None)
SECOND = 1_000_000_000
WINDOW = Window(100 * SECOND, 200 * SECOND)

BACKEND = "2026-01-02 03:04:05,678 "
WORKER = "[2026-01-02 03:04:05,678: "
SERVER = "2026-01-02 03:04:05.678 UTC [{}] "
TRACEBACK = ["Traceback (most recent call last):", '  File "app.py", line 1, in f', "ValueError: boom"]

# Per row: the log, its lines, then errors, those that concern the release, and those that are allowed.
CASES: list[tuple[str, str, list[str], tuple[int, int, int]]] = [
    ("nothing", "backend_log", [], (0, 0, 0)),
    ("an access line", "backend_log", [BACKEND + 'INFO [uvicorn.access] "GET /error" 200'], (0, 0, 0)),
    ("a word is no level", "backend_log", [BACKEND + "INFO [app] no error, no exception"], (0, 0, 0)),
    ("a warning", "backend_log", [BACKEND + "WARNING [app] slow"], (0, 0, 0)),
    ("an error", "backend_log", [BACKEND + "ERROR [app] broken"], (1, 0, 0)),
    ("critical", "backend_log", [BACKEND + "CRITICAL [app] broken"], (1, 0, 0)),
    ("an error with its traceback is one", "backend_log", [BACKEND + "ERROR [x] failed", *TRACEBACK], (1, 0, 0)),
    ("two of them are two", "backend_log", [BACKEND + "ERROR [x] failed", *TRACEBACK] * 2, (2, 0, 0)),
    ("a warning explains a traceback", "backend_log", [BACKEND + "WARNING [x] retry", *TRACEBACK], (0, 0, 0)),
    ("a traceback that nobody logged", "backend_log", [BACKEND + "INFO [x] started", *TRACEBACK], (1, 0, 0)),
    ("a traceback alone", "backend_log", TRACEBACK, (1, 0, 0)),
    (
        "a group of exceptions that nobody logged",
        "backend_log",
        [BACKEND + "INFO [x] y", "  + Exception Group Traceback (most recent call last):", "  | idx_dpa_x is missing"],
        (1, 1, 0),
    ),
    (
        "an interpreter that died",
        "worker_log",
        ["Fatal Python error: Segmentation fault", "", "Thread 0x1:"],
        (1, 0, 0),
    ),
    ("an error in colours", "worker_log", [f"\x1b[31m{WORKER}ERROR/MainProcess] broken\x1b[0m"], (1, 0, 0)),
    ("a chained traceback is one", "backend_log", [*TRACEBACK, "", "During handling:", *TRACEBACK], (1, 0, 0)),
    ("what goes on from before the window", "backend_log", TRACEBACK[1:], (0, 0, 0)),
    (
        "an error about the new table, deep in its traceback",
        "backend_log",
        [BACKEND + "ERROR [x] failed", *TRACEBACK, 'relation "drawing_project_associations" is locked'],
        (1, 1, 0),
    ),
    ("the worker works", "worker_log", [WORKER + "INFO/MainProcess] ready."], (0, 0, 0)),
    ("the worker's banner", "worker_log", [" -------------- celery@x v5", "- ** ---------- [config]"], (0, 0, 0)),
    (
        "a task failed",
        "worker_log",
        [WORKER + "ERROR/ForkPoolWorker-1] Task x[1] raised unexpected: ValueError()", *TRACEBACK],
        (1, 0, 0),
    ),
    ("a task is retried", "worker_log", [WORKER + "INFO/ForkPoolWorker-1] Task x[1] retry: in 1s"], (0, 0, 0)),
    ("a checkpoint", "database_log", [SERVER.format(7) + "LOG:  checkpoint complete"], (0, 0, 0)),
    (
        "a statement is no second error",
        "database_log",
        [SERVER.format(7) + "ERROR:  syntax error", SERVER.format(7) + "STATEMENT:  SELECT 1", "\t  FROM x"],
        (1, 0, 0),
    ),
    (
        "details go on with their own session",
        "database_log",
        [
            SERVER.format(7) + 'ERROR:  duplicate key value violates unique constraint "projects_code_key"',
            SERVER.format(8) + "ERROR:  deadlock detected",
            SERVER.format(7) + "DETAIL:  Key exists in drawing_project_associations.",
        ],
        (2, 1, 0),
    ),
    ("another time zone", "database_log", ["2026-01-02 03:04:05.678 -03 [7] ERROR:  broken"], (1, 0, 0)),
    ("another log_line_prefix", "database_log", ["2026-01-02 03:04:05 UTC [7]: user=u ERROR:  broken"], (1, 0, 0)),
    ("fatal", "database_log", [SERVER.format(7) + "FATAL:  too many connections"], (1, 0, 0)),
    ("panic", "database_log", [SERVER.format(7) + "PANIC:  could not write"], (1, 0, 0)),
    (
        "a longer log_line_prefix",
        "database_log",
        [SERVER.format(7) + "user@drawing_index backend ERROR:  broken"],
        (1, 0, 0),
    ),
    (
        "what the API answers by itself is allowed",
        "database_log",
        [SERVER.format(7) + 'ERROR:  duplicate key value violates unique constraint "projects_code_key"'],
        (0, 0, 1),
    ),
    (
        "what the engine's own look provokes is allowed",
        "database_log",
        [SERVER.format(7) + "ERROR:  could not identify an extended hash function for type json"],
        (0, 0, 1),
    ),
    (
        "what concerns the release is never allowed",
        "database_log",
        [
            SERVER.format(7) + 'ERROR:  duplicate key value violates unique constraint "projects_code_key"',
            SERVER.format(7) + "STATEMENT:  INSERT INTO drawing_project_associations VALUES (1)",
        ],
        (1, 1, 0),
    ),
    ("a detail of an error from before", "database_log", [SERVER.format(7) + "DETAIL:  more", "\tof it"], (0, 0, 0)),
]


@pytest.mark.parametrize(("log", "lines", "counts"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_counted(log: str, lines: list[str], counts: tuple[int, int, int]) -> None:
    rules = Rules.of(LOGS[log], MONITORING["concerns"])
    seen = read([Line(SECOND + number, text) for number, text in enumerate(lines)], rules)
    assert (seen.errors, seen.concerning, seen.allowed) == counts
    assert seen.lines == len(lines)


ABOUT = "drawing_project_associations does not exist"
# Lines in another form than the service's own, a while after one of its own: errors, concerning, unclear.
FOREIGN: list[tuple[str, list[str], tuple[int, int, bool]]] = [
    ("a server's handler", ["ERROR:    [Errno 98] address already in use"], (1, 0, False)),
    ("the root logger", ["ERROR:root:boom"], (1, 0, False)),
    ("in brackets", ["[CRITICAL] boom"], (1, 0, False)),
    ("behind a date and a name", [f"2026-01-01 00:00:05,000 - app - ERROR - {ABOUT}"], (1, 1, False)),
    ("behind a moment", [f"2026-01-01T00:00:05Z ERROR {ABOUT}"], (1, 1, False)),
    (
        "behind a date, a zone and a process",
        ["[2026-01-01 00:00:05 +0000] [7] [ERROR] Exception in worker"],
        (1, 0, False),
    ),
    ("in JSON", ['{"ts": 1, "level": "error", "msg": "boom"}'], (1, 0, False)),
    ("in JSON, as a number", ['{"level":50,"time":1,"msg":"boom"}'], (1, 0, False)),
    ("in JSON, as a number of information", [f'{{"level":30,"time":1,"msg":"{ABOUT}"}}'], (0, 0, False)),
    ("in JSON, another number", ['{"sea_level": 50, "level": 30, "msg": "fine"}'], (0, 0, False)),
    ("in logfmt", [f'time="2026-01-01T00:00:05Z" level=error msg="{ABOUT}"'], (1, 1, False)),
    ("in logfmt, short", ["ts=1 lvl=erro msg=boom"], (1, 0, False)),
    ("in logfmt, information", [f'ts=1 level=info msg="level=error is no level of {ABOUT}"'], (0, 0, False)),
    ("of nginx", ["2026/01/01 00:00:05 [crit] 7#7: *1 connect() failed"], (1, 0, False)),
    ("of nginx, a warning", ["2026/01/01 00:00:05 [warn] 7#7: *1 a response is buffered"], (0, 0, False)),
    ("with its traceback", ["ERROR:    Exception", *TRACEBACK, ABOUT], (1, 1, False)),
    ("two", ["ERROR:root:a", "ERROR:root:b"], (1, 0, False)),
    ("information", [f"INFO:     127.0.0.1 GET /{ABOUT} 200"], (0, 0, False)),
    ("information behind a date", [f"2026-01-01T00:00:05Z INFO [app] no ERROR of {ABOUT}"], (0, 0, False)),
    ("a word is no level", ["no ERROR here"], (0, 0, False)),
    ("no level", ["Killed"], (0, 0, False)),
    ("no level, and it concerns the release", [ABOUT], (0, 0, True)),
    ("indented", [f"  {ABOUT}"], (0, 0, False)),
]


@pytest.mark.parametrize(("lines", "counts"), [case[1:] for case in FOREIGN], ids=[case[0] for case in FOREIGN])
def test_lines_of_another_form(lines: list[str], counts: tuple[int, int, bool]) -> None:
    rules = Rules.of(LOGS["backend_log"], MONITORING["concerns"])
    later = [Line(5 * SECOND + number, text) for number, text in enumerate(lines)]
    seen = read([Line(0, BACKEND + "INFO [app] started"), *later], rules)
    assert (seen.errors, seen.concerning, bool(seen.unclear)) == counts
    # What is written at once with an error is a part of it.
    seen = read([Line(5 * SECOND - 1, BACKEND + "ERROR [app] failed"), *later], rules)
    assert seen.errors == 1


def test_a_line_without_a_level_that_concerns_the_release_is_no_pass() -> None:
    rules = Rules.of(LOGS["backend_log"], MONITORING["concerns"])
    seen = read([Line(0, BACKEND + "INFO [app] started"), Line(5 * SECOND, ABOUT)], rules)
    container = Container("a", "running", 1, 1, 1)
    (doubt,) = doubts(LOG, container, {}, WINDOW, seen)
    assert doubt.lost and ABOUT in doubt.text
    assert judge(LOG, container, WINDOW, seen, (), [doubt]).verdict == "inconclusive"


def test_a_traceback_long_after_an_error_is_another_one() -> None:
    rules = Rules.of(LOGS["backend_log"], [])
    texts = [(0, BACKEND + "ERROR [x] failed"), (5, TRACEBACK[0]), (5, TRACEBACK[2])]
    assert read([Line(at * SECOND, text) for at, text in texts], rules).errors == 2


def test_an_error_is_shown_without_anyones_data() -> None:
    lines = [
        BACKEND + "ERROR [x] postgresql://user:hunter22@db/x failed for 'Ada Lovelace', s3cret",
        *TRACEBACK,
    ]
    (shown,) = read([Line(0, text) for text in lines], Rules.of(LOGS["backend_log"], []), "s3cret").sample()
    assert shown.endswith("ValueError: boom")
    assert not any(word in shown for word in ("hunter22", "Ada", "s3cret"))


def test_those_that_concern_the_release_are_shown_first() -> None:
    texts = [BACKEND + f"ERROR [x] other {letter}" for letter in "abcdefghi"] + [BACKEND + "ERROR [x] idx_dpa_x"]
    sample = read([Line(0, text) for text in texts], Rules.of(LOGS["backend_log"], ["idx_dpa_"])).sample()
    assert len(sample) == 5 and sample[0].endswith("idx_dpa_x")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("ERROR [7] took 3.5 s", "ERROR [81] took 12 s", True),
        ("ERROR no user 'Ada'", "ERROR no user 'Bo'", True),
        ("ERROR job 1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed", "ERROR job 7c9e6679-7425-40de-944b-e07fc1f90ae7", True),
        ("ERROR trace 4bf92f3577b34da6", "ERROR trace 00f067aa0ba902b7", True),
        ("ERROR at 0x7f3a2c", "ERROR at 0x5ac11e2d", True),
        ("ERROR no room", "ERROR no answer", False),
        ("ERROR no room for a", "ERROR no room for idx_dpa_a", False),
        ("ERROR [x] facade", "ERROR [x] decade", False),
    ],
)
def test_errors_of_one_kind(one: str, other: str, same: bool) -> None:
    rules = Rules.of(LOGS["backend_log"], ["idx_dpa_"])
    seen = read([Line(0, BACKEND + text) for text in (one, other)], rules)
    assert (seen.errors, len(seen.kinds)) == (2, 1 if same else 2)


def at(moments: list[float], text: str = "ERROR [x] no answer of 10.0.0.7") -> list[Line]:
    return [Line(round(moment * SECOND), BACKEND + text) for moment in moments]


HOUR, USUAL = 3600, [100.0, 300.0, 500.0]
# What was logged in the 900 s before the release, in a sample's window, how long that was, and whether it is known.
KNOWN: list[tuple[str, list[Line], list[Line], int, bool]] = [
    ("as before", at(USUAL), at([1000]), 30, True),
    ("once before", at(USUAL[:1]), at([1000]), 30, False),
    ("never before", [], at([1000]), 30, False),
    ("another number", at(USUAL), at([1000], "ERROR [x] no answer of 10.0.0.99"), 30, True),
    ("another error", at(USUAL), at([1000], "ERROR [x] no room"), 30, False),
    ("more in a short time", at(USUAL), at([1000, 1001]), 30, False),
    ("as many in a burst", at([100, 101, 102]), at([1000, 1001, 1002]), 30, True),
    ("as often in an hour", at(USUAL), at([1000.0 + 200 * n for n in range(18)]), HOUR, True),
    ("twice as often in an hour", at(USUAL), at([1000.0 + 150 * n for n in range(24)]), HOUR, False),
    ("it concerns the release", at(USUAL, "ERROR idx_dpa_x"), at([1000], "ERROR idx_dpa_x"), 30, False),
]


@pytest.mark.parametrize(
    ("earlier", "lines", "seconds", "known"), [case[1:] for case in KNOWN], ids=[case[0] for case in KNOWN]
)
def test_what_was_logged_before_the_release(earlier: list[Line], lines: list[Line], seconds: int, known: bool) -> None:
    rules = Rules.of(LOGS["backend_log"], ["idx_dpa_"])
    usual = recurring(read(earlier, rules), Window(0, 900 * SECOND))
    seen, window = read(lines, rules), Window(1000 * SECOND, (1000 + seconds) * SECOND)
    kinds = known_kinds(seen, usual, window)
    assert (seen.count(kinds) == seen.errors) is known
    claim = judge(LOG, Container("a", "running", 1, 1, 1), window, seen, kinds, [])
    assert claim.verdict == ("inconclusive" if known else "fail")
    assert claim.grave is bool(seen.concerning)
    assert ("before the release" in claim.detail) is known
    assert seen.facts(kinds)["known"] == (len(lines) if known else 0)


def test_a_new_error_among_known_ones_is_the_one_that_is_shown() -> None:
    rules = Rules.of(LOGS["backend_log"], [])
    usual = recurring(read(at(USUAL), rules), Window(0, 900 * SECOND))
    seen = read([*at([1000]), *at([1001], "ERROR [x] no room")], rules)
    kinds = known_kinds(seen, usual, WINDOW)
    claim = judge(LOG, Container("a", "running", 1, 1, 1), WINDOW, seen, kinds, [])
    assert claim.verdict == "fail"
    assert "1 error in the log of shop " in claim.detail and claim.detail.endswith("no room")
    assert "besides 1 that also occurred before the release" in claim.detail


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", SECOND),
        ("1970-01-01T00:00:01.5Z", SECOND + 500_000_000),
        ("1970-01-01T00:00:01.123456789Z", SECOND + 123_456_789),
        ("1970-01-01T01:00:01.000000001+01:00", SECOND + 1),
        ("1970-13-01T00:00:01Z", None),
        ("Traceback", None),
    ],
)
def test_moments_to_the_nanosecond(text: str, expected: int | None) -> None:
    assert nanoseconds(text) == expected
    if expected is not None:
        assert nanoseconds(moment(expected)) == expected


def test_lines_are_whole_however_they_come() -> None:
    chunks = [b"1970-01-01T00:00:01Z a\n1970-01-01T00:0", b"0:02Z b\r\n", b"no moment\n", b"1970-01-01T00:00:03Z end"]
    assert list(split(chunks)) == [
        Line(SECOND, "a"),
        Line(2 * SECOND, "b"),
        Line(2 * SECOND, "no moment"),
        Line(3 * SECOND, "end"),
    ]


class FakeEngine:
    """Hands out lines second by second, as the engine does."""

    def __init__(self, *at_ns: int) -> None:
        self.api = self
        self.at_ns = at_ns
        self.asked: dict[str, int] = {}

    def logs(self, name: str, **asked: Any) -> Iterator[bytes]:
        assert asked.pop("follow") is False
        self.asked = asked
        return (f"{moment(at_ns)} line\n".encode() for at_ns in self.at_ns)


def test_a_window_begins_with_its_first_nanosecond_and_ends_before_its_last() -> None:
    engine: Any = FakeEngine(SECOND + 4, SECOND + 5, 2 * SECOND + 6, 2 * SECOND + 7)
    found = [line.at_ns for line in window_lines(engine, "x", Window(SECOND + 5, 2 * SECOND + 7))]
    assert found == [SECOND + 5, 2 * SECOND + 6]
    assert (engine.asked["since"], engine.asked["until"]) == (1, 3)


# What the container was, what the last sample knew, lines seen, and the doubt: is anything lost?
DOUBTS: list[tuple[str, dict[str, Any], dict[str, Any], int, tuple[str, bool] | None]] = [
    ("as it was", {}, {"container_id": "a"}, 5, None),
    ("restarted", {"started_ns": 150 * SECOND}, {}, 5, ("restarted", False)),
    ("made anew", {"created_ns": 150 * SECOND, "oldest_ns": 150 * SECOND}, {}, 5, ("recreated", True)),
    ("another one", {}, {"container_id": "b"}, 5, ("recreated", True)),
    ("rotated", {"oldest_ns": 100 * SECOND + 1}, {"container_id": "a", "oldest_at": "x"}, 5, ("rotated", True)),
    ("emptied", {"oldest_ns": None}, {"container_id": "a", "oldest_at": "x"}, 5, ("rotated", True)),
    ("its first line", {"oldest_ns": 150 * SECOND}, {"container_id": "a", "oldest_at": None}, 5, None),
    ("silent", {}, {}, 0, ("Too little traffic", False)),
]


@pytest.mark.parametrize(("now", "before", "lines", "doubt"), [case[1:] for case in DOUBTS], ids=[c[0] for c in DOUBTS])
def test_what_makes_silence_prove_nothing(
    now: dict[str, Any], before: dict[str, Any], lines: int, doubt: tuple[str, bool] | None
) -> None:
    container = Container(**{"id": "a", "status": "running", "created_ns": 1, "started_ns": 1, "oldest_ns": 1, **now})
    rules = Rules.of(LOGS["backend_log"], [])
    quiet = read([Line(0, BACKEND + "INFO [x] y")] * lines, rules)
    found = doubts(LOG, container, before, WINDOW, quiet)
    claim = judge(LOG, container, WINDOW, quiet, (), found)
    if doubt is None:
        assert (found, claim.verdict) == ([], "pass")
    else:
        assert claim.verdict == "inconclusive" and doubt[0] in claim.detail
        assert any(one.lost for one in found) is doubt[1]
    noisy = read([Line(0, BACKEND + "ERROR [x] y")], rules)
    assert judge(LOG, container, WINDOW, noisy, (), found).verdict == "fail"


@pytest.mark.parametrize(("before", "lost"), [({}, True), ({"levels": {"INFO": 3}}, False)])
def test_lines_of_another_form_prove_nothing(before: dict[str, Any], lost: bool) -> None:
    seen = read([Line(0, "some text")] * 3, Rules.of(LOGS["backend_log"], []))
    (doubt,) = doubts(LOG, Container("a", "running", 1, 1, 1), before, WINDOW, seen)
    assert "None of the 3 lines" in doubt.text and doubt.lost is lost


# What the level is, in which log and line, and whether it may be an error in another language.
LEVELS: list[tuple[str, str, str, bool]] = [
    *((level, "database_log", SERVER.format(7) + f"{level}:  x", True) for level in ("FEHLER", "WARNUNG", "ERREUR")),
    *((level, "database_log", SERVER.format(7) + f"{level}:  x", True) for level in ("BŁĄD", "ОШИБКА", "错误")),
    *((level, "database_log", SERVER.format(7) + f"{level}:  x", False) for level in ("LOG", "WARNING", "DEBUG5")),
    ("LOG", "database_log", SERVER.format(7) + "LOG:  statement: SELECT 'FEHLER:  x'", False),
    # A program's own levels are its own business.
    ("SUCCESS", "backend_log", BACKEND + "SUCCESS [app] x", False),
    *(
        (level, "backend_log", BACKEND + f"{level} [app] x", False)
        for level in ("DEBUG", "INFO", "WARNING", "CRITICAL")
    ),
    ("INFO", "backend_log", BACKEND + 'INFO [uvicorn.access] GET: "GET /x" 200', False),
    ("", "backend_log", "GET: /x", False),
    ("INFO", "worker_log", WORKER + "INFO/ForkPoolWorker-1] TASK: x", False),
]


@pytest.mark.parametrize(("level", "log", "line", "doubted"), LEVELS)
def test_a_level_that_is_not_known_proves_nothing(level: str, log: str, line: str, doubted: bool) -> None:
    rules = Rules.of(LOGS[log], [])
    usual = {"backend_log": BACKEND + "INFO [x] y", "worker_log": WORKER + "INFO/x] y"}.get(log, "")
    seen = read([Line(0, usual or SERVER.format(7) + "LOG:  y"), Line(5 * SECOND, line)], rules)
    assert not level or seen.levels[level] > 0
    one = Log(LOGS[log], "shop", rules, None)
    found = doubts(one, Container("a", "running", 1, 1, 1), {}, WINDOW, seen)
    assert [doubt.lost for doubt in found] == [True] * doubted
    assert all(f"the level {level}, which" in doubt.text for doubt in found)


@pytest.mark.parametrize(
    ("level", "known"), [("*", True), ("W", True), ("30", True), ("FEHLER", True), ("TIPP", False)]
)
def test_what_a_release_declares_and_what_is_no_word_is_known(level: str, known: bool) -> None:
    declared = {"event": "(?P<level>x)", "errors": ["FEHLER"]}
    assert Rules.of(declared, []).knows(level) is known


def test_a_service_that_died_of_what_concerns_the_release_has_no_limit() -> None:
    seen = read([Line(0, BACKEND + "ERROR [x] idx_dpa_x is gone")], Rules.of(LOGS["backend_log"], ["idx_dpa_"]))
    claim = judge(LOG, Container("a", "restarting", 1, 1, 1), WINDOW, seen, (), [])
    assert (claim.verdict, claim.grave) == ("fail", True)
    assert "is restarting" in claim.detail and "idx_dpa_x is gone" in claim.detail


@pytest.mark.parametrize("status", ["exited", "missing"])
def test_a_service_that_is_down_fails(status: str) -> None:
    container = None if status == "missing" else Container("a", status, 1, 1, 1)
    claim = judge(LOG, container, WINDOW, LogStats(), (), [])
    assert claim.verdict == "fail" and status in claim.detail
