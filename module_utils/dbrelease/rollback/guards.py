"""Whether a release may be rolled back: every guard is checked, and the answer is journaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from ..core.journal import Journal, last_facts
from ..core.proof import Proof
from ..postgres.catalog import present
from ..postgres.kept_values import columns_declared
from ..postgres.revision import read_revisions
from ..postgres.session import Login, connect, transaction
from ..release.guard_kinds import KINDS_OF_DATABASE, Guard, kind_of
from ..runs.work import Work
from ..verify.write_attribution import Added, Memory, added_since, gone_since
from .in_database import COUNTED_AT, Looked, evaluate
from .in_services import Services
from .verdict import GuardResult, Verdict, judge, skipped

REVISION_PROOF = "guard.revision"
METHOD_PROOF = "guard.method"
NOTHING = Looked([], {}, [])
# Of every release: its downgrade drops no object of another owner.
NOTHING_DEPENDS = {
    "name": "nothing_depends",
    "title": "Nothing else depends on the tables that are dropped",
    "road": "Drop or change it first, or keep the release.",
}
NO_OTHER_COLUMN = {
    "name": "no_other_column",
    "title": "The tables that are dropped have no column that the release does not know",
    "road": "No query of the release reads its values: save them, drop the column, and rerun the playbook.",
}
# What a release does not declare, its downgrade may drop as well.
ADDED = {
    "name": "added",
    "title": "What the migration added beyond what the release declares is known",
    "violations": "what added_since() finds",
    "road": "",
}
UNKNOWN = (
    "The release declares no tables, and the journal has no baseline that would show which tables and columns the "
    "migration added: declare them in release.yml (tables.created, tables.altered), or restore a backup."
)
NOTHING_ADDED = Added()
# For an automatic rollback: an empty table in the place of one that had rows would pass as a rollback.
NOTHING_GONE = {
    "name": "nothing_gone",
    "title": "Nothing is missing that a downgrade cannot restore",
    "violations": "what gone_since() finds",
    "road": "Restore the backup, which contains it: {}.",
}
# Where the command is unknown, because the module was called without it.
RESTORE = "run playbooks/restore.yml with the inventory of this run and -e release={}"
NO_SCRIPT = (
    "The release has no SQL file that rolls it back (rollback.sql), which rollback_method=sql requires: "
    "rerun the playbook with `-e rollback_method=alembic`."
)
# No reason to refuse, as such a row is rare; but it limits what the count of the others proves.
NOT_COUNTED_AGAIN = Proof(
    "guard.counted_again",
    "What is written after the count is found before it is dropped",
    "inconclusive",
    detail=f"The downgrade does not mention {COUNTED_AT}, as far as the release's files show: rows and values that are "
    "written between the count and the downgrade are not detected.",
)


NOT_REVERSIBLE = (
    "Rolling back was refused (the release declares reversible: false, so that its downgrade does not bring the "
    "database back), and nothing was changed: restore the backup from before the release ({})."
)
HELD_BECAUSE_LOSSY = (
    "The release declares reversible: lossy, so that a rollback does not bring back what the upgrade removed. Roll "
    "back by hand if that is acceptable, or restore the backup from before the release ({})."
)
LOSSY = {
    "name": "lossy",
    "title": "What the downgrade does not bring back is known",
    "violations": "what the baseline counted",
    "road": "Restore the backup from before the release.",
}


def evaluate_guards(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The module's act: reads only."""
    work = Work.of(params, check_mode)
    login, journal = work.login, work.journal
    with journal.step("guards") as step:
        revisions = read_revisions(login, params["bookkeeping_table"])
        added = _added(params, login, journal) if revisions == [params["revision"]] else None
        guards = all_guards(
            params["guards"], params["created"], params["altered"], _downgrade(params), added or NOTHING_ADDED
        )
        left = _present(login, params["created"]) if revisions == [params["from_revision"]] else []
        looked = NOTHING
        deployed_at = deployed_since(journal)
        deployed = revisions == [params["revision"]]
        reversible = params.get("reversible") or "true"
        if deployed and reversible != "true" and (reversible == "false" or params.get("automatic")):
            why = NOT_REVERSIBLE if reversible == "false" else HELD_BECAUSE_LOSSY
            message = why.format(params.get("restore_command") or RESTORE.format(journal.run.release))
            verdict = Verdict("refused", message, guards=skipped(guards, "The release is not rolled back."))
        elif deployed and params["method"] == "sql" and not params["script"].strip():
            verdict = Verdict("refused", NO_SCRIPT, guards=skipped(guards, "There is no file that rolls it back."))
        elif deployed:
            more = _added_known(added, params.get("declares_tables", True))
            more += _gone(params, login, journal) if params.get("automatic") else []
            more += [(LOSSY, _not_brought_back(params, journal))] if reversible == "lossy" else []
            verdict, looked = _evaluate(params, login, guards, deployed_at, more)
        else:
            verdict = elsewhere(params["from_revision"], params["revision"], revisions, left, guards)
        losses = [guard["losses"] for guard in guards if kind_of(guard) == "losses"]
        proofs = [_revision(params["revision"], revisions, verdict), *verdict.proofs]
        counted = any(guard.get(kind) for guard in guards for kind in ("losses", "values", "values_of"))
        if deployed and counted and COUNTED_AT not in _downgrade(params):
            proofs.append(NOT_COUNTED_AGAIN)
        if params.get("method_reason"):
            title = "What rolls the release back"
            proofs.append(Proof(METHOD_PROOF, title, "pass", observed=params["method"], detail=params["method_reason"]))
        facts = {
            "method": params["method"],
            "state": verdict.state,
            "rows_lost": verdict.rows_lost,
            "accepted": verdict.accepted,
            "losses": losses,
            "session_settings": looked.session_settings,
            "message": verdict.message,
        }
        step.facts.update(facts, revisions=revisions, deployed_at=deployed_at, migration_xids=looked.migration_xids)
        step.prove(*proofs)
        if verdict.state == "refused":
            step.refuse()
    return {"changed": False, **facts, "proofs": [proof.as_dict() for proof in proofs]}


