"""The rules on the database: pure functions from observed facts to a proof."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ..core.proof import Proof
from ..postgres.commit_wait import REMEDY
from ..postgres.taken_names import FREE_THEM, in_words
from ..release.requirements import Demands
from .facts import Database, Facts, Unseen, Writes
from .lineage import standing_of
from .rules_target import BECAUSE_OF_DATABASE
from .verdicts import broken, holds, skipped, undecided, unseen

ANOTHER_VERSION = "Compare the database with the version that the release was made for."
KINDS = {
    "r": "a table",
    "p": "a partitioned table",
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "i": "an index",
    "c": "a type",
}
LOCK_NOT_AVAILABLE = "(55P03)"
UNLOCK = "Another session has locked a table: rerun the playbook when that session has ended."
RECONCILE = "An interrupted run or another program left it: {} shows what it is, and drops it if no data would be lost."

Rule = Callable[[Demands, Facts], Proof]


def on_database(name: str) -> Callable[[Callable[[Demands, Facts, Database], Proof]], Rule]:
    """Wrap a rule so that it is skipped where the database was not read."""

    def wrap(judge: Callable[[Demands, Facts, Database], Proof]) -> Rule:
        def rule(demands: Demands, facts: Facts) -> Proof:
            if isinstance(facts.database, Unseen):
                return skipped(name, BECAUSE_OF_DATABASE)
            return judge(demands, facts, facts.database)

        return rule

    return wrap


def database(demands: Demands, facts: Facts) -> Proof:
    """It answers and can be read; the detail says where the server's identity is not verified."""
    if isinstance(facts.database, Unseen):
        return unseen("database", facts.database)
    return holds("database", facts.unverified, observed=f"PostgreSQL {facts.database.version}")


