"""Whether a database is as it was in the baseline: its catalog, every table's rows, its revision, what was observed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg2

from ..backup.schema_text import Schema, catalog_of, differences, hashed, in_words
from ..core.errors import ReleaseError
from ..core.journal import Run, last_facts
from ..core.outcome import AS_BEFORE, BASELINE_PROOF, MADE_WHEN_STARTED
from ..core.proof import Proof, sentence
from ..host.commands import Commands, commands_in
from ..postgres.catalog import find_relation, present, quoted
from ..postgres.could_not_run import advised, could_not_run, verdict_of
from ..postgres.declared_select import select_declared
from ..postgres.declared_sql import limit_statements, still_connected
from ..postgres.fingerprints import READING, read_tables
from ..postgres.session import Login, Row, connect, select, server_reason, transaction
from ..postgres.table_key import table_key
from ..runs.work import Work
from ..verify.unchanged_verdict import same
from ..verify.write_attribution import LOCK_WAIT_MS, Memory, compare, others_tables

CATALOG_PROOF = "restored.catalog"
CATALOG_TITLE = "The catalog is what it was before the release"
APPLICATION = "dbrelease restored"
INDEXES_OF = """
SELECT format('%%s.%%s', n.nspname, i.relname) AS name
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE format('%%s.%%s', n.nspname, t.relname) = ANY (%s)
"""


def compare_with_baseline(
    login: Login,
    memory: Memory,
    downgrade: Mapping[str, Any] | None,
    *,
    bookkeeping_table: str,
    created: Sequence[str],
    altered: Sequence[str],
    settle_seconds: float,
    catalog: Proof,
    audit: Sequence[str] = (),
    started: Sequence[str] = (),
    dropped: Sequence[str] = (),
) -> list[Proof]:
    """A proof for the catalog, each table, each created table's absence and each observation.

    dropped: tables that the upgrade dropped, and whose rows the downgrade does not bring back, as the release declares.
    """
    tables = _tables(login, memory, downgrade, altered, audit, bookkeeping_table, settle_seconds, dropped)
    try:
        with (
            closing(connect(login, APPLICATION)) as connection,
            transaction(connection, read_only=True, isolation="REPEATABLE READ", commit=False) as cursor,
        ):
            limit_statements(cursor, 0, lock_timeout=LOCK_WAIT_MS)
            left = present(cursor, created)
            proofs = [_absent(name, left) for name in created]
            others = others_tables(cursor, memory, [bookkeeping_table])
            indexes = [row["name"] for row in select(cursor, INDEXES_OF, (list(others),))]
            lossy = [f"TABLE {key}" for key in memory.baseline.get("kept") or {}]
            proofs.append(_lossy(excused(catalog, others, indexes, started), lossy))
            proofs += _bookkeeping(cursor, memory.baseline["tables"], bookkeeping_table)
            written = any(proof.status != "pass" for proof in tables)
            observed = [(one, _observe(cursor, one)) for one in memory.baseline.get("observations") or ()]
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Comparing {login.label} with the baseline failed ({server_reason(error)}): "
            f"{advised(error, 'rerun the playbook.')}"
        ) from error
    return [*proofs, *tables, *(prove_observation(one, now, written=written) for one, now in observed)]


def _tables(
    login: Login,
    memory: Memory,
    downgrade: Mapping[str, Any] | None,
    altered: Sequence[str],
    audit: Sequence[str],
    bookkeeping_table: str,
    settle_seconds: float,
    dropped: Sequence[str],
) -> list[Proof]:
    """Who wrote to a table that differs is determined twice: for the upgrade, and for the downgrade."""

    def ask(memory: Memory, except_tables: Sequence[str]) -> list[Proof]:
        return compare(
            login,
            memory,
            except_tables=[*except_tables, *dropped],
            altered_tables=altered,
            bookkeeping_tables=[bookkeeping_table],
            settle_seconds=settle_seconds,
            audit_tables=audit,
        )

    first = {proof.name: proof for proof in ask(memory, [])}
    again = replace(Memory.of(memory.baseline, downgrade, memory.transactions), moves=memory.moves)
    if again.upgrade is not None and any(proof.status == "inconclusive" for proof in first.values()):
        decided = [name for name, proof in first.items() if proof.status != "inconclusive"]
        first |= {proof.name: proof for proof in ask(again, [name.removeprefix("untouched.") for name in decided])}
    return [replace(proof, name=f"restored.{name.removeprefix('untouched.')}") for name, proof in sorted(first.items())]


def _absent(name: str, left: Sequence[str]) -> Proof:
    there = name in left
    return Proof(
        f"restored.{name}.absent",
        f"Table {name} does not exist",
        "fail" if there else "pass",
        expected="absent",
        observed="present" if there else "absent",
        detail="It still exists." if there else "",
        remedy="Check its rows; reconcile drops a table that an interrupted run left." if there else "",
    )


def compare_catalog(login: Login, before: object, commands: Commands, *, inside: bool) -> tuple[Proof, Schema | None]:
    """The proof, and what it was compared with: None where that could not be read."""
    try:
        now = catalog_of(login, commands, APPLICATION, inside=inside, lock_wait_ms=LOCK_WAIT_MS)
    except ReleaseError as error:
        detail = f"It could not be read: {error.message}"
        return Proof(CATALOG_PROOF, CATALOG_TITLE, "inconclusive", detail=detail), None
    return prove_catalog(Schema.of(before), now), now


def prove_catalog(before: Schema | None, now: Schema) -> Proof:
    """The same objects, made by the same statements, or which are not."""
    observed = {"objects": len(now.objects), "sha256": hashed(now)}
    if before is None:
        detail = "The backup recorded no catalog that this version of the program reads."
        return Proof(CATALOG_PROOF, CATALOG_TITLE, "inconclusive", observed=observed, detail=detail)
    expected = {"objects": len(before.objects), "sha256": hashed(before)}
    sample = [*differences(before.objects, now.objects)]
    if not sample:
        detail = f"pg_dump describes all {len(now.objects)} objects in the same words."
        return Proof(CATALOG_PROOF, CATALOG_TITLE, "pass", expected=expected, observed=observed, detail=detail)
    proof = Proof(
        CATALOG_PROOF,
        CATALOG_TITLE,
        "fail",
        expected=expected,
        observed=observed,
        detail=f"{in_words(sample)}.",
        remedy="Find out who changed them since the backup, and change them back.",
        sample=sample,
    )
    if before.versions == now.versions:
        return proof
    said, says = (" and ".join(one.versions) or "unknown" for one in (before, now))
    return replace(
        proof,
        status="inconclusive",
        detail=f"{proof.detail} The versions of the server and of pg_dump differ as well ({said}, now {says}), "
        "and each has words of its own.",
        remedy="Compare these objects with the backup (`pg_restore --schema-only --file=-`).",
    )


def excused(catalog: Proof, others: Collection[str], indexes: Collection[str], started: Collection[str] = ()) -> Proof:
    """The proof of the catalog, inconclusive where all that differs belongs to tables (`schema.table`) of others, or
    was made when Alembic was started.

    indexes: the names of the indexes of those that exist, as `schema.index`. Of a dropped table no index is known any
    more but by its name, which by default begins with that of the table.
    started: objects that appeared before a migration ran, as pg_dump names them; such an object must be new.
    """
    if catalog.status != "fail":
        return catalog
    made = [str(line["object"]) for line in catalog.sample if _made_by_start(line, started)]
    rest = [str(line["object"]) for line in catalog.sample if not _made_by_start(line, started)]
    if not all(_is_about(name, others, indexes) for name in rest):
        return catalog
    reasons = []
    if made:
        reasons.append(
            f"Alembic was started without a migration, and meanwhile appeared: {', '.join(made)}. "
            "The release did not create it; env.py did, or another session."
        )
    if rest:
        whose = "The others" if made else "All"
        reasons.append(f"{whose} belong to tables that another session created, dropped or rebuilt since the baseline.")
    remedy = catalog.remedy if rest else "Leave them if env.py creates them; else find out who did."
    return replace(catalog, status="inconclusive", detail=" ".join([catalog.detail, *reasons]), remedy=remedy)


def _lossy(catalog: Proof, tables: Collection[str]) -> Proof:
    """The proof of the catalog, inconclusive where only tables differ that a lossy release changes.

    tables: as pg_dump names them. A column that is added again comes last, so that its text is another one.
    """
    lines = [(str(line["object"]), line["change"]) for line in catalog.sample]
    if catalog.status != "fail" or any(name not in tables or change != "changed" for name, change in lines):
        return catalog
    why = "The release is lossy: its downgrade adds columns again, which come last. Whether more differs is not known."
    return replace(catalog, status="inconclusive", detail=f"{catalog.detail} {why}", remedy="")


def _made_by_start(line: Row, started: Collection[str]) -> bool:
    """Whether an object that is new appeared when Alembic was started, or belongs to one that did."""
    if line["change"] != "new":
        return False
    name = str(line["object"])
    bare = re.sub(r"^(?:ACL|COMMENT|SECURITY LABEL) ", "", name)
    tables = [one.removeprefix("TABLE ") for one in started if one.startswith("TABLE ")]
    return name in started or bare in started or _is_about(name, tables, ())


def _made_when_started(events: Sequence[Mapping[str, Any]], run: Run) -> list[str]:
    """What the moves since the newest baseline recorded of that."""
    own = [line for line in events if (line["release"], line["environment"]) == (run.release, run.environment)]
    bases = [place for place, line in enumerate(own) if (line["step"], line["event"]) == ("baseline", "passed")]
    since = own[bases[-1] :] if bases else []
    moves = [line["facts"] for line in since if line["step"] in ("upgrade", "downgrade")]
    return sorted({str(name) for facts in moves for name in facts.get(MADE_WHEN_STARTED) or ()})


def _is_about(name: str, others: Collection[str], indexes: Collection[str]) -> bool:
    """Whether an object of the catalog, by its type and name as pg_dump gives them, belongs to one of these tables."""
    for table in others:
        schema, _, bare = table.partition(".")
        of_table = rf"[A-Z ]+ {re.escape(schema)}\.(?:TABLE |COLUMN )?{re.escape(bare)}(?:[ .].*)?"
        named_after = rf"(?:INDEX|SEQUENCE(?: [A-Z ]+)?) {re.escape(table)}_\w+"
        if re.fullmatch(of_table, name) or re.fullmatch(named_after, name):
            return True
    return any(re.fullmatch(rf"[A-Z ]+ {re.escape(index)}", name) for index in indexes)


def _bookkeeping(
    cursor: psycopg2.extensions.cursor, before: Mapping[str, Row], bookkeeping_table: str
) -> Iterable[Proof]:
    """Its rows must be equal, whoever wrote them."""
    found = find_relation(cursor, quoted(bookkeeping_table))
    named = bookkeeping_table if "." in bookkeeping_table else f"public.{bookkeeping_table}"
    key = table_key(found["schema"], found["name"]) if found else named
    if key not in before:
        return []
    now = read_tables(cursor, only={key: before[key]["columns"]})[key]
    equal = same(before[key], now)
    return [
        Proof(
            f"restored.{key}",
            f"Table {key} holds the revision that it held before",
            "pass" if equal else "fail",
            expected={name: before[key][name] for name in ("rows", "fingerprint")},
            observed={name: now[name] for name in ("rows", "fingerprint")},
            detail="Rows and fingerprint are those of the baseline." if equal else "It holds another revision.",
            remedy="" if equal else "Read it, and the log of the rollback, before anything else.",
        )
    ]


def _observe(cursor: psycopg2.extensions.cursor, one: Row) -> list[Row] | psycopg2.Error:
    cursor.execute("SAVEPOINT observation")
    try:
        rows: list[Row] | psycopg2.Error = select_declared(cursor, one["sql"])
    except psycopg2.Error as error:
        still_connected(cursor, error)
        rows = error
        cursor.execute("ROLLBACK TO SAVEPOINT observation")
    cursor.execute("RELEASE SAVEPOINT observation")
    return rows


def prove_observation(one: Row, now: list[Row] | psycopg2.Error, *, written: bool) -> Proof:
    """Equal to the baseline's; where others have written since, a difference proves nothing."""
    name, title = f"restored.observation.{one['name']}", f"{one['title']}: as before the release"
    if isinstance(now, psycopg2.Error) and could_not_run(now):
        return Proof(name, title, expected=one["rows"], sql=one["sql"], **verdict_of(now, "The query"))
    if isinstance(now, psycopg2.Error):
        return Proof(
            name,
            title,
            "fail",
            expected=one["rows"],
            detail=f"The query fails now ({server_reason(now)}).",
            remedy="Compare the catalog with the baseline.",
            sql=one["sql"],
        )
    if now == one["rows"]:
        return Proof(name, title, "pass", expected=one["rows"], observed=now, sql=one["sql"])
    if written:
        detail = "The result differs, and so do tables."
        return Proof(name, title, "inconclusive", expected=one["rows"], observed=now, detail=detail, sql=one["sql"])
    return Proof(
        name,
        title,
        "fail",
        expected=one["rows"],
        observed=now,
        detail="The result differs, and no table does.",
        remedy="Compare both results, and find out what else the query reads.",
        sql=one["sql"],
    )


