"""The rules on the server's own work, its settings and its resources: pure functions from observed facts to a proof."""

from __future__ import annotations

from ..core.proof import Proof, Status
from ..postgres.invalid_indexes import invalid_words, removal
from ..postgres.kept_log import REMEDY
from ..release.requirements import Demands
from .facts import Database, Facts, Unseen
from .rules_database import on_database
from .rules_target import BECAUSE_OF_DATABASE
from .verdicts import broken, holds, undecided

# Our sessions and those of the migration override these, whatever is set for the role or the database.
OVERRIDDEN = (
    *("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"),
    *("idle_session_timeout", "default_transaction_isolation", "default_transaction_read_only"),
    *("default_transaction_deferrable", "max_parallel_workers_per_gather", "max_parallel_maintenance_workers"),
)
DISABLES_TRIGGERS = "session_replication_role"
BLOCKERS, BLOCKERS_TITLE = "preflight.blockers", "db_user may do what the release declares about sessions that block it"
RESOURCES, RESOURCES_TITLE = "preflight.resources", "The server's resources for large queries are known"
SMALL_SHARED_MEMORY = 64 << 20


@on_database("vacuum")
def vacuum(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """No vacuum that prevents wraparound runs on the release's tables; an ordinary one is cancelled for a migration."""
    rows = [
        f"{row['table']} (pid {row['pid']}, since {row['since']}"
        + (f", {row['percent']} % scanned)" if row["percent"] is not None else ")")
        for row in seen.vacuums
    ]
    wraparound = [text for text, row in zip(rows, seen.vacuums, strict=True) if row["wraparound"]]
    expected = "none that prevents wraparound"
    if wraparound:
        return broken(
            "vacuum",
            f"A vacuum that prevents wraparound is running on {' and '.join(wraparound)}: the server does not cancel "
            "it for other sessions, so the migration would wait for its lock in vain.",
            "Wait for it to end (pg_stat_progress_vacuum shows its progress), and rerun the playbook.",
            expected=expected,
            observed=len(wraparound),
            sample=seen.vacuums,
        )
    if rows:
        detail = f"An autovacuum is running on {' and '.join(rows)}; the server cancels it for the migration."
        return holds("vacuum", detail, expected=expected, observed=0)
    return holds("vacuum", expected=expected, observed=0)


@on_database("indexes")
def indexes(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """No index of the release's tables is invalid; those that it adds to existing tables do not exist before it."""
    before = facts.revisions == [demands.from_revision]
    added = {name for names in demands.added_indexes.values() for name in names}
    names = {*added, *(name for names in demands.needed.values() for name in names)}
    wrong = [row for row in seen.invalid_indexes if row["bare"] in names]
    early = sorted(set(seen.early_indexes) - {row["bare"] for row in wrong}) if before else []
    if not before and wrong:
        return undecided("indexes", invalid_words(wrong), removal(wrong))
    if wrong or early:
        said = [invalid_words(wrong)] if wrong else []
        said += [f"The index {name}, which the release adds, already exists." for name in early]
        advice = [removal(wrong)] if wrong else []
        advice += [f"Find out who created {', '.join(early)}, and drop it: the migration fails on it."] if early else []
        return broken("indexes", " ".join(said), " ".join(advice), observed=[*early, *(row["name"] for row in wrong)])
    if seen.invalid_indexes:
        return undecided("indexes", invalid_words(seen.invalid_indexes), removal(seen.invalid_indexes))
    return holds("indexes", observed=[])


@on_database("settings")
def settings(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """Settings of the role or the database decide nothing that the migration does."""
    rows = [f"{row['name']} = {row['value']} (for {row['whom']})" for row in seen.settings]
    if any(row["name"] == DISABLES_TRIGGERS and row["value"] != "origin" for row in seen.settings):
        found = [text for text in rows if text.startswith(DISABLES_TRIGGERS)]
        return broken(
            "settings",
            f"The server has the setting {' and '.join(found)}: triggers do not fire and foreign keys are not checked "
            "there.",
            f"Reset it by ALTER ROLE or ALTER DATABASE ... RESET {DISABLES_TRIGGERS}, and rerun the playbook.",
            sample=seen.settings,
        )
    ours = [text for text in rows if text.split(" ")[0] in OVERRIDDEN]
    theirs = [text for text in rows if text not in ours]
    said = [f"Overridden for the migration and for checks: {', '.join(ours)}."] if ours else []
    said += [f"In effect for the migration: {', '.join(theirs)}."] if theirs else []
    return holds("settings", " ".join(said), observed=len(rows))


def blockers(demands: Demands, facts: Facts) -> list[Proof]:
    """Report what `migration.blockers` declares and db_user may not do; it is no reason to refuse."""
    seen, declared = facts.database, demands.blockers
    idle_s, vacuum = declared.get("end_idle_in_transaction"), declared.get("cancel_autovacuum")
    if isinstance(seen, Unseen) or not (idle_s or vacuum):
        return []
    may = seen.signals
    said, advice = [], []
    if vacuum and not (may.get("superuser") or may.get("vacuums")):
        said.append("An autovacuum that blocks is canceled by the server, after deadlock_timeout.")
    missing = [
        role
        for role, right in (("pg_signal_backend", "sessions"), ("pg_read_all_stats", "states"))
        if idle_s and not (may.get("superuser") or may.get(right))
    ]
    if missing:
        said.append(
            f"db_user may terminate an idle session that blocks only if it is one of its own role, or of a role of "
            f"which it is a member; of others only with {' and '.join(missing)}."
        )
        advice.append(f"Grant {', '.join(missing)} to db_user, or expect that the release stops at such a session.")
    elif idle_s and not may.get("superuser"):
        said.append("db_user may not terminate a superuser's session.")
    status: Status = "inconclusive" if missing else "pass"
    return [Proof(BLOCKERS, BLOCKERS_TITLE, status, declared, may, " ".join(said), " ".join(advice))]


def resources(facts: Facts) -> Proof:
    """Report what large queries may exhaust, before anything is touched: it is no reason to refuse."""
    seen = facts.database
    if isinstance(seen, Unseen):
        return Proof(RESOURCES, RESOURCES_TITLE, "skipped", detail=BECAUSE_OF_DATABASE)
    observed = {"shared_memory_bytes": facts.shared_memory_bytes, **seen.resources}
    said, advice = [], []
    if facts.shared_memory_bytes is not None and facts.shared_memory_bytes <= SMALL_SHARED_MEMORY:
        said.append(
            f"The container of the database has {facts.shared_memory_bytes >> 20} MB of shared memory, by Docker's "
            "configuration: a parallel query of the application that needs more fails with an error (53100). The "
            "release and its checks run without parallel workers, and need none."
        )
    status: Status = "pass"
    if seen.kept_log:
        status = "inconclusive"
        said.append(seen.kept_log)
        advice.append(REMEDY)
    if (limit := seen.resources.get("temp_file_limit_kb", -1)) >= 0:
        status = "inconclusive"
        said.append(f"temp_file_limit is {limit} kB: a sort or a join that needs more for temporary files fails.")
        advice.append("Raise temp_file_limit, unless the tables are small enough.")
    return Proof(RESOURCES, RESOURCES_TITLE, status, observed=observed, detail=" ".join(said), remedy=" ".join(advice))
