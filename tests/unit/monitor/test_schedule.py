"""The entry for cron, and the refusals before it is written."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ansible.module_utils.dbrelease.monitor.schedule import (
    NAMES,
    Schedule,
    another_value,
    mark_of,
    names_of,
    no_sample,
    reading,
    until,
)

ODD = '100% o\'clock $(touch owned); "x"'
PLAIN = Schedule(
    mark="dbrelease monitor (orders test)",
    root="/srv/releases",
    tools="/opt/tools",
    inventory=["/srv/inventory"],
    limit=None,
    targets="all",
    release="orders",
    environment="test",
    until=2_000_000_000,
)


def test_the_play() -> None:
    assert PLAIN.play == (
        "ANSIBLE_TASK_TIMEOUT=600 /opt/tools/ansible-playbook playbooks/monitor.yml -i /srv/inventory "
        "-e release=orders -e targets=all -e monitor_watch_seconds=0 -e monitor_schedule= -e monitor_scheduled=true"
    )
    assert " --limit=a " in replace(PLAIN, limit="a").play


def test_whatever_a_name_holds_is_one_word_of_a_shell() -> None:
    odd = replace(PLAIN, inventory=[ODD, ODD], limit=ODD, targets=ODD, release=ODD, tools=ODD)
    words = shlex.split(odd.play)
    assert words[1] == f"{ODD}/ansible-playbook" and words.count(ODD) == 2
    assert odd.log == "scheduled-100__o_clock___touch_owned____x_.log"
    assert {f"--limit={ODD}", f"release={ODD}", f"targets={ODD}"} < set(words)


def test_the_entry_removes_itself_and_nothing_else(tmp_path: Path) -> None:
    """By a crontab of the test's own."""
    crontab, table = tmp_path / "crontab", tmp_path / "table"
    crontab.write_text(
        f'#!/bin/sh\nif [ "$1" = -l ]; then cat {table}; else cat >{table}.new; mv {table}.new {table}; fi\n'
    )
    crontab.chmod(0o755)
    ended = replace(PLAIN, until=1, root=str(tmp_path))
    job = ended.entry["job"]
    table.write_text(f"@daily true\n#Ansible: {ended.mark}\n@hourly {job}\n")
    command = job.replace("\\%", "%")
    subprocess.run(["sh", "-c", command], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert table.read_text() == "@daily true\n"


def test_to_cron_a_percent_sign_is_no_line_end() -> None:
    job = replace(PLAIN, release="100%").entry["job"]
    assert job.count("%") == job.count("\\%") > 0


@pytest.mark.parametrize("name", ["mark", "release", "environment", "targets", "limit"])
@pytest.mark.parametrize("sign", ["\n", "\r", "\x00", "\x85", "\u2028"])
def test_what_cron_would_read_as_more_than_one_entry_is_refused(name: str, sign: str) -> None:
    assert "holds a line break" in replace(PLAIN, **{name: f"x{sign}* * * * * touch owned"}).problem  # type: ignore[arg-type]
    assert PLAIN.problem == ""


def test_it_ends_after_the_time_of_stability_at_a_full_hour() -> None:
    assert until(7_300, 172_800) == 4 * 3_600 + 172_800 == until(10_799, 172_800)


def test_what_is_compared_is_named_in_the_argument_list_and_its_values_are_not() -> None:
    names = names_of(["backend", "cache"])
    assert names == [*NAMES, "backend_container", "cache_container"]
    argv = reading("/opt/tools", ["/a", "/b"], "staging", names)
    assert argv[:4] == ["/opt/tools/ansible", "--inventory=/a", "--inventory=/b", "staging"]
    assert "(cache_container | default('')) | string == " in argv[-1] and "(db_password) is string" in argv[-1]


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ("staging | FAILED! =>\n    assertion: (api_base_url | default('')) | string", "api_base_url"),
        ("", "db_password"),
    ],
)
def test_the_value_that_cron_would_not_have_is_named(output: str, name: str) -> None:
    assert f"the inventory does not give the {name} of this run" in another_value(output)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "    msg: Refused.\n\nVERDICT **\na: failed\n  x\n  Problem 1: The key is away. Add it.\n",
            "The key is away. Add it.",
        ),
        ("    msg: first\n    msg: >-\n        last\n", "last"),
        ("", "see play"),
    ],
)
def test_the_reason_for_a_missing_sample_is_reported(output: str, reason: str) -> None:
    assert f"the target cannot be watched ({reason})." in no_sample(output, "play")


CRONTAB = '#!/bin/sh\nif [ "$1" = -l ]; then cat "$TABLE"; else cat "$1" >"$TABLE.new"; mv "$TABLE.new" "$TABLE"; fi\n'
# The real action without its checks of what cron would read: two targets of one environment, a crontab of the test.
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - monitor_schedule:
        state: "{{ wanted }}"
        run: {release: orders, environment: test}
        targets: all
        services: []
        stable_seconds: 60
        tools: "{{ ansible_playbook_python | dirname }}"
      delegate_to: localhost
"""


def test_two_targets_of_an_environment_have_their_own_entries(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    table, programs = tmp_path / "table", tmp_path / "bin"
    programs.mkdir()
    (programs / "crontab").write_text(CRONTAB)
    (programs / "crontab").chmod(0o755)
    old = "dbrelease monitor (orders test)"
    table.write_text(f"@daily true\n#Ansible: {old}\n@hourly sample # {old}\n")
    actions = tmp_path / "plugins" / "action"
    actions.mkdir(parents=True)
    source = (root / "plugins/action/monitor_schedule.py").read_text()
    checks = 'self._try(schedule, options["services"], task_vars)'
    assert checks in source
    (actions / "monitor_schedule.py").write_text(
        source.replace(checks, "pass").replace("Path(__file__).resolve().parents[2]", f"Path({str(root)!r})")
    )
    (tmp_path / "play.yml").write_text(PLAY)
    (tmp_path / "hosts").write_text("a ansible_connection=local\nab ansible_connection=local\n")
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "TABLE": str(table),
        "ANSIBLE_CONFIG": str(root / "ansible.cfg"),
        "ANSIBLE_ACTION_PLUGINS": str(actions),
    }
    program = str(Path(sys.executable).parent / "ansible-playbook")

    def play(wanted: str, *limit: str) -> list[str]:
        argv = [program, "play.yml", "-i", "hosts", "-e", f"wanted={wanted}", *limit]
        ended = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return [line.removeprefix("#Ansible: ") for line in table.read_text().splitlines() if line[:1] == "#"]

    of_a, of_ab = mark_of("orders", "test", "a"), mark_of("orders", "test", "ab")
    assert play("hourly", "--limit=a") == [of_a], "the one that was for all of them is replaced"
    assert play("hourly", "--limit=ab") == [of_a, of_ab]
    assert [f" --limit={name} " in table.read_text() for name in ("a", "ab")] == [True, True]
    assert play("absent", "--limit=a") == [of_ab]
    assert sorted(play("hourly")) == sorted([of_a, of_ab]), "both at the same time, and none is lost"
    assert play("absent") == []
    assert table.read_text() == "@daily true\n"
