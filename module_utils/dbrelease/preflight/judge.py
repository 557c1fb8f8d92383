"""All rules over all facts, and the state that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from ..core.proof import Proof
from ..release.requirements import Demands
from . import rules_database as on_server
from . import rules_server as on_server_itself
from . import rules_sessions as on_sessions
from . import rules_target as on_target
from .facts import Facts, Unseen
from .verdicts import skipped

State = Literal["ready", "unfinished", "deployed", "refused"]

RULES: Mapping[str, on_server.Rule] = {
    "services": on_target.services,
    "database": on_server.database,
    "server": on_server.server,
    "dump_tools": on_target.dump_tools,
    "revision": on_server.revision,
    "history": on_target.history,
    "tables": on_server.tables,
    "rights": on_server.rights,
    "session_settings": on_target.session_settings,
    "migration_role": on_target.migration_role,
    "restorable": on_server.restorable,
    "dump_locks": on_server.dump_locks,
    "created_absent": on_server.created_absent,
    "added_absent": on_server.added_absent,
    "removed_present": on_server.removed_present,
    "payload": on_target.payload,
    "strangers": on_sessions.strangers,
    "checks_plan": on_server.checks_plan,
    "prepared_transactions": on_sessions.prepared_transactions,
    "old_transactions": on_sessions.old_transactions,
    "vacuum": on_server_itself.vacuum,
    "indexes": on_server_itself.indexes,
    "settings": on_server_itself.settings,
    "state_dir": on_target.state_dir,
    "dump_room": on_target.dump_room,
    "table_room": on_target.table_room,
    "api": on_target.api,
    "staging_evidence": on_target.staging_evidence,
}
CHANGING = ("upgrade", "finalize")
ENDS = ("verify", "downgrade", "rolled_back", "restored")
ONLY_BEFORE = (
    "dump_tools",
    "rights",
    "migration_role",
    "restorable",
    "dump_locks",
    "prepared_transactions",
    "old_transactions",
    "vacuum",
    "table_room",
)


def judge(demands: Demands, facts: Facts, *, require_restorable: bool = False) -> list[Proof]:
    """Return a proof of every rule, in this order; require_restorable: a doubt about the backup refuses the release."""
    done = on_target.deployed(demands, facts)
    proofs = [
        skipped(name, "The release is already deployed: nothing will be changed.")
        if done and name in ONLY_BEFORE
        else rule(demands, facts)
        for name, rule in RULES.items()
    ]
    return [
        replace(proof, status="fail")
        if require_restorable and proof.name == "preflight.restorable" and proof.status == "inconclusive"
        else proof
        for proof in proofs
    ]


def state_of(demands: Demands, facts: Facts, proofs: Sequence[Proof], *, begun: bool = False) -> State:
    """`refused` with any failed proof, else `ready`, or `deployed`, or `unfinished` where it was only begun."""
    if any(proof.status == "fail" for proof in proofs):
        return "refused"
    if not on_target.deployed(demands, facts):
        return "ready"
    return "unfinished" if begun else "deployed"


def is_begun(lines: Sequence[Mapping[str, Any]], release: str, environment: str) -> bool:
    """Whether the journal has the start of an upgrade that no run has verified or rolled back since.

    A run that was interrupted after it had verified its upgrade has not ended: the application has written since,
    and no run has checked that. A database that was migrated by hand has no such start.
    """
    begun, at_work = False, set()
    for line in lines:
        if (line["release"], line["environment"]) != (release, environment):
            continue
        step, event = line["step"], line["event"]
        if event == "started" and step in CHANGING:
            at_work.add(line["run_id"])
        if (step, event) == ("upgrade", "started"):
            begun = True
        elif event == "passed" and step in ENDS:
            begun = False
        elif step == "run" and line["facts"].get("interrupted") and line["run_id"] in at_work:
            begun = True
    return begun


def summary(facts: Facts) -> dict[str, Any]:
    """The facts for the result and the journal: always the same keys, None for what was not read."""
    seen = None if isinstance(facts.database, Unseen) else facts.database
    return {
        "services": {name: asdict(service) for name, service in facts.services.items()},
        "server_version": seen.version if seen else "",
        "server_major": seen.major if seen else None,
        "data_directory": seen.data_directory if seen else "",
        "revisions": facts.revisions,
        "heads": [] if isinstance(facts.heads, Unseen) else facts.heads,
        "dump_bytes_estimate": seen.dump_bytes if seen else None,
        "dump_free_bytes": facts.state_dir.free_bytes,
        "existing_bytes": seen.existing_bytes if seen else None,
        "table_free_bytes": None if isinstance(facts.table_free_bytes, Unseen) else facts.table_free_bytes,
        "dump_tools": {} if isinstance(facts.tools, Unseen) else dict(facts.tools),
        "payload_missing": on_target.payload_missing(facts),
    }
