"""The release rehearsed on a restored copy: upgrade, verify, downgrade, and upgrade again, by the application's image.

Each act is a claim. What follows a claim that failed is skipped, as it would show nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg2
from psycopg2.extras import RealDictCursor

from ..backup.schema_text import Schema, catalog_of, differences, in_words
from ..core.errors import ReleaseError
from ..core.journal import Run, Step
from ..core.proof import Proof, Status, failure_of, failures, not_run
from ..host.commands import Commands
from ..migrate.alembic import current_with
from ..migrate.alembic_engine import Alembic, session_environment
from ..migrate.alembic_probe import PROBE_SETTINGS, probe_name
from ..migrate.finalize import finalize
from ..migrate.log import open_log
from ..migrate.move import Moved, Position, Task, migrate, read_position, session_name
from ..migrate.outcome import UPGRADE_PROOF, Move
from ..migrate.preview import Direction
from ..migrate.role import settings_for
from ..observe.budget import DEFAULT, WRITE_WAIT, forecast, judge
from ..observe.observing import Seen, observing
from ..postgres.catalog import read_back, read_catalog
from ..postgres.declared_checks import read_checks
from ..postgres.fingerprints import count_tables, position, read_tables, state_of
from ..postgres.kept_values import columns_declared, read_kept, rows_declared
from ..postgres.lock_retry import LockLimits
from ..postgres.session import Login, connect, server_reason, transaction
from ..postgres.structure import Catalog
from ..release.guard_kinds import KINDS_OF_DATABASE, kind_of
from ..restore.compare import compare as compare_rows
from ..restore.plan import CopyTarget
from ..rollback.guards import all_guards
from ..rollback.in_database import evaluate
from ..verify.plans import read_plans
from ..verify.scenarios import Limits, play_scenarios
from ..verify.write_attribution import Added, Memory, added_since, compare
from .application import unreachable
from .can_fail import Declared, prove_can_fail
from .can_fail import Limits as Breaking
from .squawk import squawk

NAME = "dbrelease rehearsal"
# No guard of a step asks the live application: its answer is not one of the copy.
NO_SERVICES: Mapping[str, Any] = {"api_base_url": "", "containers": {}, "timeout_seconds": 1, "guards": ()}
BREAKING = Breaking(tries=200, seconds=10.0)  # for each claim
STATEMENT_MS, LOCK_MS, SAMPLE_SIZE, SETTLE_S = 300_000, 5_000, 5, 2.0
TITLES = {
    "rehearse.upgrade": "The upgrade runs on the copy",
    "rehearse.finalize": "The steps after the upgrade run on the copy",
    "rehearse.verified": "All that the release declares is true on the upgraded copy",
    "rehearse.untouched": "The upgrade leaves the other tables of the copy as they were",
    "rehearse.guards": "Right after the upgrade the guards of the database allow a rollback",
    "rehearse.downgrade": "The downgrade runs on the copy",
    "rehearse.back": "The downgraded copy is what it was before the upgrade",
    "rehearse.upgrade_again": "A second upgrade gives what the first one gave",
}
NO_ROLLBACK = "The release declares no rollback, or reversible: false: its way back is the restore."
BROKEN_OFF = (
    "Rehearsing the release failed (the copy could not be read: {}), and the live database was not changed: find out "
    "what the release does to its database, or give the throwaway server more memory, and rehearse again."
)
NO_WAY_BACK = (
    "Without these, the way back is the restore, or a rollback with -e accept_loss=N where only rows would be lost."
)
ADVICE = "The live database was only read. Correct the release, and rehearse again."


@dataclass(frozen=True)
class Change:
    """What is rehearsed: how a release changes the database, and what it says is true afterwards."""

    command: Sequence[str]
    from_revision: str
    to_revision: str
    lock: Mapping[str, Any]
    timeout_s: int
    success_pattern: str
    budget: Mapping[str, Any]
    finalize: Sequence[Mapping[str, Any]]
    tables: Mapping[str, Any]
    checks: Sequence[Mapping[str, Any]]
    scenarios: Sequence[Mapping[str, Any]]
    plans: Sequence[Mapping[str, Any]]
    guards: Sequence[Mapping[str, Any]]
    goes_back: bool = True  # it declares a rollback
    default_wait: bool = False  # it declares no budget for the wait of a writer
    downgrade: str = ""  # the text of its revisions
    lossy: bool = False  # the downgrade does not bring back what the upgrade removes

    @classmethod
    def of(cls, release: Mapping[str, Any], audit: Sequence[str] = ()) -> Change:
        """From the release as release_info returns it; audit: the audit tables of the inventory."""
        migration, rollback = release["migration"], release.get("rollback") or {}
        tables = {**release["tables"], "audit": [*(release["tables"].get("audit") or ()), *audit]}
        return cls(
            migration["command"],
            migration["from_revision"],
            migration["to_revision"],
            migration.get("lock") or {},
            migration["timeout_seconds"],
            migration.get("success_pattern") or "",
            {**DEFAULT, **(migration.get("budget") or {})},
            migration.get("finalize") or [],
            tables,
            release.get("checks") or [],
            release.get("scenarios") or [],
            release.get("plans") or [],
            all_guards(rollback.get("guards") or [], tables["created"], tables["altered"], _text(migration)),
            "rollback" in release and migration.get("reversible", True) is not False,
            "write_wait_ms" not in (migration.get("budget") or {}),
            _text(migration),
            migration.get("reversible") == "lossy",
        )


def _text(migration: Mapping[str, Any]) -> str:
    """The revisions of the release, whose downgrade is the one that is rehearsed."""
    return "\n".join(file["content"] for file in migration.get("revision_files") or ())


@dataclass(frozen=True)
class _State:
    """A database at one moment: its catalog, its tables, the next transaction id, and how many below it go on."""

    catalog: Schema
    tables: dict[str, Any]
    xid: int
    running: int
    kept: dict[str, Any] = field(default_factory=dict)  # of the tables that the release changes
    parts: dict[str, Catalog] = field(default_factory=dict)  # of the same tables


@dataclass(frozen=True)
class _Counted:
    """A database at one moment: its catalog, and the number of rows of each table."""

    catalog: Schema
    rows: dict[str, int]


class StopError(Exception):
    """The rest would show nothing; callers of play() never receive it."""


@dataclass
class Rehearsal:
    """The acts on one copy, in their order; `proofs` and `facts` are what they observed.

    live: the live database, which is only asked whether the copy is another one.
    login: as db_user, like the acts on the live database. own_server: the server is a throwaway one, so that its log
    may be read.
    """

    change: Change
    run: Run
    copy: CopyTarget
    login: Login
    live: Login
    commands: Commands
    own_server: bool = False
    named: bool = False
    proofs: list[Proof] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def probe(self) -> None:
        """Start Alembic once, as a migration does: it finds the copy, at the revision of the backup; else a refusal."""
        # Without the read-only setting: what env.py makes whenever it starts is there before the first comparison.
        settings = {name: value for name, value in PROBE_SETTINGS.items() if name != "default_transaction_read_only"}
        limits = LockLimits.of(self.change.lock)
        try:
            given = session_environment(self.commands, probe_name(self.run.run_id), limits, settings)
            current = current_with(self.commands, self.change.command, given)
        except ReleaseError as error:
            raise unreachable(error) from error
        self.named = current.session is not None and "application_name" not in current.session.lacks(limits.timeout_ms)
        if current.revisions != [self.change.from_revision]:
            at = " and ".join(current.revisions) or "no revision"
            raise unreachable(ReleaseError(f"it reads {at}, and the backup is at {self.change.from_revision}"))

    def play(self, upgraded: Callable[[], list[Proof]], downgraded: Callable[[], list[Proof]]) -> None:
        """Everything, in this order; upgraded and downgraded: what else is observed on the copy then."""
        why = "Not reached."
        try:
            if not self.change.goes_back:
                self._demand(*downgraded())  # on the copy as it was restored
            before = self._state()
            moved = self._upgrade()
            self._verify()
            self._demand(self._untouched(before, moved))
            self.proofs += self._can_fail()
            if self.change.goes_back:
                first = self._counted()
                settings = self._guards(before)
                self._downgrade(settings)
                back = self._state()
                self._demand(self._back(before, back))
                self._again(first, self._written(back, downgraded()))
            self._demand(*upgraded())
            why = NO_ROLLBACK
        except StopError:
            pass
        except psycopg2.Error as error:
            # Not as where no rehearsal is possible: it was, and what ended it may be the release.
            raise ReleaseError(BROKEN_OFF.format(server_reason(error)), refused=True) from error
        shown = {proof.name for proof in self.proofs}
        self.proofs += [
            Proof(name, title, "skipped", detail=why) for name, title in TITLES.items() if name not in shown
        ]

    def _demand(self, *proofs: Proof) -> None:
        self.proofs += proofs
        if any(proof.status == "fail" or proof.could_not_run for proof in proofs):
            raise StopError

    def _state(self) -> _State:
        with self._reading() as cursor:
            now = position(cursor)  # of the snapshot in which the tables are read
            tables = read_tables(cursor)
            changed = self.change.tables.get("changed") or {}
            kept, parts = read_kept(cursor, changed, tables), {name: read_catalog(cursor, name) for name in changed}
            return _State(self._catalog(), tables, now["xid"], now["running"], kept, parts)

    def _counted(self) -> _Counted:
        with self._reading() as cursor:
            return _Counted(self._catalog(), count_tables(cursor))

    def _is_as(self, before: _State) -> bool:
        """Whether no transaction has written to the copy since: then its rows need not be read again."""
        with self._reading() as cursor:
            return not before.running and position(cursor)["xid"] == before.xid

    def _catalog(self) -> Schema:
        return catalog_of(self.copy.login, self.copy.commands, NAME, inside=self.copy.inside)

    @contextmanager
    def _reading(self) -> Iterator[RealDictCursor]:
        with (
            closing(connect(self.copy.login, NAME)) as connection,
            transaction(connection, read_only=True, isolation="REPEATABLE READ") as cursor,
        ):
            yield cursor

    def _move(
        self, direction: Direction, settings: Mapping[str, str], first: Position | None = None
    ) -> tuple[Moved, Proof]:
        change = self.change
        ends = (change.from_revision, change.to_revision)
        upgrades = direction == "upgrade"
        move = Move(direction, *(ends if upgrades else ends[::-1]), change.success_pattern if upgrades else None)
        log = open_log(self.run, "rehearsal_log", self.login.password)
        limits = LockLimits.of(change.lock)
        task = Task(
            move, self.copy.login, self.login.version_table, limits, change.timeout_s, self.run, log, dict(settings)
        )
        moved = migrate(task, Alembic(task, self.commands, change.command), first)
        (proof,) = (one for one in moved.proofs if one.name == UPGRADE_PROOF)
        return moved, proof

    def _upgrade(self, *, again: bool = False) -> Moved:
        settings = {}
        if self.change.finalize:
            settings = settings_for(self.login, self.commands, self.change.command, self.login.version_table)
        # Read before other sessions observe: the move would wait for what these might have written.
        first = read_position(self.copy.login)
        with nullcontext() if again else self._observed():
            moved, proof = self._move("upgrade", settings, first)
            if not again:
                self.facts["upgrade_ms"] = moved.duration_ms
                self._demand(_named("rehearse.upgrade", proof))
            elif proof.status == "fail":
                self._demand(_named("rehearse.upgrade_again", proof))
            self._finalize(again=again)
        return moved

    @contextmanager
    def _observed(self) -> Iterator[None]:
        """Observe what the sessions of the block do to others, and hold it against the budget."""
        declared = self.change.tables
        tables = [name for kind in ("existing", "altered", "changed", "dropped") for name in declared.get(kind) or {}]
        tables = tables or self._largest()
        name = session_name("upgrade", self.run) if self.named else ""
        names, seen = list(dict.fromkeys(tables)), Seen()
        try:
            with observing(self.copy.login, names, application_name=name, own_server=self.own_server) as seen:
                yield
        finally:  # also of an upgrade that failed: it may show why
            if seen.complete:
                self.facts.update(observation=seen.observation.as_dict(), forecast=forecast(seen.observation))
                self.facts["advice"] = squawk(seen.sql).sentences()
        judged = judge(seen.observation, self.change.budget)
        self._demand(*(_by_default(proof) if self.change.default_wait else proof for proof in judged))

    def _largest(self) -> list[str]:
        """Every table, the largest first, where the release does not say which ones it relies on."""
        with self._reading() as cursor:
            rows = count_tables(cursor)
        return sorted(rows, key=lambda key: (-rows[key], key))

    def _finalize(self, *, again: bool) -> None:
        name = "rehearse.upgrade_again" if again else "rehearse.finalize"
        step = Step()
        try:
            finalize(
                self.login,
                [{**declared, "guarded_by": []} for declared in self.change.finalize],
                self.change.checks,
                self.change.lock,
                NO_SERVICES,
                session_name("upgrade", self.run),  # that of the upgrade, with which it is observed
                step,
                check_mode=False,
                run=self.run,
            )
        except ReleaseError as error:
            self._demand(_failed(name, error.message))
        if not again:
            self.facts["finalize_ms"] = sum(one["duration_ms"] for one in step.facts["steps"])
            count = len(self.change.finalize)
            detail = f"{count} {'step' if count == 1 else 'steps'} ran." if count else "The release has none."
            asked = dict.fromkeys(name for one in self.change.finalize for name in one.get("guarded_by") or ())
            if asked:
                detail += f" Not asked in a rehearsal, because these ask the live application: {', '.join(asked)}."
            self._demand(Proof(name, TITLES[name], "pass", detail=detail))

    def _verify(self) -> None:
        change, login = self.change, self.login
        proofs = read_back(login, change.tables, change.to_revision, login.version_table)
        checked, _ = read_checks(
            login, change.checks, proved={}, drift="fail", statement_timeout_ms=STATEMENT_MS, sample_size=SAMPLE_SIZE
        )
        proofs += checked
        proofs += play_scenarios(login, change.scenarios, Limits(STATEMENT_MS, LOCK_MS))
        proofs += read_plans(login, change.plans, STATEMENT_MS)
        self._demand(_summary("rehearse.verified", proofs))

    def _untouched(self, before: _State, moved: Moved) -> Proof:
        tables = self.change.tables
        upgrade = {key: getattr(moved, key) for key in ("before", "after", "writers")}
        proofs = compare(
            self.login,
            Memory.of({"tables": before.tables, "xid": before.xid, "kept": before.kept}, upgrade),
            except_tables=[*tables["created"], *(tables.get("dropped") or {})],
            altered_tables=[*tables["altered"], *(tables.get("changed") or {})],
            bookkeeping_tables=[self.login.version_table],
            settle_seconds=SETTLE_S,
            audit_tables=tables.get("audit") or (),
            changed_rows=rows_declared(tables),
            alone=True,
        )
        return _summary("rehearse.untouched", proofs)

    def _can_fail(self) -> list[Proof]:
        """Show that each check and guard can fail; one that cannot is no reason to refuse the release."""
        tables = self.change.tables
        names = dict.fromkeys([*tables["existing"], *tables["altered"], *tables["created"]])
        declared = Declared(self.change.checks, self.change.guards, list(names))
        proofs = prove_can_fail(self.copy.login, self.live, declared, BREAKING)
        return [replace(proof, could_not_run=False) for proof in proofs]

    def _guards(self, before: _State) -> dict[str, str]:
        """Count what a rollback would lose, and return the settings by which the downgrade knows of that count."""
        every = [*self.change.guards, *all_guards([], {}, {}, self.change.downgrade, self._added(before))]
        guards = [guard for guard in every if kind_of(guard) in KINDS_OF_DATABASE]
        looked = evaluate(self.login, guards, self.login.version_table, STATEMENT_MS)
        red = [f"“{guard['title']}”: {seen.detail}" for guard, seen in looked.guards if seen.status != "pass"]
        name = "rehearse.guards"
        self._demand(
            Proof(
                name,
                TITLES[name],
                "inconclusive" if red else "pass",
                detail=f"A rollback would be refused: {' '.join(red)}" if red else f"{len(guards)} were checked.",
                remedy=NO_WAY_BACK if red else "",
            )
        )
        return looked.session_settings

    def _added(self, before: _State) -> Added:
        """What the upgrade added beyond what the release declares."""
        tables = self.change.tables
        with self._reading() as cursor:
            return added_since(
                cursor,
                Memory.of({"tables": before.tables, "xid": before.xid}, None),
                [self.login.version_table],
                created=list(tables["created"]),
                altered=columns_declared(tables),
            )

    def _downgrade(self, settings: Mapping[str, str]) -> None:
        moved, proof = self._move("downgrade", settings)
        self.facts["downgrade_ms"] = moved.duration_ms
        self._demand(_named("rehearse.downgrade", proof))

    def _back(self, before: _State, now: _State) -> Proof:
        changed = [*differences(before.catalog.objects, now.catalog.objects)]
        if self.change.lossy:
            # A column that is added again comes last, so that pg_dump's text is another one.
            texts = {f"TABLE {key}" for key in before.kept}
            changed = [line for line in changed if (line["object"] in texts, line["change"]) != (True, "changed")]
            differing = [name for name, parts in before.parts.items() if now.parts.get(name) != parts]
            changed += [{"object": f"parts of the table {name}", "change": "changed"} for name in differing]
        left = self._not_brought_back(before) if self.change.lossy else set()
        kept = (
            {key: row for key, row in state.tables.items() if key not in left and not self._is_audit(key)}
            for state in (before, now)
        )
        others = compare_rows({"tables": next(kept)}, next(kept)).sample
        rows = f"the rows differ in {', '.join(line['table'] for line in others)}" if others else ""
        same = f"{len(now.catalog.objects)} objects and the rows of {len(now.tables) - len(left)} tables are the same."
        if left:
            same += f" Not compared, because the release is lossy: {', '.join(sorted(left))}."
        return _compared("rehearse.back", "the downgrade", changed, rows, same, others)

    def _not_brought_back(self, before: _State) -> set[str]:
        """The tables of which the release declares that the downgrade does not bring everything back."""
        dropped = self.change.tables.get("dropped") or {}
        return {*before.kept, *(key for key in before.tables if not {key, key.partition(".")[2]}.isdisjoint(dropped))}

    def _again(self, first: _Counted, written: Sequence[str]) -> None:
        """Upgrade again; where the application wrote meanwhile, that may be why it fails."""
        claims = len(self.proofs)
        try:
            self._upgrade(again=True)
            self._demand(self._same(first, self._counted()))
        except StopError:
            if not written:
                raise
            note = f"The application wrote to {', '.join(written)} while it ran on the copy."
            for place in range(claims, len(self.proofs)):
                proof = self.proofs[place]
                if proof.status == "fail":
                    detail = f"{proof.detail} {note}"
                    self.proofs[place] = replace(proof, status="inconclusive", detail=detail, remedy="")

    def _written(self, before: _State, observed: Sequence[Proof]) -> list[str]:
        """The tables that the application wrote to while it ran on the downgraded copy."""
        self._demand(*observed)
        now = before if not observed or self._is_as(before) else self._state()
        changed = [*differences(before.catalog.objects, now.catalog.objects)]
        name = "rehearse.upgrade_again"
        if changed:
            detail = f"The application changes the database when it starts: the catalog has {in_words(changed)}."
            self._demand(Proof(name, TITLES[name], "inconclusive", detail=detail, sample=changed[:SAMPLE_SIZE]))
            raise StopError
        return [key for key, row in before.tables.items() if state_of(now.tables[key]) != state_of(row)]

    def _same(self, first: _Counted, second: _Counted) -> Proof:
        """Values like a moment or a random key may differ; the number of rows may not."""
        changed = [*differences(first.catalog.objects, second.catalog.objects)]
        one, other = first.rows, second.rows
        rows = sorted(key for key in {*one, *other} if one.get(key) != other.get(key) and not self._is_audit(key))
        said = f"the number of rows differs in {', '.join(rows)}" if rows else ""
        same = "The catalog and the number of rows of each table are the same."
        return _compared("rehearse.upgrade_again", "the second upgrade", changed, said, same)

    def _is_audit(self, table: str) -> bool:
        return not {table, table.partition(".")[2]}.isdisjoint(self.change.tables.get("audit") or ())


def _compared(
    name: str, act: str, changed: Sequence[Any], rows: str, same: str, more: Sequence[dict[str, Any]] = ()
) -> Proof:
    """Whether two states are the same after an act: `changed` objects of the catalog, and how the `rows` differ."""
    said = [*([f"the catalog has {in_words(changed)}"] if changed else []), *([rows] if rows else [])]
    if not said:
        return Proof(name, TITLES[name], "pass", detail=same)
    detail = f"After {act} {' and '.join(said)}."
    sample = [*changed[:SAMPLE_SIZE], *more]
    return Proof(name, TITLES[name], "fail", detail=detail, remedy=ADVICE, sample=sample)


def _by_default(proof: Proof) -> Proof:
    """Of a budget that the release does not declare: where it comes from, and the line that declares another one."""
    if not proof.name.endswith(WRITE_WAIT) or proof.status not in ("fail", "inconclusive"):
        return proof
    limit, line = DEFAULT["write_wait_ms"], "migration: {budget: {write_wait_ms: MILLISECONDS}}"
    return replace(
        proof,
        detail=f"{proof.detail} This budget is the default of {limit} ms, because the release declares no "
        "migration.budget.write_wait_ms.",
        remedy=f"{proof.remedy} If writers may wait longer, declare for how long in release.yml: {line}.".lstrip(),
    )


def _named(name: str, proof: Proof) -> Proof:
    remedy = ADVICE if proof.status == "fail" else proof.remedy
    return replace(proof, name=name, title=TITLES[name], remedy=remedy)


def _failed(name: str, message: str) -> Proof:
    return Proof(name, TITLES[name], "fail", detail=message, remedy=ADVICE)


def _summary(name: str, proofs: Sequence[Proof]) -> Proof:
    """One claim for many: the report has each of them of the live database."""
    lines = [proof.as_dict() for proof in proofs]
    red, unknown = failures(lines), not_run(lines)
    counts = {status: sum(proof.status == status for proof in proofs) for status in ("pass", "fail", "inconclusive")}
    said = f"{counts['pass']} passed, {counts['fail']} failed, {counts['inconclusive']} inconclusive."
    details = " ".join(f"{failure_of(line)}" for line in [*red, *unknown])
    status: Status = "fail" if red else "inconclusive" if unknown else "pass"
    return Proof(
        name,
        TITLES[name],
        status,
        expected={"claims": len(proofs)},
        observed=counts,
        detail=f"{said} {details}".rstrip(),
        remedy=ADVICE if red else "Rehearse again." if unknown else "",
        could_not_run=bool(unknown) and not red,
        duration_ms=sum(proof.duration_ms for proof in proofs),
    )
