"""The hourly sample: the entry for cron on the controller, and what must be true before it is written there.

Pure: it builds texts and argument lists. cron has neither the environment nor the extra variables of whoever installs
an entry, so what it will read is compared with what this run has read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

HOUR_S = 3600
VALUES = "DBRELEASE_VALUES"
# What a sample depends on, and may differ where it is given by -e or looked up in the environment.
NAMES = (
    *("deploy_environment", "app_root", "release_state_dir", "api_base_url", "api_ca_file"),
    *("db_host", "db_port", "db_name", "db_user", "db_sslmode", "db_sslrootcert"),
)
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
UNFIT = re.compile(r"[^\w.-]")
ANOTHER = "let another scheduler call monitor with -e monitor_watch_seconds=0 every hour."
MORE_THAN_ONE = (
    "Changing the schedule of samples was refused (the release, deploy_environment, the inventory's path, --limit or "
    "targets holds a line break or another control character, and nothing was changed); give it without one, and "
    "rerun the playbook."
)


@dataclass(frozen=True)
class Schedule:
    """The crontab entry of one target; other targets of the environment have their own.

    until: when the entry removes itself, in seconds since 1970.
    """

    mark: str
    root: str
    tools: str
    inventory: Sequence[str]
    limit: str | None
    targets: str
    release: str
    environment: str
    until: int

    @property
    def shared_mark(self) -> str:
        """See shared_mark()."""
        return shared_mark(self.release, self.environment)

    @property
    def play(self) -> str:
        """The command that takes one sample.

        A target that does not answer must not block the run until the next one starts. The schedule in the inventory is
        ignored: a run that the schedule or its check started schedules nothing.
        """
        sources = [f"-i {quote(source)}" for source in self.inventory]
        limit = [quote(f"--limit={self.limit}")] if self.limit is not None else []
        words = [
            "ANSIBLE_TASK_TIMEOUT=600",
            quote(f"{self.tools}/ansible-playbook"),
            "playbooks/monitor.yml",
            *sources,
            *limit,
            f"-e release={quote(self.release)}",
            f"-e {quote(f'targets={self.targets}')}",
            "-e monitor_watch_seconds=0",
            "-e monitor_schedule= -e monitor_scheduled=true",
        ]
        return " ".join(words)

    @property
    def log(self) -> str:
        """The name of the file with the last output; each target has its own."""
        return "scheduled.log" if self.limit is None else f"scheduled-{UNFIT.sub('_', self.limit)}.log"

    @property
    def job(self) -> str:
        """The command of the entry. It removes itself, even if the target no longer exists; its last output is kept."""
        folder, mark = f"artifacts/{self.environment}", quote(self.mark)
        sample = (
            f"umask 077; cd {quote(self.root)} && mkdir -p {quote(folder)} && "
            f"{self.play} >{quote(f'{folder}/{self.log}')} 2>&1"
        )
        removal = f"table=$(crontab -l) && printf '%s\\n' \"$table\" | grep -vF {mark} | crontab -"
        return f"if [ $(date +%s) -lt {self.until} ]; then {sample}; else {removal}; fi # {self.mark}"

    @property
    def entry(self) -> dict[str, Any]:
        """The options of ansible.builtin.cron; cron reads a % as a line end."""
        return {"name": self.mark, "special_time": "hourly", "job": self.job.replace("%", "\\%")}

    @property
    def problem(self) -> str:
        """Why cron would read it as several entries; empty where it would not."""
        return MORE_THAN_ONE if UNSEEN.search(self.job + self.mark) else ""


def until(now_s: float, stable_seconds: int) -> int:
    """The end of the time for which a release must be stable, counted from now, so that a reinstall renews it.

    In full hours, so that installing it twice in a row is no change.
    """
    return (int(now_s) // HOUR_S + 2) * HOUR_S + stable_seconds


def mark_of(release: str, environment: str, target: str) -> str:
    """The comment that identifies the entry of one target."""
    return f"{shared_mark(release, environment)} on [{target}]"


def shared_mark(release: str, environment: str) -> str:
    """The comment of an entry for all targets of an environment, as earlier versions wrote it."""
    return f"dbrelease monitor ({release} {environment})"


def names_of(services: Iterable[str]) -> list[str]:
    """The variables whose values must be the same under cron."""
    return [*NAMES, *(f"{service}_container" for service in services)]


def reading(tools: str, inventory: Sequence[str], target: str, names: Sequence[str]) -> list[str]:
    """The program that reads the inventory as cron will, and compares.

    Any user can read an argument list, and a URL may contain a login: the environment of the program has the values.
    """
    values = f"(lookup('ansible.builtin.env', '{VALUES}') | from_json)"
    same = [f"({name} | default('')) | string == {values}[{place}]" for place, name in enumerate(names)]
    that = json.dumps({"that": ["(db_password) is string", *same], "quiet": True})
    sources = [f"--inventory={source}" for source in inventory]
    return [f"{tools}/ansible", *sources, target, "--module-name=assert", f"--args={that}"]


def another_value(output: str) -> str:
    """The refusal where cron would watch another target than this run; from the output of `reading`."""
    found = re.search(r"assertion: \W*(\w+)", output)
    return (
        "Installing the schedule was refused: cron has neither your environment nor your -e options, and without them "
        f"the inventory does not give the {found[1] if found else 'db_password'} of this run. Set it in the inventory "
        "(a secret in an Ansible Vault file, with vault_password_file in ansible.cfg, or by a file lookup), and "
        f"rerun the playbook; or {ANOTHER}"
    )


def no_sample(output: str, play: str) -> str:
    """The refusal where cron could not take a sample; from the output of the playbook."""
    problems = re.findall(r"(?m)^ +Problem(?: \d+)?: (.+)$", output)
    said = problems[:1] or re.findall(r"msg: (?:[|>]-?\s+)?([^\n]+)", output)[-1:] or [f"see {play}"]
    return (
        "Installing the schedule was refused: cron does not have your environment, and without it the target cannot "
        f"be watched ({said[0]}). Make it reachable without the environment (an ssh key without an agent, the engine "
        f"at its default socket), and rerun the playbook; or {ANOTHER}"
    )


def no_cron(reason: str) -> str:
    """The sentence where the crontab could not be changed."""
    return f"Changing the schedule of samples failed ({reason}): install cron on the controller, or {ANOTHER}"
