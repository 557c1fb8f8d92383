"""Which statement of a migration took which lock, and for whom a probe waited: the recorded as one observation."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..core.plain_text import printable
from ..core.redaction import masked_sql
from ..postgres.session import Row
from .catalog_changes import CatalogState, changes, rewritten
from .observation import CONFLICTS, ROW_LOCK, STRENGTH, WRITER_MODE, Fault, Lock, Observation, Statement, TableWait
from .probe import Probe, Wait
from .sampler import Held, Ran, Samples
from .statement_log import Logged

KEPT_STATEMENTS = 200
KEPT_CHARACTERS = 500
# The log has its moments in whole ms.
CLOCK_MS = 3.0
FAULTLESS_MS = 20.0
CONTROL = frozenset({"BEGIN", "COMMIT", "ROLLBACK", "START TRANSACTION", "SAVEPOINT", "RELEASE", "SET", "SHOW"})
_COMMENT = re.compile(r"\s+|--[^\n]*\n?|/\*.*?\*/", re.DOTALL)
_NOISE = frozenset({"UNIQUE", "OR", "REPLACE", "TEMP", "TEMPORARY", "UNLOGGED", "CONSTRAINT"})
_OBJECTS = frozenset({"CREATE", "ALTER", "DROP", "REFRESH", "LOCK", "TRUNCATE"})


@dataclass(frozen=True)
class Record:
    """What was recorded from begin to end; temporary: sizes of temporary files, None where no log was read.

    problems: sentences on what was not observed; more are added.
    """

    application: str
    samples: Samples
    probes: Sequence[tuple[Probe, Probe]]
    before: CatalogState
    after: CatalogState
    was: Row
    figures: Row
    duration_s: float
    temporary: Sequence[int] | None
    may_lag: bool
    problems: list[str]
    probed: bool = True


class Account:
    """One observation out of samples, log, probes and catalog."""

    def __init__(self, record: Record, ran: list[Ran]) -> None:
        self.record, self.samples, self.ran = record, record.samples, ran
        self.migration = {one.pid for one in ran}
        self.numbers = {id(one): number for number, one in enumerate(ran, start=1)}
        self.problems = record.problems
        self.by_pid: dict[int, list[Ran]] = {}
        for one in ran:
            self.by_pid.setdefault(one.pid, []).append(one)
        if not ran:
            named = f" named {record.application}" if record.application else ""
            self.problems.append(
                f"No statement of a session{named} was observed, so that no wait can be ascribed to the migration."
            )

    def observation(self) -> Observation:
        """The result, for the journal."""
        before, was, figures = self.record.before, self.record.was, self.record.figures
        waits = tuple(self._wait(writer, reader) for writer, reader in self.record.probes)
        statements = self._kept(self._statements(), waits)
        temporary = self._temporary()
        return Observation(
            duration_ms=_round(self.record.duration_s * 1000),
            largest_gap_ms=_round(self.samples.largest_gap_ms),
            samples=self.samples.count,
            statements=statements,
            statements_total=len(self.ran),
            transactions=len(self.samples.transactions),
            waits=waits,
            rewritten=tuple(rewritten(before, self.record.after)),
            kinds={
                before.name(held.oid): kind
                for held in self.samples.held
                if held.mode in STRENGTH and (kind := before.kind(held.oid))
            },
            changes=tuple(changes(before, self.record.after)),
            wal_bytes=figures["wal_bytes"] - was["wal_bytes"],
            temp_files=temporary[0],
            temp_bytes=temporary[1],
            size_bytes=figures["size_bytes"] - was["size_bytes"],
            not_observed=tuple(self.problems),
            probed=self.record.probed,
        )

    def _statements(self) -> list[Statement]:
        locks: dict[int, list[Lock]] = {}
        for held in self.samples.held:
            # For a table that the migration creates nobody waits.
            name = self.record.before.name(held.oid)
            ran, certain = self._taken_by(held)
            if name and ran is not None:
                locks.setdefault(id(ran), []).append(_lock(held, name, certain))
        sessions = {pid: number for number, pid in enumerate(dict.fromkeys(one.pid for one in self.ran), start=1)}
        return [
            Statement(
                number=self.numbers[id(one)],
                session=sessions[one.pid],
                text=_bounded(one.text),
                tag=one.tag,
                start_ms=_round(one.begin_ms - self.record.was["now"]),
                duration_ms=_round(one.end_ms - one.begin_ms),
                lock_wait_ms=_round(min(one.lock_wait_ms, one.end_ms - one.begin_ms)),
                locks=tuple(sorted(locks.get(id(one), ()), key=lambda lock: (lock.table, lock.mode))),
            )
            for one in self.ran
        ]

    def _temporary(self) -> tuple[int, int]:
        """How many temporary files were written, and their bytes."""
        record = self.record
        if record.temporary is not None:
            return len(record.temporary), sum(record.temporary)
        if record.may_lag:
            self.problems.append(
                "The server may not have counted all temporary files: it counts those of a session when that ends."
            )
        return (
            record.figures["temp_files"] - record.was["temp_files"],
            record.figures["temp_bytes"] - record.was["temp_bytes"],
        )

    def _kept(self, statements: list[Statement], waits: Iterable[TableWait]) -> tuple[Statement, ...]:
        """Those at fault, then those with locks, then the longest, in their order."""
        at_fault = {
            number
            for wait in waits
            for fault in (wait.writer, wait.reader)
            if fault
            for number in (fault.statement, fault.through)
        }
        ranked = sorted(
            statements,
            key=lambda one: (one.number in at_fault, bool(one.locks), one.duration_ms),
            reverse=True,
        )
        if len(ranked) > KEPT_STATEMENTS:
            self.problems.append(f"Of {len(ranked)} statements {KEPT_STATEMENTS} are listed.")
        return tuple(sorted(ranked[:KEPT_STATEMENTS], key=lambda one: one.number))

    def _taken_by(self, held: Held) -> tuple[Ran | None, bool]:
        """The statement that took a lock, and whether no other one can have."""
        running = [
            one
            for one in self._running(held.pid, held.before_ms - CLOCK_MS, held.first_ms + CLOCK_MS)
            if one.tag not in CONTROL
        ]
        if len(running) < 2:
            # Without the log a short statement in front of this one may have been missed.
            certain = bool(running) and (self.record.temporary is not None or running[0].begin_ms <= held.before_ms)
            return (running[0] if running else None), certain
        # Only to choose among those of one gap, and it is said that it is a choice.
        relation = self.record.before.relations.get(held.oid)
        named = [one for one in running if relation and relation["name"] in one.text]
        return (named or running)[0], False

    def _running(self, pid: int, begin_ms: float, end_ms: float) -> list[Ran]:
        """The session's statements that ran between the two moments, in their order."""
        ran = self.by_pid.get(pid, [])
        last = bisect_right(ran, end_ms, key=lambda one: one.begin_ms)
        first = last
        while first and ran[first - 1].end_ms >= begin_ms:
            first -= 1
        return ran[first:last]

    def _wait(self, writer: Probe, reader: Probe) -> TableWait:
        table = self.record.before.name(writer.oid)
        for probe, what in ((writer, "Writing to"), (reader, "Reading")):
            if probe.problem:
                self.problems.append(f"{what} {table} was not observed to the end: {probe.problem}.")
        if writer.longest and not writer.rows and not writer.problem:
            self.problems.append(f"No row of {table} was tried, so that only locks on the table were observed.")
        return TableWait(
            table,
            writer_ms=_round(writer.longest.duration_ms) if writer.longest else None,
            reader_ms=_round(reader.longest.duration_ms) if reader.longest else None,
            writer=self._fault(writer),
            reader=self._fault(reader),
            rows=writer.rows,
            gap_ms=_round(max(writer.largest_gap_ms, 0.0)),
            finished=all(probe.longest is None or probe.longest.finished for probe in (writer, reader)),
        )

    def _fault(self, probe: Probe) -> Fault | None:
        """For what the longest wait was; None where it is too short to be found in the samples."""
        wait = probe.longest
        if wait is None or wait.duration_ms < FAULTLESS_MS:
            return None
        pids = Counter(wait.holders) if wait.row else self._blockers(probe, wait)
        if wait.row and not pids:
            # Whoever had changed the row had ended when that was asked.
            pids.update(held.pid for held in self.samples.held if self._meets(held, probe.oid, wait))
        ours = [pid for pid, _ in pids.most_common() if pid in self.migration]
        if not ours:
            if pids:
                names = sorted({self.samples.applications.get(pid) or "a session without a name" for pid in pids})
                return Fault(by_migration=False, other=", ".join(names))
            return self._fault_by_time(probe, wait) if not wait.row else Fault(by_migration=False, other="unknown")
        if wait.row:
            return self._row_fault(ours[0], wait)
        return self._lock_fault(ours, probe, wait)

    def _meets(self, held: Held, oid: int, wait: Wait) -> bool:
        """Whether the session had the table locked for changes when the wait began."""
        margin = self.samples.largest_gap_ms
        changing = held.mode == WRITER_MODE or held.mode in CONFLICTS[WRITER_MODE]
        began = held.first_ms - margin <= wait.begin_ms <= held.last_ms + margin
        return held.oid == oid and changing and began

    def _blockers(self, probe: Probe, wait: Wait) -> Counter[int]:
        found: Counter[int] = Counter()
        for one in self.samples.blocked.get(probe.pid, ()):
            if one.first_ms <= wait.end_ms + CLOCK_MS and one.last_ms >= wait.begin_ms:
                found += one.pids
        return found

    def _fault_by_time(self, probe: Probe, wait: Wait) -> Fault | None:
        """No sample met the wait: a conflicting lock of the migration that was held meanwhile explains it."""
        fault = self._lock_fault(list(self.migration), probe, wait)
        return replace(fault, certain=False) if fault.statement is not None else None

    def _lock_fault(self, pids: list[int], probe: Probe, wait: Wait) -> Fault:
        # Who uses the table opens its indexes, too, which may be locked alone.
        conflicting = self._conflicting(pids, {probe.oid}, probe.mode, wait) or self._conflicting(
            pids, self.record.before.indexes_of(probe.oid), probe.mode, wait
        )
        if not conflicting:
            return Fault(through=self._through(pids[0], wait), certain=False)
        # The one that spans most of the wait; of two that do, the first; of two that came with it, the stronger.
        longest = max(conflicting, key=lambda one: min(one.last_ms, wait.end_ms) - max(one.first_ms, wait.begin_ms))
        together = [
            one
            for one in conflicting
            if one.pid == longest.pid and abs(one.first_ms - longest.first_ms) <= self.samples.largest_gap_ms
        ]
        held = max(together, key=lambda one: STRENGTH.index(one.mode))
        ran, certain = self._taken_by(held)
        return Fault(
            held.mode,
            awaited=held.granted_ms is None,
            statement=self.numbers[id(ran)] if ran else None,
            through=self._through(held.pid, wait),
            certain=certain and ran is not None,
        )

    def _conflicting(self, pids: Sequence[int], oids: set[int], mode: str, wait: Wait) -> list[Held]:
        return [
            held
            for held in self.samples.held
            if held.pid in pids
            and held.oid in oids
            and held.mode in CONFLICTS[mode]
            and held.first_ms <= wait.end_ms
            and held.last_ms >= wait.begin_ms - self.samples.largest_gap_ms
        ]

    def _row_fault(self, pid: int, wait: Wait) -> Fault:
        ran = self.by_pid.get(pid, [])
        begun = [
            one
            for one in ran[: bisect_right(ran, wait.begin_ms + CLOCK_MS, key=lambda one: one.begin_ms)]
            if one.tag not in CONTROL
        ]
        statement = self.numbers[id(begun[-1])] if begun else None
        running = bool(begun and wait.holders) and begun[-1].end_ms >= wait.begin_ms - CLOCK_MS
        return Fault(ROW_LOCK, statement=statement, through=self._through(pid, wait), certain=running)

    def _through(self, pid: int, wait: Wait) -> int | None:
        """The statement of the session that ran longest during the wait."""
        overlaps = [
            (min(one.end_ms, wait.end_ms) - max(one.begin_ms, wait.begin_ms), one)
            for one in self._running(pid, wait.begin_ms, wait.end_ms)
        ]
        longest = max(overlaps, key=lambda pair: pair[0], default=None)
        return self.numbers[id(longest[1])] if longest and longest[0] > 0 else None


