"""What a swap reports: its proofs, and the first lines of the script that writes rows again."""

from __future__ import annotations

from ...core.journal import Run, utc_now
from ...core.proof import Proof
from ...core.restore_names import REPLAY
from ...host.lifecycle import SERVICES_PROOF, SERVICES_TITLE
from ...postgres.trusted_roles import quoted_text
from .archive import Saved
from .rename import Names
from .sequences import Advance

SHOWN = 5
ROWS_PROOF = "restore.rows_saved"
SWAPPED_PROOF = "restore.swapped"
TITLES = {
    ROWS_PROOF: "Rows that only the replaced database has are saved, with a script that writes them again",
    SWAPPED_PROOF: "The restored database is in place, and the one before it is kept",
    SERVICES_PROOF: SERVICES_TITLE,
}


def header(names: Names, run: Run) -> str:
    """Comments that explain the script."""
    return (
        f"-- Rows of the database {names.live} that {names.incoming}, which took its place, does not have.\n"
        f"-- Saved {utc_now().isoformat(timespec='seconds')} by run {run.run_id}, with the application stopped.\n"
        "-- Run it as the owner of the tables. It disables their triggers and rules meanwhile; it writes all or none.\n"
        "-- It refuses if a row with the same key was written since; without a key this cannot be checked.\n"
        f"-- Read it before you run it: psql --dbname={names.live} --file={REPLAY}\n"
    )


def rows_proof(saved: Saved) -> Proof:
    """The saved rows of each table, and what could not be saved."""
    facts = saved.facts()
    counted = "; ".join(
        f"{table}: {counts['new']} new, {counts['changed']} changed, {counts['deleted']} deleted"
        + ("" if counts["known"] else " (a table that is not in the database that takes its place)")
        for table, counts in facts["tables"].items()
    )
    detail = f"{counted}: {saved.directory}." if saved.rows else "There are none."
    left = [
        f"values of {table} in {', '.join(found.names)} ({found.rows} row{'' if found.rows == 1 else 's'}), "
        "for which the database that takes its place has no column"
        for table, found in saved.columns.items()
    ]
    if saved.large_objects.differing:
        left.append(f"{saved.large_objects.differing} large objects that differ")
    if saved.large_objects.unread:
        left.append(
            f"the content of {saved.large_objects.unread} large objects, which this user may not read, if it differs"
        )
    if left:
        detail += f" Only in the database that was replaced: {'; '.join(left)}."
    if saved.not_replayed:
        detail += (
            f" Not in the script, because it would run code of their owners, who are not trusted: rows of "
            f"{', '.join(map(quoted_text, saved.not_replayed[:SHOWN]))}"
            f"{f' and {more} more tables' if (more := len(saved.not_replayed) - SHOWN) > 0 else ''}."
        )
    if saved.moved:
        detail += (
            " Saved and not in the script, as a restore moves them among partitions: rows of "
            f"{', '.join(map(quoted_text, saved.moved[:SHOWN]))}."
        )
    # A claim without a remedy is not on the terminal.
    remedies = ["Copy what is needed from the database that was kept."] if left else []
    if saved.not_replayed or saved.moved:
        remedies.append(
            f"Write the rows that are not in the script manually, from the files in {saved.directory}, or swap the "
            "database back that was kept."
        )
    return Proof(
        ROWS_PROOF,
        TITLES[ROWS_PROOF],
        "inconclusive" if left or saved.not_replayed or saved.moved else "pass",
        observed=facts,
        detail=detail,
        remedy=" ".join(remedies),
    )


def swapped_proof(names: Names, swap_back: str, drop: str, advanced: Advance, duration_ms: int) -> Proof:
    """Which database is live, how to swap it back, and how to drop the previous one."""
    way = f" Swap it back: {swap_back} . Drop it: {drop} ." if names.kept else ""
    count = len(advanced.steps)
    moved = f" {count} sequence{' was' if count == 1 else 's were'} set as far as the replaced one's." if count else ""
    if advanced.left:
        moved += f" Behind those values, and may return used keys again: {', '.join(advanced.left)}."
    kept = f" The previous database is kept as {names.kept}.{way}" if names.kept else " There was no previous database."
    return Proof(
        SWAPPED_PROOF,
        TITLES[SWAPPED_PROOF],
        "pass",
        expected={"live": names.incoming},
        observed={"live": names.incoming, "kept": names.kept},
        detail=f"{names.incoming} is now {names.live}.{moved}{kept}",
        duration_ms=duration_ms,
    )


def planned() -> list[Proof]:
    """The proofs of check mode, which swaps nothing."""
    return [
        Proof(name, title, "skipped", detail="Planned; check mode swaps nothing.") for name, title in TITLES.items()
    ]
