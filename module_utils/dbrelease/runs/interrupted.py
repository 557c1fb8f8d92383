"""Runs that were interrupted: detected in the journal, and described. Pure; recovery/recovery.py cleans up."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.journal import RUN_ID, Run, stamp
from ..core.journal_schema import schema_error
from ..core.restore_names import copy_name, kept_name, proof_name, rows_folder
from ..core.stages import RECONCILED
from .claim import CLAIM_STEP, is_closed, open_steps, progress_of

Line = Mapping[str, Any]

TEMPORARY = re.compile(rf".+\.tmp\.(?P<run_id>{RUN_ID})")
DUMP = re.compile(r"backup_before_.+_(?P<stamp>\d{8}_\d{6})\.dump")
# In the facts of every end that a run gives another one; the second where that will have no report.
SETTLED_BY, UNREPORTED_BY = "settled_by", "settled_without_report_by"
# So many are named and reported, the newest ones; a journal with as many as the second is not what runs have written.
MOST_REPORTED, MOST_UNENDED = 20, 1000
LONGEST_NAME = 100
OUTCOMES = ("deployed", "already_deployed", "rolled_back", "restored", "planned", "refused", "failed")
# What a playbook makes that must not stay without it: a database's name, from the application's and the run.
DATABASES = {"restore": copy_name, "rehearse": copy_name, "readiness": proof_name}
# Of other playbooks, the steps that one finishes where they were cut short.
FINISHES = {"deploy": (RECONCILED,)}


@dataclass(frozen=True)
class Interrupted:
    """A run that has no end, or a step without one; `closed` where the run itself came to its report.

    asked: the outcomes that it was to have. settled: it has its ends, but who gave them did not come to report it.
    """

    run: Run
    begun: str
    user: str
    controller: str
    where: str
    steps: tuple[str, ...]
    closed: bool
    asked: tuple[str, ...] = ()
    settled: bool = False

    def facts(self) -> dict[str, Any]:
        """For the journal, and for the run that reports it; one that has its own report requests none."""
        return {
            "run_id": self.run.run_id,
            "playbook": self.run.playbook,
            "steps": list(self.steps),
            "asked": [] if self.closed else list(self.asked),
        }

    @property
    def words(self) -> str:
        """For a sentence."""
        return f"Run {self.run.run_id} ({self.run.playbook}, begun {self.begun} by {self.user} on {self.controller})"


def runs_in(lines: Sequence[Line]) -> dict[str, Line]:
    """The first line of every run, by its identifier, in the order in which they began."""
    found: dict[str, Line] = {}
    for line in lines:
        found.setdefault(line["run_id"], line)
    return found


def lines_of_runs(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of every run, in the order in which the runs began."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line["run_id"], []).append(line)
    return found


def may_live(lines: Sequence[Line], run_id: str, is_dead: Callable[[Line], bool]) -> bool:
    """Whether a run may still be running, by its own lines; called by the run that has the claim.

    One that had claimed the target is dead or was taken over; for one that never did, its controller is checked.
    """
    if is_closed(lines, run_id):
        return False
    had_claimed = any((line["step"], line["event"]) == (CLAIM_STEP, "passed") for line in lines)
    return not had_claimed and not is_dead(lines[0])


def interrupted_runs(
    by_run: Mapping[str, Sequence[Line]], *, living: Collection[str], state_dir: str
) -> list[Interrupted]:
    """The runs, of any release, that were interrupted and that no later run has settled and reported yet."""
    found = []
    for run_id, own in by_run.items():
        if run_id in living:
            continue
        if is_closed(own, run_id) and not open_steps(own, run_id) and not is_unreported(own):
            continue  # nearly every run: it ended in order
        first = own[0]
        said = {} if schema_error(first, "run") else first["facts"]
        asked = tuple(outcome for outcome in said.get("asked") or () if outcome in OUTCOMES)
        # A run for which no report was requested has all of its reports.
        settled = bool(asked) and is_unreported(own)
        if settled:
            own = [line for line in own if SETTLED_BY not in line["facts"]]
        steps, closed = tuple(open_steps(own, run_id)), is_closed(own, run_id)
        if closed and not steps:
            continue
        controller = said.get("controller") or {}
        found.append(
            Interrupted(
                run=Run(run_id, first["release"], first["environment"], first["playbook"], state_dir),
                begun=str(first["ts"]),
                user=str(controller.get("user") or "unknown")[:LONGEST_NAME],
                controller=str(controller.get("host") or "unknown")[:LONGEST_NAME],
                where=progress_of(own, run_id),
                steps=steps,
                closed=closed,
                asked=asked,
                settled=settled,
            )
        )
    return found


def is_unreported(own: Sequence[Line]) -> bool:
    """Whether the newest end of a run was written by another run; its report has an end of its own."""
    ends = [line["facts"] for line in own if line["step"] == "run" and line["event"] != "started"]
    return bool(ends) and SETTLED_BY in ends[-1]


def notice(
    runs: Sequence[Interrupted],
    *,
    playbook: str,
    revisions: Sequence[str] | None,
    from_revision: str,
    revision: str,
    settled: bool = True,
    dry: bool = False,
) -> str:
    """The line for the operator, by what this run does, or in check mode (dry) would do.

    revisions: None where the database could not be asked. settled: whether all that was left could be cleaned up.
    """
    if not runs:
        return ""
    was = " ".join([*_uncounted(runs), *(f"{run.words} was interrupted {run.where}." for run in newest(runs))])
    if revisions is None:
        return f"{was[:-1]}; what it left in the database is unknown, because the database does not answer."
    at = f"the database is at {', '.join(revisions) or 'no revision'}"
    same = any(run.run.playbook == playbook for run in runs)
    repairs = any(step in FINISHES.get(playbook, ()) for run in runs for step in run.steps)
    finishes = f"this run {'would finish' if dry else 'finishes'} it"
    if same and list(revisions) == [revision]:
        then = f": {finishes}."
    elif repairs and list(revisions) == [revision]:
        then = f"; if it left a foreign key half done, {finishes}."
    elif same and list(revisions) == [from_revision]:
        then = f", as if it had not begun: this run {'would start' if dry else 'starts'} from the beginning."
    else:
        then = f"; what it left {_cleaned(settled=settled, dry=dry)}."
    return f"{was[:-1]}; {at}{then}"


def notice_of_others(runs: Sequence[Interrupted], *, settled: bool, dry: bool) -> str:
    """The same for runs of other releases: whether these continue is decided by their own playbooks."""
    cleaned = _cleaned(settled=settled, dry=dry)
    sentences = (
        f"{run.words} of release {run.run.release} was interrupted {run.where}; what it left running {cleaned}, "
        "and the next run of that release continues from there."
        for run in newest(runs)
    )
    return " ".join([*_uncounted(runs), *sentences])


def newest(runs: Sequence[Interrupted]) -> Sequence[Interrupted]:
    """Those that are named, and reported; of the others only the number is reported."""
    return runs[-MOST_REPORTED:]


def _uncounted(runs: Sequence[Interrupted]) -> list[str]:
    more = len(runs) - len(newest(runs))
    return [f"{more} earlier runs were interrupted, too, and get no report."] if more else []


def _cleaned(*, settled: bool, dry: bool) -> str:
    return "would be cleaned up" if dry else "was cleaned up" if settled else "could not all be cleaned up"


def stray_temporaries(names: Collection[str], living: Collection[str]) -> list[str]:
    """Of file names, those that a run was writing that does not live."""
    matches = [(name, TEMPORARY.fullmatch(name)) for name in names]
    return sorted(name for name, match in matches if match and match["run_id"] not in living)


def stray_dumps(names: Collection[str], runs: Sequence[Interrupted]) -> list[str]:
    """Of file names, dumps of interrupted runs without their manifest: no backups. Others stay."""
    stamps = {stamp(run.run.run_id) for run in runs if "backup" in run.steps}
    matches = [(name, DUMP.fullmatch(name)) for name in names]
    return sorted(
        name
        for name, match in matches
        if match and match["stamp"] in stamps and f"{name.removesuffix('.dump')}.manifest.json" not in names
    )


def stray_folders(runs: Sequence[Interrupted]) -> list[str]:
    """Names of folders of interrupted runs that are useless without their script; a complete one stays."""
    return [rows_folder(run.run.run_id) for run in runs if run.run.playbook == "restore"]


def stray_databases(names: Collection[str], database: str, runs: Sequence[Interrupted]) -> list[str]:
    """Of the server's databases, those that interrupted runs created only for themselves."""
    made = {DATABASES[run.run.playbook](database, run.run.run_id) for run in runs if run.run.playbook in DATABASES}
    return sorted(made & set(names))


def swaps_done(
    names: Collection[str], database: str, runs: Sequence[Interrupted], folders: Collection[str]
) -> list[str]:
    """Of restores that had swapped before they were interrupted, what their reports would have said.

    names: the server's databases; folders: those of the state directory.
    """
    sentences = []
    for run in (one.run for one in newest([one for one in runs if one.run.playbook == "restore"])):
        kept, rows = kept_name(database, run.run_id), rows_folder(run.run_id)
        if kept in names:
            saved = f", and rows that were written since the backup are saved in {rows}" if rows in folders else ""
            sentences.append(
                f"Run {run.run_id} had swapped the databases: the one that was live before is kept as {kept} "
                f"(restore with -e restore_swap_back={kept} swaps it back){saved}."
            )
    return sentences