OTHERWISE = (
    "The baseline of the release was recorded by another version of this program, which read tables differently."
)
NO_BASELINE = Proof(
    BASELINE_PROOF,
    "The database is what it was before the release",
    "inconclusive",
    detail="The journal has no baseline of the release to compare with.",
)


def compare_restored(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The module's act: reads only."""
    work = Work.of(params, check_mode)
    journal = work.journal
    events = journal.read()

    def newest(step: str) -> dict[str, Any] | None:
        return last_facts(events, release=journal.run.release, environment=journal.run.environment, step=step)

    baseline = newest("baseline")
    container = params["db_container"] or None
    with journal.step(AS_BEFORE) as step:
        proofs = [NO_BASELINE]
        if baseline is not None and baseline.get("reading") != READING:
            baseline, proofs = None, [replace(NO_BASELINE, detail=OTHERWISE)]
        if baseline is not None:
            recorded, commands = _recorded(events, journal.run), commands_in(container)
            proof, catalog = compare_catalog(work.login, recorded, commands, inside=container is not None)
            if catalog is not None:
                step.facts["catalog"] = catalog.facts()
            transactions = [
                *((newest("guards") or {}).get("migration_xids") or ()),
                *((newest("finalize") or {}).get("transactions") or ()),
            ]
            lossy = params.get("reversible") == "lossy"
            proofs = compare_with_baseline(
                work.login,
                Memory.of(_as_before(baseline, lossy=lossy), newest("upgrade"), transactions, [newest("downgrade")]),
                newest("downgrade"),
                bookkeeping_table=params["bookkeeping_table"],
                created=params["created"],
                altered=params["altered"],
                audit=params.get("audit_tables") or (),
                settle_seconds=params["settle_seconds"],
                catalog=proof,
                started=_made_when_started(events, journal.run),
                dropped=params.get("dropped") or () if lossy else (),
            )
        step.prove(*proofs)
    found = [proof.as_dict() for proof in proofs]
    return {"changed": False, "compared": baseline is not None, "proofs": found, "message": sentence(found)}


def _as_before(baseline: Mapping[str, Any], *, lossy: bool) -> dict[str, Any]:
    """The baseline as a downgraded database is compared with it: whole, or of a lossy one what stays."""
    kept = baseline.get("kept") or {} if lossy else {}
    return {**baseline, "kept": {key: {**one, "after": one["row"]["columns"]} for key, one in kept.items()}}


def _recorded(events: Sequence[Mapping[str, Any]], run: Run) -> object:
    """The catalog in the backup of the run that recorded the newest baseline; None where it has none."""
    own = [line for line in events if (line["release"], line["environment"]) == (run.release, run.environment)]
    passed = [line for line in own if line["event"] == "passed" and line["step"] in ("baseline", "backup")]
    newest = next((line["run_id"] for line in reversed(passed) if line["step"] == "baseline"), "")
    backups = [line for line in passed if (line["run_id"], line["step"]) == (newest, "backup")]
    return backups[-1]["facts"].get("catalog") if backups else None
