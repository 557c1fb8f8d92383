"""The rules on containers, commands, files, disk and API: pure functions from observed facts to a proof."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..core.proof import Proof
from ..host.disk import MARGIN_BYTES, MIB
from ..host.inspect import not_running
from ..migrate.alembic_probe import COUNTING
from ..postgres.client_tools import fitting_clients, in_words, major_of
from ..release.requirements import Demands, PayloadFile
from .facts import Facts, Unseen
from .lineage import standing_of
from .verdicts import broken, holds, skipped, undecided, unseen

BECAUSE_OF_DATABASE = "Not checked because of preflight.database."
# `docker start` would run the container's own command again.
NOT_ONE_SHOT = (
    "If it migrates once and exits, do not start it again: Alembic is started in a running container. "
    "Remove {0}, and start one that keeps running "
    "(`docker compose run --detach --no-deps --name {0} --entrypoint sleep SERVICE infinity`)."
)
GOOD_OUTCOMES = ("deployed", "already_deployed")


def deployed(demands: Demands, facts: Facts) -> bool:
    """True if the database already has the release: its revision, and the tables and columns that it creates."""
    if isinstance(facts.database, Unseen):
        return False
    tables = facts.database.tables
    there = all(tables[name] for name in demands.created) and all(
        (table := tables[name]) and column in table.columns
        for name, columns in demands.altered.items()
        for column in columns
    )
    return facts.revisions == [demands.to_revision] and there


def services(demands: Demands, facts: Facts) -> Proof:
    """Every declared service is running, and healthy if its container has a health check."""
    wrong = list(_wrong_services(demands, facts))
    observed = {
        name: f"{service.status}, health {service.health}"
        for name, service in facts.services.items()
        if name in demands.services
    }
    expected = dict.fromkeys(demands.services, "running, and healthy where it has a health check")
    if wrong:
        return broken("services", " ".join(wrong), expected=expected, observed=observed)
    if not demands.services:
        return skipped("services", "The release declares no services.")
    return holds("services", expected=expected, observed=observed)


def _wrong_services(demands: Demands, facts: Facts) -> Iterator[str]:
    for name in demands.services:
        service = facts.services.get(name)
        if service is None:
            yield f"The inventory names no container for the service {name}: set {name}_container."
        elif service.status == "exited" and name == demands.container:
            yield f"{not_running(name, service)} {NOT_ONE_SHOT.format(service.container)}"
        elif service.status != "running":
            yield not_running(name, service)
        elif service.health not in ("healthy", "none"):
            yield (
                f"Container {service.container} of the service {name} is {service.health}: check "
                f"`docker logs {service.container}` and its health check in `docker inspect {service.container}`."
            )


def dump_tools(demands: Demands, facts: Facts) -> Proof:
    """They dump the server, and what they dump can be restored to it."""
    if isinstance(facts.tools, Unseen):
        return unseen("dump_tools", facts.tools)
    if isinstance(facts.database, Unseen):
        return skipped("dump_tools", BECAUSE_OF_DATABASE)
    fitting = fitting_clients(facts.database.major)
    unfit = [f"{tool} {version}" for tool, version in facts.tools.items() if major_of(version) not in fitting]
    expected, observed = f"major {in_words(fitting)}", dict(facts.tools)
    if unfit:
        return broken(
            "dump_tools",
            f"{' and '.join(unfit)} cannot dump the server, which is {facts.database.version}, "
            "or cannot make a dump that could be restored there.",
            f"Install the client programs of PostgreSQL {in_words(fitting)} where the dump is made.",
            expected=expected,
            observed=observed,
        )
    return holds("dump_tools", expected=expected, observed=observed)


def history(demands: Demands, facts: Facts) -> Proof:
    """One head: the revision that the release starts from, or its own once its file is in place.

    Where the files lead from the one to the other, they may go on: the upgrade stops there.
    """
    if isinstance(facts.heads, Unseen):
        return unseen("history", facts.heads)
    expected = [demands.from_revision, demands.to_revision]
    judge: Callable[[str, str], Proof] = lambda detail, remedy: broken(  # noqa: E731
        "history", detail, remedy, expected=expected, observed=facts.heads
    )
    if len(facts.heads) != 1:
        return judge(
            f"The backend's history has {len(facts.heads)} heads ({', '.join(facts.heads) or 'no revision'}).",
            "Remove the file that does not belong there, or merge the heads before this release.",
        )
    (head,) = facts.heads
    later = standing_of(head, demands.to_revision, facts.history) == "newer"
    if later and standing_of(demands.to_revision, demands.from_revision, facts.history) == "newer":
        return holds("history", expected=expected, observed=facts.heads)
    if head not in expected:
        return judge(
            f"The backend's history ends at {head}; the release goes from {demands.from_revision} "
            f"to {demands.to_revision}.",
            "Deploy the release with the version of the backend that it was made for.",
        )
    if head == demands.from_revision != demands.to_revision and facts.revisions == [demands.to_revision]:
        return judge(
            f"The database is at {demands.to_revision}, but the backend no longer has the file of that revision.",
            f"Copy {', '.join(item.source for item in demands.payload)} of the release to "
            f"{', '.join(item.destination for item in demands.payload)}.",
        )
    return holds("history", expected=expected, observed=facts.heads)


WAYS_ROUND_A_POOLER = (
    "Connect Alembic to the server directly: by variables of migration.environment (the inventory's "
    "migration_environment has their values), or by a container of its own (migration.container)"
)


WITH_SQL = (
    "Alembic's downgrade does not receive the counted rows: a rollback uses the release's SQL file "
    "(`-e rollback_method=sql`, or auto, which is the default)."
)
WITHOUT_SQL = (
    "Alembic's downgrade does not receive the counted rows, and may refuse. The release has no rollback.sql: the only "
    "way back is then to restore the backup."
)


def session_settings(demands: Demands, facts: Facts) -> Proof:
    """They reach Alembic's sessions: a pooler may refuse or drop them, and some drivers read none."""
    if isinstance(facts.current, Unseen):
        return skipped("session_settings", f"Not checked because Alembic could not be run: {facts.current.reason}")
    if facts.session_refused:
        return broken(
            "session_settings",
            "Alembic connects, but not with the settings of a migration (PGOPTIONS with lock_timeout and "
            f"application_name): {facts.session_refused}. A connection pooler such as PgBouncer may refuse them.",
            f"{WAYS_ROUND_A_POOLER}.",
        )
    if facts.session is None:
        detail = "The settings of Alembic's session can be read only from `python -m alembic` and `alembic`."
        return undecided("session_settings", detail, "Check migrate.lock_limits after the upgrade.")
    lacking = facts.session.lacks(demands.lock_timeout_ms)
    if not lacking:
        return holds("session_settings", observed={"lock_timeout_ms": demands.lock_timeout_ms})
    said = [
        f"{', '.join(lacking)} did not reach Alembic's session: a connection pooler drops them, or the driver (such as "
        "asyncpg) reads neither PGOPTIONS nor PGAPPNAME."
    ]
    if "lock_timeout" in lacking:
        said.append("The upgrade would wait for a lock without limit, and other writers would wait behind it.")
    if COUNTING in lacking:
        said.append(WITH_SQL if demands.rollback_sql else WITHOUT_SQL)
    return undecided("session_settings", " ".join(said), f"{WAYS_ROUND_A_POOLER}; or set lock_timeout in env.py.")