def _not_brought_back(params: Mapping[str, Any], journal: Journal) -> GuardResult:
    """What the upgrade removed, as the baseline counted it."""
    run, events = journal.run, journal.read()
    baseline, backup = (
        last_facts(events, release=run.release, environment=run.environment, step=step)
        for step in ("baseline", "backup")
    )
    if baseline is None:
        return GuardResult("inconclusive", "There is no baseline, so that it cannot be determined.")
    tables, kept = baseline["tables"], baseline.get("kept") or {}
    lost = [
        f"{count} values of {key}.{name}" for key, one in kept.items() for name, count in one["not_compared"].items()
    ]
    for name in params.get("dropped") or ():
        keys = [key for key in tables if name in (key, key.partition(".")[2])]
        lost += [f"{tables[key]['rows']} rows of {key}" for key in keys]
    where = f" They are in {backup['path']}." if backup and backup.get("path") else ""
    return GuardResult(
        "pass", f"Not brought back: {', '.join(lost) or 'nothing that was counted'}.{where}", observed=lost
    )


def _downgrade(params: Mapping[str, Any]) -> str:
    """The text that will run, as far as the release has it."""
    if params["method"] == "sql":
        return str(params["script"])
    return "\n".join(file["content"] for file in params["revision_files"])


def all_guards(
    guards: Sequence[Guard],
    created: Mapping[str, Mapping[str, Any]],
    altered: Mapping[str, Mapping[str, Any]],
    downgrade: str,
    added: Added = NOTHING_ADDED,
) -> list[Guard]:
    """The guards that a release declares, and those of every release.

    created, altered: as in `tables` of the release; downgrade: the text that rolls it back; added: what the migration
    added beyond these. Where a release does not say which rows nothing else knows, it may be any.
    """
    known = {table: list(declared["columns"]) for table, declared in created.items()}
    values = _no_value_lost(guards, {**altered, **{key: {"columns": names} for key, names in added.columns.items()}})
    dropped = [*known, *added.tables]
    if not dropped:
        return [*guards, *values]
    declared = {guard["losses"]["table"] for guard in guards if kind_of(guard) == "losses"}
    return [
        *guards,
        {**NOTHING_DEPENDS, "dependents": dropped, "altered": altered, "downgrade": downgrade},
        *([{**NO_OTHER_COLUMN, "only_columns": known}] if known else []),
        *(_no_row_lost(table) for table in dropped if table not in declared),
        *values,
    ]


def _added(params: Mapping[str, Any], login: Login, journal: Journal) -> Added | None:
    """What the migration added beyond what the release declares; None where there is no baseline to compare with."""
    run, events = journal.run, journal.read()
    baseline, upgrade = (
        last_facts(events, release=run.release, environment=run.environment, step=step)
        for step in ("baseline", "upgrade")
    )
    if baseline is None:
        return None
    with closing(connect(login, "dbrelease guards")) as connection, transaction(connection, read_only=True) as cursor:
        return added_since(
            cursor,
            Memory.of(baseline, upgrade),
            [params["bookkeeping_table"]],
            created=list(params["created"]),
            altered=columns_declared({"altered": params["altered"], "changed": params.get("changed")}),
        )


def _no_row_lost(table: str) -> Guard:
    return {
        "name": f"no_row_lost.{table}",  # no guard that a release declares has a dot in its name
        "title": f"No row of {table} is lost",
        "losses": {"table": table},
        "road": f"The release has no guard with losses of {table}, so every row counts: add one, or keep the release.",
    }


def _no_value_lost(guards: Sequence[Guard], altered: Mapping[str, Mapping[str, Any]]) -> list[Guard]:
    """Of what the release adds to other tables: the columns whose values none of its guards covers."""
    answering = [answer for guard in guards for answer in (guard.get("values_of") or {}).items()]
    answered = {(table, name) for table, columns in answering for name in columns}
    left = {
        table: [name for name in declared.get("columns") or {} if (table, name) not in answered]
        for table, declared in altered.items()
    }
    return [
        {
            "name": f"no_value_lost.{table}",
            "title": f"No value of what the release adds to {table} is lost",
            "values": {"table": table, "columns": columns},
            "road": f"The columns {', '.join(columns)} are dropped, and no guard of the release covers their values "
            "(values_of): save the values and clear them, keep the release, or restore the backup.",
        }
        for table, columns in left.items()
        if columns
    ]