@on_database("server")
def server(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """Recent enough, no standby, not set to read only, and its commits return."""
    wrong = []
    if seen.major < demands.minimum_major:
        wrong.append(f"It is PostgreSQL {seen.version}: upgrade it to {demands.minimum_major} or later.")
    if seen.standby:
        wrong.append("It is a standby, which accepts no writes: set db_host to the primary.")
    if seen.read_only:
        wrong.append("default_transaction_read_only is on for this database and user: turn it off.")
    if seen.endless_commit:
        wrong.append(f"{seen.endless_commit} {REMEDY}")
    expected = {"major_at_least": demands.minimum_major, "standby": False, "read_only": False}
    observed = {"major": seen.major, "standby": seen.standby, "read_only": seen.read_only}
    if wrong:
        return broken("server", " ".join(wrong), expected=expected, observed=observed)
    return holds("server", expected=expected, observed=observed)


@on_database("revision")
def revision(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """Alembic's table has one row, which the release knows; and the backend uses the same database."""
    if isinstance(seen.revisions, Unseen):
        return unseen("revision", seen.revisions)
    known = [demands.from_revision, demands.to_revision]
    wrong = _wrong_revision(demands, facts, seen, seen.revisions) or _wrong_backend(demands, facts, seen.revisions)
    if wrong:
        detail, remedy = wrong
        return broken("revision", detail, remedy, expected=known, observed=seen.revisions)
    if isinstance(facts.current, Writes):
        remedy = "Change env.py to write only when it migrates, or make sure that the backend uses this database."
        detail = f"It is unknown whether the backend uses the same database. {facts.current.reason}"
        return undecided("revision", detail, remedy, expected=known)
    if isinstance(facts.current, Unseen):
        detail = "The backend could not be asked for its revision."
        return holds("revision", detail, expected=known, observed=seen.revisions)
    return holds("revision", expected=known, observed=seen.revisions)


def _no_revision(demands: Demands, facts: Facts, seen: Database) -> tuple[str, str]:
    detail = f"The database has no revision: its table {demands.version_table} is missing or empty."
    others = [name for name in seen.version_tables if name != demands.version_table]
    like_it = f" (possibly {' or '.join(others)})" if others else ""
    if not isinstance(facts.current, Unseen) and facts.current:
        return (
            f"{detail} The backend's Alembic reports {', '.join(facts.current)}, so it keeps its revision in another "
            "table, or in another database.",
            f"Set migration.version_table of the release to Alembic's table{like_it}, with its schema; or correct "
            "db_host and db_name.",
        )
    return (
        detail,
        f"Check that db_name is the application's database; if so, set migration.version_table of the release to "
        f"Alembic's table{like_it}, or upgrade the database to {demands.from_revision} first.",
    )


def _wrong_revision(demands: Demands, facts: Facts, seen: Database, revisions: list[str]) -> tuple[str, str] | None:
    start = demands.from_revision
    if not revisions:
        return _no_revision(demands, facts, seen)
    if len(revisions) > 1:
        return (
            f"The database is at {len(revisions)} heads at once ({', '.join(revisions)}).",
            f"Merge or undo the branches until {start} is the only head.",
        )
    (found,) = revisions
    if found in (start, demands.to_revision):
        return None
    standing, remedy = {
        "older": (f"which is older than {start}", f"Upgrade it to {start} first."),
        "newer": (f"which is newer than {start}", "A later version is already deployed: do not apply this release."),
        "beside": (f"which is on another branch than {start}", f"Bring it to {start} first."),
        "unknown": (
            "which is not in the backend's history",
            "Find out which version of the application migrated it, and deploy that version.",
        ),
    }[standing_of(found, start, facts.history)]
    return f"The database is at {found}, {standing}.", remedy


def _wrong_backend(demands: Demands, facts: Facts, revisions: list[str]) -> tuple[str, str] | None:
    if isinstance(facts.current, Writes):
        return None
    if isinstance(facts.current, Unseen):
        # Where preflight.history failed, the same commands failed for the same reason.
        lost = not isinstance(facts.heads, Unseen) and revisions[0] not in facts.heads != [demands.to_revision]
        if facts.current.because or isinstance(facts.heads, Unseen) or lost:
            return None
        return facts.current.reason, ""
    if facts.current != revisions:
        return (
            f"The backend reports {', '.join(facts.current) or 'no revision'}, but this database is at {revisions[0]}.",
            "The backend uses another database: correct db_host and db_name, or the settings of the backend.",
        )
    return None


@on_database("tables")
def tables(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """Every table that the release builds on, with every column that it names."""
    wrong = list(_wrong_tables(demands.existing, seen))
    if wrong:
        return broken("tables", " ".join(wrong), ANOTHER_VERSION, expected=_lists(demands))
    return holds("tables", expected=_lists(demands))


def _lists(demands: Demands) -> dict[str, list[str]]:
    return {name: list(columns) for name, columns in demands.existing.items()}


def _wrong_tables(wanted: Mapping[str, Sequence[str]], seen: Database) -> Iterator[str]:
    for name, columns in wanted.items():
        table = seen.tables[name]
        if table is None:
            yield f"Table {name} is missing."
        elif not table.is_table:
            yield f"{name} is {KINDS.get(table.kind, 'something else')}, not a table."
        elif missing := [column for column in columns if column not in table.columns]:
            yield f"Table {name} has no column {', '.join(missing)}."


@on_database("rights")
def rights(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """It may read the tables, and finish what the migration creates; a superuser may. No password expires meanwhile."""
    mine = seen.rights
    if mine.unreadable:
        return broken(
            "rights",
            f"The role {mine.user} may not read {', '.join(mine.unreadable)}.",
            f"Grant {mine.user} SELECT on them, or set db_user to the role that owns them.",
            observed=list(mine.unreadable),
        )
    if seen.expiring:
        passwords = " and ".join(f"that of {row['role']} at {row['until']}" for row in seen.expiring)
        return broken(
            "rights",
            f"A password expires within a day: {passwords}. From then on the server refuses its sessions, and those "
            "of a way back, too.",
            "Extend it by ALTER ROLE ... VALID UNTIL, and rerun the playbook.",
            observed=[row["role"] for row in seen.expiring],
        )
    doubts = list(_doubts_of_finalizing(demands, facts, seen))
    if doubts:
        details, remedies = zip(*doubts, strict=True)
        return undecided("rights", " ".join(details), " ".join(remedies))
    return holds("rights", observed="superuser" if mine.superuser else f"owner ({mine.owner or mine.user})")


def _doubts_of_finalizing(demands: Demands, facts: Facts, seen: Database) -> Iterator[tuple[str, str]]:
    mine = seen.rights
    if not demands.finalizes:
        return
    for owner, owned in mine.strangers.items():
        yield (
            f"The role {mine.user} may not act as {owner}, which owns {', '.join(owned)}: the server may refuse to let "
            "it finish what the migration creates.",
            f"Grant {owner} to {mine.user}, or set db_user to {owner}.",
        )
    if facts.backend_takes_owner is False:
        yield (
            f"The backend's role may not act as {mine.owner}: another role may own what the migration creates, and "
            f"then {mine.user} cannot finish it.",
            f"Grant {mine.owner} to the role of the backend.",
        )


def _doubts_of_restoring(seen: Database) -> Iterator[tuple[str, str]]:
    mine = seen.rights
    if not (mine.superuser or (mine.creates_databases and mine.owns_database)):
        lacks = " and ".join(
            word
            for word, there in (
                ("may not create databases", mine.creates_databases),
                ("does not own this one", mine.owns_database),
            )
            if not there
        )
        yield (
            f"The role {mine.user} {lacks}: the server would refuse to restore the backup.",
            f"Give {mine.user} CREATEDB and make it the owner of the database, or restore as a role that may.",
        )


@on_database("restorable")
def restorable(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """The role that restores may create a copy with all its objects, and a restore can compute what it must."""
    doubts = list(_doubts_of_restoring(seen))
    details = [detail for detail, _ in doubts]
    if words := seen.obstacles.words():
        details.append(words)
    if details:
        return undecided("restorable", " ".join(details), " ".join(remedy for _, remedy in doubts))
    return holds("restorable", "Only a restore proves that the backup can be restored.")


@on_database("dump_locks")
def dump_locks(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """A dump locks each table and sequence; while the lock table is full, no other session gets a lock either."""
    locks = seen.locks
    expected, observed = {"locks": locks.needed}, {"places": locks.places}
    if locks.needed > locks.places:
        least = -(-locks.per_transaction * locks.needed * 5 // (locks.places * 4))
        return broken(
            "dump_locks",
            f"A dump takes {locks.needed} locks at once, one for each table and sequence, but the server has room for "
            f"{locks.places} locks (max_locks_per_transaction is {locks.per_transaction}).",
            f"Set max_locks_per_transaction to {least} or more, and restart the server.",
            expected=expected,
            observed=observed,
        )
    return holds("dump_locks", expected=expected, observed=observed)


@on_database("created_absent")
def created_absent(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """The new tables and the names of their indexes do not exist before the release; the tables exist after it."""
    if not demands.created:
        return skipped("created_absent", "The release creates no tables.")
    missing = [name for name in demands.created if not (seen.tables[name] and seen.tables[name].is_table)]  # type: ignore[union-attr]
    wrong = [
        f"{name} already exists ({KINDS.get(table.kind, 'something else')}{_rows(seen.created_rows.get(name))})."
        for name in demands.created
        if (table := seen.tables[name])
    ]
    command = f"`{demands.reconcile_command}`" if demands.reconcile_command else "the playbook reconcile"
    return _only_after(
        "created_absent",
        demands,
        facts,
        names=demands.created,
        missing=f"the table {', '.join(missing)}" if missing else "",
        early=" ".join(filter(None, [*wrong, in_words(seen.taken)])),
        remedy=" ".join([*([RECONCILE.format(command)] if wrong else []), *([FREE_THEM] if seen.taken else [])]),
    )


def _rows(count: int | None) -> str:
    return "" if count is None else f" with {count} row{'' if count == 1 else 's'}"


@on_database("added_absent")
def added_absent(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """The new columns of existing tables do not exist before the release, and exist after it."""
    if not any(demands.altered.values()):
        return skipped("added_absent", "The release adds no columns.")
    tables_there = {name: table for name in demands.altered if (table := seen.tables[name]) and table.is_table}
    there = {
        f"{name}.{column}": column in table.columns
        for name, table in tables_there.items()
        for column in demands.altered[name]
    }
    missing = [name for name, present in there.items() if not present]
    early = [name for name, present in there.items() if present]
    return _only_after(
        "added_absent",
        demands,
        facts,
        names=[f"{name}.{column}" for name, columns in demands.altered.items() for column in columns],
        missing=f"the column {', '.join(missing)}" if missing else "",
        early=f"The column {', '.join(early)} already exists." if early else "",
        remedy="Find out who added it and what it contains, and drop it: the migration would fail on it, "
        "or mistake it for its own.",
    )


@on_database("removed_present")
def removed_present(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """What the release drops or renames exists before it, and not after it."""
    if not demands.removed:
        return skipped("removed_present", "The release drops and renames nothing.")
    if facts.revisions == [demands.to_revision]:
        left = list(_left(demands, seen))
        if left:
            remedy = "Find out who created it again; the verification judges the structure."
            return broken("removed_present", f"The database is at {demands.to_revision}. {' '.join(left)}", remedy)
        return holds("removed_present")
    if facts.revisions != [demands.from_revision]:
        return skipped("removed_present", "Not checked because of preflight.revision.")
    if tables(demands, facts).status == "fail":
        return skipped("removed_present", "Not checked because of preflight.tables.")
    expected = {name: list(columns) for name, columns in demands.removed.items()}
    missing = list(_wrong_tables(demands.removed, seen))
    if missing:
        return broken("removed_present", " ".join(missing), ANOTHER_VERSION, expected=expected)
    return holds("removed_present", expected=expected)


def _left(demands: Demands, seen: Database) -> Iterator[str]:
    for name, columns in demands.removed.items():
        table = seen.tables[name]
        if table is not None and (there := [column for column in columns if column in table.columns]):
            yield f"Table {name} still has the column {', '.join(there)}."


def _only_after(
    rule: str, demands: Demands, facts: Facts, *, names: Iterable[str], missing: str, early: str, remedy: str
) -> Proof:
    """What the release creates exists after it (`missing`: what does not), and not before it (`early`: what does)."""
    listed = ", ".join(names)
    if facts.revisions == [demands.to_revision]:
        if missing:
            return broken(
                rule,
                f"The database is at {demands.to_revision}, but {missing} is missing.",
                "It has been dropped: restore the backup of the deployment; or, if its data are not needed, set the "
                f"revision back (`alembic stamp {demands.from_revision}`) and deploy again.",
                expected=f"{listed} present",
            )
        return holds(rule, expected=f"{listed} present")
    if facts.revisions != [demands.from_revision]:
        return skipped(rule, "Not checked because of preflight.revision.")
    if early:
        return broken(rule, early, remedy, expected=f"{listed} absent")
    return holds(rule, expected=f"{listed} absent")


@on_database("checks_plan")
def checks_plan(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """The server can plan each declared query, and finds nothing in it but reading."""
    for rule in (server, tables, created_absent, added_absent, removed_present):
        if (proof := rule(demands, facts)).status == "fail":
            return skipped("checks_plan", f"Not checked because of {proof.name}.")
    if isinstance(facts.planned, Unseen):
        if LOCK_NOT_AVAILABLE in facts.planned.reason:
            return undecided("checks_plan", facts.planned.reason, UNLOCK)
        return unseen("checks_plan", facts.planned)
    pairs = zip(demands.statements, facts.planned, strict=True)
    wrong = [(statement, proof) for statement, proof in pairs if proof.status != "pass"]
    if not wrong:
        return holds("checks_plan", observed=f"{len(facts.planned)} queries planned")
    detail = " ".join(proof.detail for _, proof in wrong)
    if all(LOCK_NOT_AVAILABLE in proof.detail for _, proof in wrong):
        return undecided("checks_plan", detail, UNLOCK)
    if all(proof.status == "inconclusive" for _, proof in wrong):
        return undecided("checks_plan", detail, " ".join(dict.fromkeys(proof.remedy for _, proof in wrong)))
    sample = [{"place": statement.place, "sql": statement.sql, "reason": proof.detail} for statement, proof in wrong]
    return broken("checks_plan", detail, "Correct the release, not the database.", sample=sample)