def migration_role(demands: Demands, facts: Facts) -> Proof:
    """It may create in the schema, alter the altered tables, and reference the tables of the foreign keys."""
    if missing := [name for name in demands.environment if name not in facts.environment]:
        return broken(
            "migration_role",
            f"The inventory gives Alembic no value for {', '.join(missing)}, which migration.environment names.",
            "Set it in migration_environment; take secrets from a vault.",
        )
    if facts.migrator is None:
        return skipped("migration_role", "It is unknown as which role Alembic connects.")
    if demands.role and facts.session is not None and demands.role != facts.session.role:
        return broken(
            "migration_role",
            f"Alembic connects as {facts.session.role}, but migration.role is {demands.role}.",
            "Set the role's login in the inventory's migration_environment (its variables: migration.environment).",
        )
    if facts.migrator.lacks:
        return broken(
            "migration_role",
            f"Alembic migrates as the role {facts.migrator.role}, which may not {', nor '.join(facts.migrator.lacks)}.",
            f"Grant {facts.migrator.role} those rights; or migrate as a role that has them: list in "
            "migration.environment the variables from which env.py reads its login (their values are in the "
            "inventory's migration_environment), or set migration.container to a container that has them.",
        )
    return holds("migration_role", observed=facts.migrator.role)


def payload(demands: Demands, facts: Facts) -> Proof:
    """Each file is in place as the release has it, or can be copied there."""
    if not demands.payload:
        return skipped("payload", "The release brings no files.")
    if isinstance(facts.payload, Unseen):
        return unseen("payload", facts.payload)
    states = facts.payload.states
    wrong = [text for item in demands.payload if (text := _wrong_file(item, states[item.destination]))]
    own = {item.destination for item in demands.payload}
    wrong += [
        f"{path} also defines revision {demands.to_revision}: move it to another folder."
        for path in facts.payload.definitions
        if path not in own
    ]
    expected = {item.destination: item.sha256 for item in demands.payload}
    if wrong:
        return broken("payload", " ".join(wrong), expected=expected, observed=dict(states))
    missing = payload_missing(facts)
    detail = f"Missing, to be copied: {', '.join(missing)}." if missing else ""
    return holds("payload", detail, expected=expected, observed=dict(states))


