"""Finalize a migration: run its declared steps that have rows pending, and run the checks that they prove."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..core.journal import Run
from ..core.journal import Step as JournalStep
from ..core.progress import Counter, progress_of
from ..core.proof import Proof, failures, not_run, sentence
from ..observe.live import LiveObserver
from ..postgres.could_not_run import could_not_run
from ..postgres.invalid_indexes import invalid_words, left_invalid, removal
from ..postgres.lock_retry import LockLimits, LockWatch, retrying, watch_blockers
from ..postgres.progress_meters import ChangeMeter
from ..postgres.proof_instant import Instant
from ..postgres.session import Connection, Login, Row, connect
from .step_guards import StepGuards
from .steps import Attempt, Step, attempt_step, check_alone, count_pending
from .throttle import Throttle

BLOCKERS_PROOF = "migrate.finalize_blockers"


@dataclass(frozen=True)
class Outcome:
    """What one step did."""

    name: str
    changed: bool
    pending: int | None
    rows: int
    attempts: int
    duration_ms: int


@dataclass
class Finalized:
    """What all steps did. `would_run`: what check mode found pending. `proven`: which checks passed, and when.

    unproven: the checks that a step must prove and that failed. transactions: those of the steps, by which a later
    module determines what the release wrote.
    """

    steps: list[Outcome] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    proven: dict[str, Instant] = field(default_factory=dict)
    unproven: list[str] = field(default_factory=list)
    would_run: list[str] = field(default_factory=list)
    lock_waits: list[Row] = field(default_factory=list)
    ended_sessions: list[Row] = field(default_factory=list)
    pauses: list[Row] = field(default_factory=list)
    transactions: list[int] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """For the journal and the module's result."""
        return {
            "steps": [asdict(step) for step in self.steps],
            "proven": {name: instant.facts() for name, instant in self.proven.items()},
            "unproven": self.unproven,
            "would_run": self.would_run,
            "lock_waits": self.lock_waits,
            "ended_sessions": self.ended_sessions,
            "pauses": self.pauses,
        }