def merged(ran: Sequence[Ran], logged: Iterable[Logged]) -> list[Ran]:
    """Those of the log, with what only samples have, and those that were sampled only: they failed, or still run."""
    found: list[Ran] = []
    by_pid: dict[int, list[Ran]] = {}
    for entry in logged:
        session = by_pid.setdefault(entry.pid, [])
        # The log's moments are cut to whole ms: a statement does not begin before the one in front of it has ended.
        begin = max(entry.begin_ms, session[-1].end_ms) if session else entry.begin_ms
        session.append(Ran(entry.pid, begin, max(begin, entry.end_ms), entry.text, entry.tag))
        found.append(session[-1])
    for sampled in ran:
        session = by_pid.get(sampled.pid, [])
        place = bisect_right(session, sampled.begin_ms + CLOCK_MS, key=lambda one: one.begin_ms)
        text = sampled.text.strip()[:KEPT_CHARACTERS]
        for one in reversed(session[:place]):
            if one.end_ms < sampled.begin_ms - CLOCK_MS:
                found.append(replace(sampled, tag=tag_of(sampled.text)))
                break
            if one.text.lstrip().startswith(text):
                one.lock_wait_ms += sampled.lock_wait_ms
                break
        else:
            found.append(replace(sampled, tag=tag_of(sampled.text)))
    return sorted(found, key=lambda one: one.begin_ms)


def tag_of(text: str) -> str:
    """The command of a text, where the server does not name it; for words only, never for a decision."""
    words: list[str] = []
    rest = text
    while len(words) < 2:
        while blank := _COMMENT.match(rest):
            rest = rest[blank.end() :]
        word = re.match(r"[A-Za-z]+", rest)
        if not word:
            break
        rest = rest[word.end() :]
        if not words or word[0].upper() not in _NOISE:
            words.append(word[0].upper())
    return " ".join(words) if words and words[0] in _OBJECTS else "".join(words[:1])


def _lock(held: Held, name: str, certain: bool) -> Lock:
    granted = held.granted_ms
    return Lock(
        name,
        held.mode,
        held_ms=_round(held.last_ms - granted) if granted is not None else 0.0,
        awaited_ms=_round((granted if granted is not None else held.last_ms) - held.first_ms),
        certain=certain,
    )


def _bounded(text: str) -> str:
    # Masked before it is cut: half a secret would not be recognized.
    plain = printable(masked_sql(text[: 4 * KEPT_CHARACTERS]))
    return plain if len(plain) <= KEPT_CHARACTERS else plain[: KEPT_CHARACTERS - 1] + "…"


def _round(ms: float) -> float:
    return round(max(ms, 0.0), 1)
