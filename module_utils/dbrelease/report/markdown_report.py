"""The evidence as Markdown that is readable as plain text; data can neither break its form nor become HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..core.markdown import block, code, duration, table, text
from ..observe.cost import cost_rows
from .model import Model
from .next_actions import no_way_back
from .problems import open_points_of, warnings_of

SAMPLE_ROWS = 5
MARKS = {"pass": "✔", "proved": "✔", "passed": "✔", "fail": "✘", "failed": "✘", "refused": "✘", "interrupted": "✘"}
CHECKLIST_WORDS = {
    "proved": "proved",
    "failed": "FAILED",
    "inconclusive": "inconclusive",
    "not_seen": "not checked in this run",
}
OUTCOME_WORDS = {
    "deployed": "DEPLOYED",
    "already_deployed": "DEPLOYED ALREADY",
    "rolled_back": "ROLLED BACK",
    "restored": "RESTORED",
    "failed": "FAILED",
    "refused": "REFUSED",
    "planned": "PLANNED",
}


def as_markdown(model: Model) -> str:
    """The whole report, the verdict first."""
    parts = (
        _verdict,
        _open,
        _way_back,
        _checklist,
        _timeline,
        _monitoring,
        _rehearsal,
        _cost,
        _migration,
        _backup,
        _baseline,
        _checks,
        _files,
    )
    return "\n".join(line for part in parts for line in (*part(model), "")).rstrip() + "\n"


def _verdict(model: Model) -> Iterator[str]:
    run, release, counts = model["run"], model["release"], model["counts"]
    requested = ", ".join(model["asked"]) + (", or a plan (check mode)" if run["check_mode"] else "")
    yield f"# {OUTCOME_WORDS[model['outcome']]}: {text(release['title'])}"
    yield ""
    yield f"**{text(model['headline'])}**"
    revisions = f"{release['from_revision']} -> {release['to_revision']}" if release["to_revision"] else "none"
    earlier = model["deployed_earlier"]
    rows = [
        (
            "Outcome",
            f"{model['outcome']} ({'as' if model['succeeded'] else 'not what was'} requested: {text(requested)})",
        ),
        ("Environment", text(run["environment"])),
        ("Release, revisions", f"{text(release['name'])}, {text(revisions)}"),
        ("Run, playbook", f"{text(run['run_id'])}, {text(run['playbook'])}"),
        ("Began, ended", f"{text(model['started_at'])}, {text(model['ended_at'])} ({duration(model['duration_ms'])})"),
        (
            "Claims",
            f"{counts['pass']} passed, {counts['fail']} failed, "
            f"{counts['inconclusive']} inconclusive, {counts['skipped']} skipped",
        ),
        *([("Deployed before", f"{text(earlier['at'])} by run {text(earlier['run_id'])}")] if earlier else ()),
    ]
    yield from table(("", ""), rows)


def _open(model: Model) -> Iterator[str]:
    points, warnings = open_points_of(model), warnings_of(model)
    if not points and not warnings:
        return
    yield "## Open"
    yield ""
    for warning in warnings:
        yield f"- **Warning:** {text(warning)}"
    for point in points:
        yield f"- {text(point['sentence'])} {text(point['remedy'])}"


def _way_back(model: Model) -> Iterator[str]:
    if model["succeeded"] and not model["ways_back"]:
        return
    yield "## The way back"
    if not model["ways_back"]:
        yield ""
        yield no_way_back(model)
    for way in model["ways_back"]:
        yield ""
        yield f"{text(way['title'])}:"
        yield from block(way["command"], "sh")


def _checklist(model: Model) -> Iterator[str]:
    yield "## Checklist"
    if not model["checklist"]:
        yield ""
        yield "The release declares no checklist."
    for section in dict.fromkeys(item["section"] for item in model["checklist"]):
        yield ""
        yield f"### {text(section)}"
        rows = [
            (
                f"{MARKS.get(item['status'], '·')} {CHECKLIST_WORDS[item['status']]}",
                text(item["item"]),
                ", ".join(code(name) for name in item["proofs"] or item["patterns"]),
            )
            for item in model["checklist"]
            if item["section"] == section
        ]
        yield from table(("Verdict", "Item", "Proof"), rows)


def _timeline(model: Model) -> Iterator[str]:
    yield "## Timeline"
    if not model["stages"]:
        yield ""
        yield "No step of this run is in the journal."
        return
    rows = [
        (
            text(stage["step"]),
            f"{MARKS.get(stage['status'], '·')} {stage['status']}",
            text(stage["started_at"]),
            duration(stage["duration_ms"]),
            text(stage["message"]),
        )
        for stage in model["stages"]
    ]
    yield from table(("Step", "Status", "Began", "Took", "Message"), rows)


def _listed(title: str, facts: Mapping[str, Any] | None, names: Mapping[str, str]) -> Iterator[str]:
    """A section of `name: value` lines; nothing where there are no facts."""
    if facts is None:
        return
    yield f"## {title}"
    yield ""
    if all(facts[key] is None for key in names):
        yield "Its step ended without reporting this."
    for key, label in names.items():
        if facts[key] is not None:
            yield f"- {label}: {duration(facts[key]) if key == 'duration_ms' else code(facts[key])}"


def _monitoring(model: Model) -> Iterator[str]:
    if model["monitoring"] is not None:
        yield from monitoring(model["monitoring"])


def _migration(model: Model) -> Iterator[str]:
    names = {
        "from_revision": "From",
        "to_revision": "To",
        "duration_ms": "Took",
        "attempts": "Attempts",
        "preview": "Preview of the SQL",
        "log": "Log",
    }
    yield from _listed("Migration", model["migration"], names)
    for wait in (model["migration"] or {}).get("lock_waits", ()):
        yield f"- Waited for a lock: {code(wait)}"
    for session in (model["migration"] or {}).get("ended_sessions", ()):
        yield f"- Ended a session that blocked: {code(session)}"
    for step in (model["migration"] or {}).get("finalize", ()):
        done = "done" if step["changed"] else "nothing to do"
        yield f"- Afterwards {code(step['name'])}: {done}, {duration(step['duration_ms'])}"


def _rehearsal(model: Model) -> Iterator[str]:
    if not model["rehearsal"]:
        return
    yield "## Advice on the migration"
    yield ""
    yield "A linter reads the text of its statements. It decides nothing: the claims have what was observed."
    yield ""
    yield from (f"- {text(sentence)}" for sentence in model["rehearsal"]["advice"])


def _cost(model: Model) -> Iterator[str]:
    cost = model["cost"]
    if not cost:
        return
    yield "## Forecast and actual"
    rows = [tuple(map(text, row)) for row in cost_rows(cost["forecast"], cost["actual"])]
    yield from table(("What the migration cost others", "Forecast of the rehearsal", "Actual"), rows)
    yield ""
    yield from (f"- {text(sentence)}" for sentence in cost["sentences"])


def _backup(model: Model) -> Iterator[str]:
    names = {
        "path": "File",
        "sha256": "sha256",
        "bytes": "Bytes",
        "decoded": "Decoded in full",
        "duration_ms": "Took",
        "tool_version": "Tool",
        "server_version": "Server",
    }
    yield from _listed("Backup", model["backup"], names)


def _baseline(model: Model) -> Iterator[str]:
    baseline = model["baseline"]
    if baseline is None:
        return
    names = {"taken_at": "Taken at", "server_version": "Server", "revision": "Revision"}
    yield from _listed("Before the release", baseline, names)
    rows = [(code(table["table"]), text(table["rows"]), code(table["fingerprint"])) for table in baseline["tables"]]
    yield from table(("Table", "Rows", "Fingerprint"), rows)
    for observation in baseline["observations"]:
        yield ""
        yield f"### {text(observation['title'])}"
        yield from _rows(observation["rows"] or [])
        yield from block(observation["sql"] or "", "sql")


def _rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if rows:
        columns = list(rows[0])
        shown = [[code(row.get(column)) for column in columns] for row in rows[:SAMPLE_ROWS]]
        yield from table([text(column) for column in columns], shown)
    if len(rows) > SAMPLE_ROWS:
        yield ""
        yield f"{len(rows) - SAMPLE_ROWS} more in evidence.json."


def _checks(model: Model) -> Iterator[str]:
    yield "## Claims"
    if not model["proofs"]:
        yield ""
        yield "This run ended before it checked any claim."
    for step in dict.fromkeys(proof["step"] for proof in model["proofs"]):
        yield ""
        yield f"### {text(step)}"
        for proof in model["proofs"]:
            if proof["step"] == step:
                yield from _claim(proof)


def _claim(proof: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"#### {MARKS.get(proof['status'], '·')} {text(proof['title'])} ({proof['status']})"
    yield ""
    yield f"- Name: {code(proof['name'])}{', ' + duration(proof['duration_ms']) if proof['duration_ms'] else ''}"
    for label, value in (("Expected", proof["expected"]), ("Observed", proof["observed"])):
        if value is not None:
            yield f"- {label}: {code(value)}"
    for label, value in (("Detail", proof["detail"]), ("What to do", proof["remedy"])):
        if value:
            yield f"- {label}: {text(value)}"
    yield from _rows(proof["sample"])
    if proof["sql"]:
        yield from block(proof["sql"], "sql")


def _files(model: Model) -> Iterator[str]:
    if not model["files"]:
        return
    yield "## Files on the target"
    yield ""
    for file in model["files"]:
        yield f"- {text(file['what'])}: {code(file['path'])}"


QUIET_SHOWN = 20  # of the samples without a finding, the newest
HEAD = ("When", "Verdict", "Errors", "Slowest p95", "Connections", "Drift", "Queue", "Findings")
Sample = Mapping[str, Any]


def monitoring(watched: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the section; every sample with a finding has a row."""
    window, earlier, own = watched["window"], watched["earlier"], watched["samples"]
    yield "## Monitoring"
    yield ""
    if earlier:
        yield f"- In other runs since the release was deployed: {_counted(earlier)}"
    yield f"- In this run: {_counted(own) if own else 'no sample was taken'}"
    if window:
        yield (
            f"- Requested window: {window['seconds']} s from {text(window['started_at'])}. "
            f"{window['watched_seconds']} s were watched, with a sample about every {window['interval_seconds']} s "
            f"({window['samples']} in total), at most {window['longest_gap_seconds']} s apart"
        )
    elif own:
        yield "- The watch did not end in this run, and its window was not judged"
    samples = [*earlier, *own]
    quiet = [place for place, sample in enumerate(samples) if sample["verdict"] == "pass" and not sample["findings"]]
    left_out = set(quiet[:-QUIET_SHOWN])
    rows = [_row(sample) for place, sample in enumerate(samples) if place not in left_out]
    if rows:
        yield from table(HEAD, rows)
    if left_out:
        yield ""
        yield f"{len(left_out)} older samples that passed are in evidence.json."


def _counted(samples: Sequence[Sample]) -> str:
    verdicts = Counter(str(sample["verdict"]) for sample in samples)
    counted = ", ".join(f"{number} {text(verdict)}" for verdict, number in verdicts.items())
    return f"{len(samples)} {'sample' if len(samples) == 1 else 'samples'} ({counted})"


def _row(sample: Sample) -> list[str]:
    """A value that could not be observed is empty, which does not mean zero."""
    slowest = max(
        (one["p95"] for one in sample["latency_ms"].values() if one and one.get("p95") is not None), default=None
    )
    return [
        text(sample["taken_at"]),
        text(sample["verdict"]),
        _sum(sample["errors"]),
        duration(slowest),
        text((sample["connections"] or {}).get("total")),
        _sum(sample["drift"]),
        text(sample["queue_depth"]),
        text(" ".join(sample["findings"])),
    ]


def _sum(counts: Mapping[str, int | None] | None) -> str:
    known = [count for count in (counts or {}).values() if count is not None]
    return str(sum(known)) if known else ""