def payload_missing(facts: Facts) -> list[str]:
    """The destinations that have no file yet."""
    if isinstance(facts.payload, Unseen):
        return []
    return [destination for destination, state in facts.payload.states.items() if state == "missing"]


def _wrong_file(item: PayloadFile, state: str) -> str:
    if state in ("missing", item.sha256):
        return ""
    folder = item.destination.rpartition("/")[0]
    return {
        "no_folder": f"There is no folder {folder} for {item.source}: correct the destination, or create the folder.",
        "read_only": f"The folder {folder} for {item.source} cannot be written: mount it writable.",
        "no_file": f"{item.destination} exists, but is not a file: move it to another folder.",
        "outside": f"{item.destination} leads out of {item.folder} by a link: find out who made it, and remove it.",
        "unreadable": f"{item.destination} exists, but cannot be read: check its mode and owner.",
    }.get(
        state,
        f"{item.destination} differs from {item.source} of the release "
        f"(sha256 {state[:12]} instead of {item.sha256[:12]}): find out whose it is, and move it to another folder.",
    )


def state_dir(_: Demands, facts: Facts) -> Proof:
    """No other user can exchange what is kept there; the detail names what else may write or remove it."""
    seen = facts.state_dir
    if seen.foreign:
        return broken("state_dir", seen.foreign, observed=seen.folder)
    detail = (
        f"What else can change it: {'; '.join(seen.near)}. It is safer outside the application: set release_state_dir "
        "to a folder such as /var/lib/dbrelease, and move its content there."
    )
    return holds("state_dir", detail if seen.near else "", observed=list(seen.near))


def dump_room(demands: Demands, facts: Facts) -> Proof:
    """The state directory has room for the dump; once deployed, it needs room only for the journal."""
    state_dir = facts.state_dir
    if state_dir.problem:
        return broken("dump_room", state_dir.problem, observed=state_dir.folder)
    if deployed(demands, facts):
        return skipped("dump_room", "The release is already deployed: no dump will be made.")
    if isinstance(facts.database, Unseen):
        return skipped("dump_room", BECAUSE_OF_DATABASE)
    return _room(
        "dump_room",
        f"at {state_dir.folder} on the target",
        facts.database.dump_bytes + MARGIN_BYTES,
        state_dir.free_bytes,
    )


