"""One preflight: wait for the services, gather the facts, judge them, and journal the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..core.history import Memory
from ..core.journal import Journal
from ..core.options import environment_of, run_of
from ..core.outcome import READS_PROOF
from ..core.proof import named, sentence
from ..host.inspect import Service
from ..migrate.reads_only import prove as prove_reads_only
from ..postgres.catalog_state import state_of as state_of_database
from ..postgres.session import Login
from ..release.requirements import Demands
from .gather import Target, gather, settle
from .judge import is_begun, judge, state_of, summary
from .places import read_state_dir
from .rules_server import blockers, resources
from .unreconciled import has_wrong_key, is_cut_short
from .way_back import way_back


def preflight(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The module's result."""
    run = run_of(params)
    demands = Demands.of(params["release"], run.environment)
    # A journal that cannot be used must not hide the other problems; state_dir and dump_room report it.
    state_dir = read_state_dir(run.state_dir)
    dry = check_mode or bool(state_dir.problem or state_dir.foreign)
    journal = Journal(run, dry=dry)
    with journal.step("preflight") as step:
        place = _place(params, demands, run.state_dir)
        before = state_of_database(place.login) if check_mode else ""
        facts = gather(place, demands)
        proofs = judge(demands, facts, require_restorable=bool(params.get("require_restorable")))
        if check_mode:
            proofs.append(
                prove_reads_only(READS_PROOF, before, state_of_database(place.login), [*demands.command, "current"])
            )
        lines = [] if state_dir.foreign or (dry and not check_mode) else journal.read()
        begun = is_begun(lines, run.release, run.environment)
        state = state_of(demands, facts, proofs, begun=begun)
        # An unfinished release is finalized anyway, and its foreign keys with it.
        unreconciled = (
            state == "deployed"
            and is_cut_short(lines, run.release, run.environment)
            and has_wrong_key(Login.of(params), (params["release"].get("tables") or {}).get("created") or {})
        )
        proofs += [*blockers(demands, facts), resources(facts)]
        proofs.append(
            way_back(
                params["release"],
                facts.services,
                params["api_base_url"],
                params.get("api_ca_file") or "",
                ready=state == "ready",
            )
        )
        seen = summary(facts)
        step.prove(*proofs)
        step.facts.update(state=state, unreconciled=unreconciled, target_facts=seen)
        if state == "refused":
            step.refuse()
    dicts = [proof.as_dict() for proof in proofs]
    return {
        "changed": False,
        "state": state,
        "unreconciled": unreconciled,
        "proofs": dicts,
        "message": sentence(dicts),
        "summary": named(proof.name for proof in proofs if proof.status == "fail"),
        "server_version": seen["server_version"],
        "revision": facts.revisions[0] if len(facts.revisions) == 1 else "",
        "watched": state in ("deployed", "unfinished") and Memory.of(lines, run).watched(run.playbook),
        "payload_missing": seen["payload_missing"],
        "target_facts": seen,
    }


def _place(params: Mapping[str, Any], demands: Demands, state_dir: str) -> Target:
    services = {name: Service(**service) for name, service in params["services"].items()}
    return Target(
        login=replace(Login.of(params), version_table=demands.version_table),
        address_problem=params["address_problem"],
        services=settle(services, demands.services),
        backend_container=params["backend_container"],
        db_container=params["db_container"],
        workdir=params["workdir"] or None,
        api_base_url=params["api_base_url"],
        api_ca_file=params.get("api_ca_file") or "",
        state_dir=state_dir,
        run_id=params["run"]["run_id"],
        environment=environment_of(params),
        staging_evidence_path=params["staging_evidence_path"] if params["require_staging_evidence"] else None,
    )
