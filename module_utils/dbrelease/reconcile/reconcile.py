"""Repair the objects of a release: leftover tables, foreign keys, rows; diagnose before any change."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..core.journal import Run
from ..core.journal import Step as JournalStep
from ..core.proof import Proof, Status, failures, not_run, sentence
from ..migrate.finalize import Finalizer
from ..migrate.steps import Step
from ..postgres.catalog import read_catalog, read_revisions
from ..postgres.foreign_keys import ForeignKey, demand_rebuildable, plan
from ..postgres.lock_retry import LockLimits, LockWatch, PatientSession, watch_blockers
from ..postgres.orphan_table import Leftover, diagnose, is_unchanged, refusal
from ..postgres.session import Login, Row, as_declared, connect
from ..postgres.taken_names import FREE_THEM, in_words, names_needed, read_taken
from ..postgres.trusted_roles import version_table_of
from ..rollback.lost_rows import all_or_none, save_rows
from .orphan_drop import Dropping, limit_statement
from .plan import Reconciled, Wanted

APPLICATION = "dbrelease reconcile"
BLOCKERS_PROOF = "reconcile.blockers"
FOREIGN_KEY_VIOLATION = "23503"
NOT_OURS = (
    "Reconcile adds and removes only rows that the release itself writes: correct or delete each of these rows, and "
    "rerun the playbook."
)


@dataclass(frozen=True)
class Reconciler:
    """The thin session. `done` is filled step by step, so that a failure reports what was done before it."""

    login: Login
    run: Run
    wanted: Wanted
    accept_loss: str | None
    check_mode: bool
    done: Reconciled
    session: PatientSession

    def reconcile(self) -> None:
        """Diagnose, then repair what the diagnosis confirms."""
        revisions = self.session.read("Reading the revision", _revisions)
        if revisions == [self.wanted.from_revision]:
            self.done.state = "before"
            self._drop_leftovers()
        elif revisions == [self.wanted.to_revision]:
            self.done.state = "deployed"
            self._repair()
        else:
            raise ReleaseError(
                f"The database is at {', '.join(revisions or []) or 'no revision'}, and reconcile supports only "
                f"{self.wanted.from_revision} and {self.wanted.to_revision}: bring it to one of them first.",
                refused=True,
            )

    # A table that exists before the release

    def _drop_leftovers(self) -> None:
        found = self.session.read("Checking for leftover tables", self._leftovers)
        self.done.leftovers = found
        reason = refusal(found, self.accept_loss) if found else ""
        if reason:
            self.done.proofs += [self._leftover_proof(one.table, "fail", reason) for one in found]
            raise ReleaseError(reason, refused=True)
        self._report_absent({one.table for one in found})
        if any(one.losses for one in found) and not self.check_mode:
            self.session.read("Saving the rows that will be lost", self._save)
        if found:
            self._drop(found)

    def _report_absent(self, there: Collection[str]) -> None:
        needed = names_needed(self.wanted.created)
        taken = self.session.read("Reading the names of indexes", lambda cursor: read_taken(cursor, needed))
        for table in (table for table in self.wanted.created if table not in there):
            others = in_words([row for row in taken if row["needs"] == table])
            said = f"No table has this name. {f'{others} {FREE_THEM}' if others else ''}".strip()
            self.done.proofs.append(self._leftover_proof(table, "pass", said))

    def _leftovers(self, cursor: Cursor) -> list[Leftover]:
        declared = self.wanted.leftover
        tables = self.wanted.created
        found = (
            diagnose(cursor, table, created["columns"], declared.get(table) or {}, [*tables])
            for table, created in tables.items()
        )
        return [one for one in found if one]

    def _judged_again(self, cursor: Cursor, found: Sequence[Leftover]) -> list[Leftover]:
        """The leftover tables now; raises ReleaseError where other rows would be lost than were found before."""
        latest = self._leftovers(cursor)
        if _lost(latest) != _lost(found):
            raise _changed()
        return latest

    def _save(self, cursor: Cursor) -> None:
        self._judged_again(cursor, self.done.leftovers)
        run = self.run
        with all_or_none() as saved:
            for one in self.done.leftovers:
                if one.losses:
                    name = f"lost_rows_{self.wanted.label}_{one.table}"
                    saved.append(save_rows(cursor, one.lost_rows_sql, one.table, run.state_dir, run.run_id, name))
        self.done.saved = saved

    def _drop(self, found: Sequence[Leftover]) -> None:
        latest = [*found]

        def look(cursor: Cursor) -> None:
            # The release's query also reads other tables, and these are not locked against writes.
            latest[:] = self._judged_again(cursor, found)

        def demand(cursor: Cursor) -> None:
            same = all(is_unchanged(cursor, one) for one in latest) or self._as_lossy(cursor, found)
            if not same or _revisions(cursor) != [self.wanted.from_revision]:
                raise _changed()

        dropping = Dropping(self.session, found, look, demand)
        self.done.statements.append(self._text(dropping.statement))
        if not self.check_mode:
            dropping.drop()
        status: Status = "skipped" if self.check_mode else "pass"
        kept = "".join(f" {saved['rows']} rows were saved: {saved['replay']}." for saved in self.done.saved)
        for one in found:
            said = f"{'Would drop it' if self.check_mode else 'Dropped'}. It was a {one.description}.{kept}"
            self.done.proofs.append(self._leftover_proof(one.table, status, said))
        self.done.repaired += [] if self.check_mode else [f"dropped {one.table}" for one in found]

    def _as_lossy(self, cursor: Cursor, found: Sequence[Leftover]) -> bool:
        """Whether the same rows would be lost as were counted; limited in time, as other sessions wait."""
        limit_statement(cursor, self.session.limits.timeout_ms)
        try:
            return _lost(self._leftovers(cursor)) == _lost(found)
        except psycopg2.errors.QueryCanceled:
            return False

    def _leftover_proof(self, table: str, status: Status, detail: str) -> Proof:
        title = f"No table {table} is left over"
        observed = [one.facts() for one in self.done.leftovers if one.table == table]
        return Proof(f"reconcile.{table}.leftover", title, status, expected="absent", observed=observed, detail=detail)

    # Foreign keys and rows of a release that is deployed

    def _repair(self) -> None:
        self.done.foreign_keys = self.session.read("Reading the foreign keys", self._foreign_keys)
        for key in self.done.foreign_keys:
            self._rebuild(key)
        finalizer = Finalizer(
            self.login, APPLICATION, self.session.limits, self.wanted.guards, self.wanted.checks, keep_unproven=True
        )
        steps = [Step.of(step) for step in self.wanted.steps]
        if self.check_mode:
            self.done.rows = finalizer.plan(steps)
        elif steps:
            try:
                finalizer.run(steps, self.done.rows)
            finally:  # each step commits alone: the steps before one that failed stay
                ran = sorted(step.name for step in self.done.rows.steps if step.changed)
                self.done.repaired += [f"ran {name}" for name in ran]
        changed = {step.name for step in self.done.rows.steps if step.changed}
        self.done.statements += [step.sql.strip() for step in steps if step.name in changed]
        # Last: a step may have removed rows that violate a key.
        for key in self.done.foreign_keys:
            self._validate(key)
        proofs = [proof.as_dict() for proof in self.done.all_proofs]
        left = [*failures(proofs), *not_run(proofs)]
        if left:
            sample: list[Row] = next((proof["sample"] for proof in left if proof["sample"]), [])
            example = f" For example {sample[0]}." if sample else ""
            raise ReleaseError(f"Not everything could be repaired. {sentence(left)}{example} {NOT_OURS}")

    def _foreign_keys(self, cursor: Cursor) -> list[ForeignKey]:
        found: list[ForeignKey] = []
        for table, declared in self.wanted.created.items():
            catalog = read_catalog(cursor, table)
            if not catalog.present:
                raise ReleaseError(
                    f"The database is at {self.wanted.to_revision}, but there is no table {table}: there is nothing "
                    "to repair; restore the backup of the deployment; or, if no row that existed only in it is needed, "
                    f"set the revision back (`alembic stamp {self.wanted.from_revision}`) and deploy again.",
                    refused=True,
                )
            keys = plan(table, declared.get("constraints") or {}, catalog)
            demand_rebuildable(cursor, table, keys)
            found += keys
        return found

    def _rebuild(self, key: ForeignKey) -> None:
        if not key.rebuild:
            return
        statements = key.rebuilding(self.run.run_id)
        self.done.statements += [self._text(statement) for statement in statements]
        if self.check_mode:
            return

        def attempt(cursor: Cursor) -> None:
            with as_declared(cursor):
                for statement in statements:
                    cursor.execute(statement)

        locks = len({key.table, key.referenced})
        self.session.write(f"Rebuilding the foreign key {key.name}", attempt, locks=locks)
        self.done.repaired.append(f"rebuilt {key.name}")

    def _validate(self, key: ForeignKey) -> None:
        if not key.wrong:
            self.done.proofs.append(Proof(key.proof_name, key.title, "pass", detail="It is as declared."))
            return
        self.done.statements.append(self._text(key.validating()))
        count, sample = self.session.read(f"Checking for rows that violate {key.name}", key.orphans)
        if self.check_mode:
            said = f"Would {'rebuild and ' if key.rebuild else ''}validate it ({key.wrong}); {count} rows violate it."
            self.done.proofs.append(Proof(key.proof_name, key.title, "skipped", 0, count, said, sample=sample))
            return
        if count:
            self.done.proofs.append(self._orphaned(key, count, sample))
            return
        try:
            self.session.write(f"Validating {key.name}", lambda cursor: _execute(cursor, key.validating()))
        except ReleaseError as error:
            if error.facts.get("sqlstate") != FOREIGN_KEY_VIOLATION:
                raise
            self.done.proofs.append(self._orphaned(key, *self.session.read("Reading these rows", key.orphans)))
            return
        self.done.repaired.append(f"validated {key.name}")
        verb = "Rebuilt and validated" if key.rebuild else "Validated"
        self.done.proofs.append(Proof(key.proof_name, key.title, "pass", detail=f"{verb}; before: {key.wrong}."))

    def _orphaned(self, key: ForeignKey, count: int, sample: list[Row]) -> Proof:
        rows = "1 row refers" if count == 1 else f"{count} rows refer"
        return Proof(
            key.proof_name,
            key.title,
            "fail",
            expected=0,
            observed=count,
            detail=f"{rows} to a missing row of {key.referenced}, so it stays not validated (new rows are checked).",
            remedy=f"Delete each from {key.table}, or restore the row of {key.referenced} that it refers to.",
            sample=sample,
        )

    def _text(self, statement: sql.Composable) -> str:
        return statement.as_string(self.session.connection)


def _lost(leftovers: Sequence[Leftover]) -> list[tuple[str, int, str]]:
    return [(one.table, one.losses, one.fingerprint) for one in leftovers]


def _execute(cursor: Cursor, statement: sql.Composable) -> None:
    """Execute it with the search path of the release."""
    with as_declared(cursor):
        cursor.execute(statement)


def _revisions(cursor: Cursor) -> list[str] | None:
    return read_revisions(cursor, version_table_of(cursor))


def _changed() -> ReleaseError:
    return ReleaseError("The leftover tables changed while they were checked; nothing was dropped: rerun the playbook.")


def reconcile(
    login: Login,
    run: Run,
    wanted: Wanted,
    limits: LockLimits,
    accept_loss: str | None,
    journal_step: JournalStep,
    *,
    check_mode: bool,
) -> dict[str, Any]:
    """The module's full result; a failure has the same facts."""
    done, watch = Reconciled(), LockWatch()
    connection = connect(login, APPLICATION)
    try:
        with watch_blockers(login, APPLICATION, limits=limits.only_reading if check_mode else limits) as watch:
            done.lock_waits, done.ended_sessions = watch.seen, watch.acts.rows
            session = PatientSession(connection, limits, watch)
            Reconciler(login, run, wanted, accept_loss, check_mode, done, session).reconcile()
    except ReleaseError as error:
        error.facts.update(done.facts(), proofs=[proof.as_dict() for proof in done.all_proofs])
        raise
    finally:
        connection.close()
        done.proofs += watch.acts.proofs(BLOCKERS_PROOF)
        journal_step.prove(*done.all_proofs)
        journal_step.facts.update(done.facts())
    proofs = [proof.as_dict() for proof in done.all_proofs]
    return {
        "changed": bool(done.statements),
        **done.facts(),
        "proofs": proofs,
        "message": sentence(proofs),
        "diff": {"before": "", "after": "".join(f"{statement};\n" for statement in done.statements)},
    }