def _added_known(added: Added | None, declares_tables: bool) -> list[tuple[Guard, GuardResult]]:
    """The guard that it is known; none where only the declaration says it."""
    if added is not None:
        return [(ADDED, GuardResult("pass", added.in_words()))]
    return [] if declares_tables else [(ADDED, GuardResult("inconclusive", UNKNOWN))]


def _gone(params: Mapping[str, Any], login: Login, journal: Journal) -> list[tuple[Guard, GuardResult]]:
    """The guard of an automatic rollback; none where there is no baseline to compare with."""
    run, events = journal.run, journal.read()
    baseline, upgrade = (
        last_facts(events, release=run.release, environment=run.environment, step=step)
        for step in ("baseline", "upgrade")
    )
    if baseline is None:
        return []
    with closing(connect(login, "dbrelease guards")) as connection, transaction(connection, read_only=True) as cursor:
        names = gone_since(cursor, Memory.of(baseline, upgrade), [params["bookkeeping_table"]])
    command = params["restore_command"] or RESTORE.format(run.release)
    guard = {**NOTHING_GONE, "road": NOTHING_GONE["road"].format(command)}
    if names:
        return [(guard, GuardResult("fail", f"Missing since the baseline: {', '.join(names)}.", [], names))]
    return [(guard, GuardResult("pass", "Every table and column of the baseline exists.", [], []))]


def _evaluate(
    params: Mapping[str, Any],
    login: Login,
    guards: Sequence[Guard],
    deployed_at: str,
    more: Sequence[tuple[Guard, GuardResult]] = (),
) -> tuple[Verdict, Looked]:
    services = Services(
        params["api_base_url"] or "",
        params["containers"],
        params["request_timeout_seconds"],
        deployed_at,
        params["accept_log_gap"],
        login.password,
        paths_of(guards),
        params.get("api_ca_file") or "",
    )
    asked = [(guard, services.look(guard)) for guard in guards if kind_of(guard) not in KINDS_OF_DATABASE]
    # The database last: as little time as possible passes between its answer and the downgrade.
    of_database = [guard for guard in guards if kind_of(guard) in KINDS_OF_DATABASE]
    looked = evaluate(login, of_database, params["bookkeeping_table"], params["statement_timeout_ms"])
    seen = {guard["name"]: (guard, found) for guard, found in [*asked, *looked.guards]}
    return judge([*(seen[guard["name"]] for guard in guards), *more], params["accept_loss"]), looked


def paths_of(guards: Sequence[Guard]) -> tuple[str, ...]:
    """The paths that guards ask the API for."""
    return tuple(guard["answers"]["path"] for guard in guards if guard.get("answers"))


def elsewhere(
    from_revision: str, revision: str, revisions: Sequence[str], left: Sequence[str], guards: Sequence[Guard]
) -> Verdict:
    """The verdict where the database is not at the release's revision: nothing to do, or not for this release."""
    unseen = skipped(guards, "The database is not at the release's revision.")
    if list(revisions) == [from_revision] and not left:
        return Verdict("not_deployed", "", guards=unseen)
    if list(revisions) == [from_revision]:
        message = (
            f"The database is at {from_revision}, before the release, but {' and '.join(left)} "
            f"{'exists' if len(left) == 1 else 'exist'}: an interrupted run or another session left it; check its "
            "rows, and reconcile."
        )
    else:
        at = " and ".join(revisions) or "no revision"
        message = (
            f"The database is at {at}, and only {revision} can be rolled back: find out which revisions were applied "
            "after it, and roll those back first, or restore a backup."
        )
    return Verdict("refused", message, guards=unseen)


def _revision(revision: str, revisions: Sequence[str], verdict: Verdict) -> Proof:
    at = list(revisions) == [revision]
    nothing = verdict.state == "not_deployed"
    return Proof(
        REVISION_PROOF,
        "The database is at the revision that is rolled back",
        "pass" if at else "skipped" if nothing else "fail",
        expected=[revision],
        observed=list(revisions),
        detail=""
        if at
        else "The release is not deployed: there is nothing to roll back."
        if nothing
        else verdict.message,
    )


def deployed_since(journal: Journal) -> str:
    """When the newest upgrade of this release began, empty where the journal has none."""
    run = journal.run
    found = (
        line["ts"]
        for line in reversed(journal.read())
        if (line["release"], line["environment"], line["step"], line["event"])
        == (run.release, run.environment, "upgrade", "started")
    )
    return str(next(found, ""))


def _present(login: Login, tables: Sequence[str]) -> list[str]:
    with closing(connect(login, "dbrelease guards")) as connection, transaction(connection, read_only=True) as cursor:
        return present(cursor, tables)