@dataclass(frozen=True)
class Finalizer:
    """Runs the steps in their order and stops at the first that fails."""

    login: Login
    application_name: str
    limits: LockLimits
    guards: StepGuards
    checks: Sequence[Mapping[str, Any]] = ()
    throttle: Throttle = field(default_factory=Throttle)
    keep_unproven: bool = False  # a step whose checks fail is committed, and the proofs report them
    run_shown: Run | None = None  # whose progress is shown, and written to the step of the journal
    journal_step: JournalStep | None = None
    observer: LiveObserver | None = None

    def plan(self, steps: Sequence[Step]) -> Finalized:
        """Determine which steps would run; reads only."""
        done = Finalized()
        connection = connect(self.login, self.application_name)
        try:
            with watch_blockers(self.login, self.application_name, limits=self.limits.only_reading) as watch:
                done.lock_waits = watch.seen
                for step in steps:
                    self._chosen(step)
                    pending = self._pending(connection, step, watch, absent_is_pending=True)
                    done.steps.append(Outcome(step.name, pending != 0, pending, 0, 0, 0))
                    if pending == 0:
                        done.proofs.append(step.proof("pass", 0, "Nothing was pending."))
                        continue
                    if pending:
                        self.guards.demand(step)
                    said = "it follows the migration" if pending is None else f"{pending} pending"
                    done.would_run.append(step.name)
                    done.proofs.append(step.proof("skipped", pending, f"Would run: {said}."))
        finally:
            connection.close()
        return done

    def run(self, steps: Sequence[Step], done: Finalized) -> None:
        """Run what is pending, filling `done`; raises ReleaseError at the first step that fails."""
        for step in steps:
            self._chosen(step)
        connection = connect(self.login, self.application_name)
        try:
            with self._watched(done) as watch:
                for number, step in enumerate(steps):
                    try:
                        self._run_step(connection, step, watch, done)
                    except ReleaseError as error:
                        if left := left_invalid(self.login):
                            error.message = f"{error.message} {invalid_words(left)} {removal(left)}"
                        failed = failures(proof.as_dict() for proof in done.proofs)
                        if could_not_run(error):
                            done.proofs.append(step.not_run(error.message))
                        elif step.proof_name not in {proof["name"] for proof in failed}:
                            done.proofs.append(step.proof("fail", None, error.message))
                        done.proofs.extend(
                            later.proof("skipped", None, f"Not reached, because {step.name} failed.")
                            for later in steps[number + 1 :]
                        )
                        raise
        finally:
            connection.close()

    @contextmanager
    def _watched(self, done: Finalized) -> Iterator[LockWatch]:
        """What the watch did to sessions that blocked is known, and proved, once it has ended."""
        watch = LockWatch()

        def look(cursor: Cursor, _: list[Row]) -> None:
            if self.observer:
                self.observer.look(cursor)

        try:
            with watch_blockers(self.login, self.application_name, look, self.limits) as watch:
                done.lock_waits, done.ended_sessions = watch.seen, watch.acts.rows
                yield watch
        finally:
            done.proofs.extend([*watch.acts.proofs(BLOCKERS_PROOF), *self.throttle.proofs()])
            done.pauses = list(self.throttle.pauses)

    def _chosen(self, step: Step) -> list[Mapping[str, Any]]:
        declared = {check["name"]: check for check in self.checks}
        unknown = [name for name in step.proves if name not in declared]
        if unknown:
            raise ReleaseError(
                f"Step {step.name} was refused: the release has no check {', '.join(unknown)}, which the step must "
                "prove; correct `proves` in the release file.",
                refused=True,
            )
        return [declared[name] for name in step.proves]

    def _waits(self, watch: LockWatch) -> LockLimits:
        return replace(self.limits, timeout_ms=watch.timeout_ms(self.limits))

    def _pending(
        self, connection: Connection, step: Step, watch: LockWatch, *, absent_is_pending: bool = False
    ) -> int | None:
        return retrying(
            lambda: count_pending(connection, step, self._waits(watch), absent_is_pending=absent_is_pending),
            self.limits,
            what=f"Counting what step {step.name} ({step.title}) has left to do",
            watch=watch,
        ).value

    def _run_step(self, connection: Connection, step: Step, watch: LockWatch, done: Finalized) -> None:
        begun = time.monotonic()
        checks = self._chosen(step)
        pending = self._pending(connection, step, watch)
        if pending == 0 and not checks:
            done.steps.append(Outcome(step.name, False, 0, 0, 0, _ms(begun)))
            done.proofs.append(step.proof("pass", 0, "Nothing was pending.", duration_ms=_ms(begun)))
            return
        if pending:
            self.guards.demand(step)
        if pending == 0:
            attempt, attempts = check_alone(connection, step, checks, self.limits), 0
            self._demand(step, attempt.proofs, done, "nothing was pending")
        else:
            attempt, attempts = self._attempt(connection, step, checks, pending or 0, watch, done)
            self._demand(step, attempt.proofs, done, "its last transaction was rolled back")
        spent = _ms(begun)
        said = (
            "Nothing was pending" if pending == 0 else f"{pending} pending before, the step changed {attempt.rows} rows"
        )
        done.steps.append(Outcome(step.name, pending != 0, pending, attempt.rows, attempts, spent))
        done.proofs.append(step.proof("pass", 0 if not checks else None, f"{said}.", duration_ms=spent))
        done.proofs.extend(attempt.proofs)
        names = (proof.name.removeprefix("checks.") for proof in attempt.proofs if proof.status == "pass")
        done.proven.update(dict.fromkeys(names, attempt.instant))

    def _attempt(
        self,
        connection: Connection,
        step: Step,
        checks: Sequence[Mapping[str, Any]],
        pending: int,
        watch: LockWatch,
        done: Finalized,
    ) -> tuple[Attempt, int]:
        """Return the step's last batch with the number of all changed rows, and the number of attempts."""
        rows = attempts = 0
        batched = Counter(pending, "rows")
        meter = batched if step.batch_rows else ChangeMeter(self.login, self.application_name)
        with progress_of(self.run_shown, "finalize", meter, self.journal_step):
            # Rows that others write meanwhile need further batches; more than twice as many would never end.
            for _ in range(2 * pending // max(step.batch_rows, 1) + 2):
                if step.batch_rows:
                    self.throttle.before_batch(connection, step.name)
                retried = retrying(
                    lambda: attempt_step(
                        connection, step, checks, self._waits(watch), keep_unproven=self.keep_unproven
                    ),
                    self.limits,
                    what=f"Step {step.name} ({step.title})",
                    watch=watch,
                )
                rows, attempts = rows + retried.value.rows, attempts + retried.attempts
                batched.advance_to(rows)
                if transaction := retried.value.instant.transaction:
                    done.transactions.append(transaction)
                if not retried.value.more:
                    return replace(retried.value, rows=rows), attempts
        raise ReleaseError(
            f"Step {step.name} ({step.title}) changed {rows} rows in batches of {step.batch_rows}, but only {pending} "
            "were pending: its `sql` never finishes; correct it in the release file."
        )

    def _demand(self, step: Step, proofs: Sequence[Proof], done: Finalized, what: str) -> None:
        if self.keep_unproven:
            return
        red = failures(proof.as_dict() for proof in proofs)
        if not red:
            self._demand_all_ran(step, proofs, done, what)
            return
        done.unproven = [proof["name"].removeprefix("checks.") for proof in red]
        names = ", ".join(proof["name"] for proof in red)
        done.proofs.append(step.proof("fail", names, f"Checks that it must prove failed ({names}); {what}."))
        done.proofs.extend(proofs)
        raise ReleaseError(f"Step {step.name} ({step.title}) failed its checks, and {what}: {sentence(red)}")

    def _demand_all_ran(self, step: Step, proofs: Sequence[Proof], done: Finalized, what: str) -> None:
        """Raise where a check could not run: nothing is proved, but that is no reason to roll the release back."""
        unknown = not_run(proof.as_dict() for proof in proofs)
        if unknown:
            done.proofs.extend(proofs)
            raise ReleaseError(
                f"The checks of step {step.name} ({step.title}) could not all run, and {what}: {sentence(unknown)}",
                could_not_run=True,
            )


def finalize(
    login: Login,
    steps: Sequence[Mapping[str, Any]],
    checks: Sequence[Mapping[str, Any]],
    lock: Mapping[str, Any],
    services: Mapping[str, Any],
    application_name: str,
    journal_step: JournalStep,
    *,
    check_mode: bool,
    throttle: Throttle | None = None,
    run: Run | None = None,
    observer: LiveObserver | None = None,
) -> dict[str, Any]:
    """Return the module's result; a failure has the same facts. throttle: by default no step pauses.

    run: the run whose progress is shown. observer: samples the session of the steps.
    """
    declared = [Step.of(step) for step in steps]
    limits, guards = LockLimits.of(lock), StepGuards.of(services)
    finalizer = Finalizer(
        login,
        application_name,
        limits,
        guards,
        checks,
        throttle or Throttle(),
        run_shown=run,
        journal_step=journal_step,
        observer=observer,
    )
    done = Finalized()
    try:
        if check_mode:
            done = finalizer.plan(declared)
        else:
            finalizer.run(declared, done)
    except ReleaseError as error:
        error.facts.update(done.facts(), proofs=[proof.as_dict() for proof in done.proofs])
        raise
    finally:
        journal_step.prove(*done.proofs)
        journal_step.facts.update(done.facts(), transactions=done.transactions)
        if observed := observer.observation() if observer else None:
            journal_step.facts["observation"] = observed.as_dict()
    proofs = [proof.as_dict() for proof in done.proofs]
    ran = {step.name for step in done.steps if step.changed}
    shown = "".join(f"-- {step.title}\n{step.sql.strip()}\n" for step in declared if step.name in ran)
    return {
        "changed": bool(ran),
        **done.facts(),
        "proofs": proofs,
        "message": sentence(proofs),
        "diff": {"before": "", "after": shown},
    }


def _ms(begun: float) -> int:
    return round((time.monotonic() - begun) * 1000)