def table_room(demands: Demands, facts: Facts) -> Proof:
    """The server's disk has room for the new tables and indexes, and for the dump where it is on the same disk."""
    if isinstance(facts.database, Unseen):
        return skipped("table_room", BECAUSE_OF_DATABASE)
    grown = round(demands.growth_factor * facts.database.existing_bytes)
    need = grown + MARGIN_BYTES + (grown if facts.database.kept_log else 0)
    free = facts.table_free_bytes
    if isinstance(free, Unseen):
        if free.because:
            return unseen("table_room", free)
        remedy = f"Make sure that the server has {need} bytes free."
        return undecided("table_room", free.reason, remedy, expected={"bytes_at_least": need})
    where = f"at {facts.database.tables_directory or facts.database.data_directory} on the server"
    # Two folders with the same free room are most likely on one disk, such as a container's volume and its host's.
    if abs(free - facts.state_dir.free_bytes) <= MARGIN_BYTES and not deployed(demands, facts):
        where, need = f"{where}, for the dump and the new tables together", need + facts.database.dump_bytes
    return _room("table_room", where, need, free)


def _room(rule: str, where: str, need: int, free: int) -> Proof:
    expected, observed = {"bytes_at_least": need}, {"bytes_free": free}
    if free < need:
        return broken(
            rule,
            f"There are {free // MIB} MiB free {where}; {-(-need // MIB)} MiB are needed.",
            f"Free another {-(-(need - free) // MIB)} MiB there.",
            expected=expected,
            observed=observed,
        )
    return holds(rule, expected=expected, observed=observed)


def api(demands: Demands, facts: Facts) -> Proof:
    """Each endpoint answers with its status, and with JSON."""
    if not demands.endpoints:
        return skipped("api", "The release declares no API.")
    if isinstance(facts.answers, Unseen):
        return unseen("api", facts.answers)
    if not facts.answers:
        return skipped("api", "The target has no api_base_url.")
    wrong = []
    for endpoint in demands.endpoints:
        answer = facts.answers[endpoint.name]
        if answer.problem:
            wrong.append(f"GET {answer.url} {answer.problem} {answer.remedy}")
        elif answer.status != endpoint.status:
            wrong.append(
                f"GET {answer.url} answered with status {answer.status} instead of {endpoint.status}{answer.note}: "
                "check the log of the service."
            )
        elif answer.kind.startswith("no JSON"):
            wrong.append(f"GET {answer.url} answered with {answer.kind}: check that api_base_url leads to the API.")
    expected = {endpoint.name: endpoint.status for endpoint in demands.endpoints}
    observed = {name: {"status": seen.status, "duration_ms": seen.duration_ms} for name, seen in facts.answers.items()}
    if wrong:
        return broken("api", " ".join(wrong), expected=expected, observed=observed)
    return holds("api", expected=expected, observed=observed)


def staging_evidence(demands: Demands, facts: Facts) -> Proof:
    """Where it is required, the evidence is of a run in staging that deployed this release."""
    if facts.staging is None:
        return skipped("staging_evidence", "Not required here.")
    if isinstance(facts.staging, Unseen):
        return unseen("staging_evidence", facts.staging)
    observed = {key: facts.staging.get(key) for key in ("release", "environment", "outcome", "run_id")}
    if observed["release"] != demands.release or observed["outcome"] not in GOOD_OUTCOMES:
        return broken(
            "staging_evidence",
            f"The evidence is of release {observed['release']} with outcome {observed['outcome']}.",
            f"Deploy release {demands.release} in staging, and give the path of that run's evidence.",
            observed=observed,
        )
    return holds("staging_evidence", observed=observed)
