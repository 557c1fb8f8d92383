"""What a linter of SQL finds of the corpus alone; docs/testing.md has the figures beside those of the rehearsal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.dbrelease.rehearsal.squawk import Advice, squawk

ROOT = Path(__file__).parents[2]
CORPUS: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "corpus.yml").read_text())
SENTENCE = (
    "{version} warns of {hazards} of the {all} hazards and of {twins} of the {all} twins. It has a rule for the hazard "
    "that it does not have for the twin in {told_apart} cases."
)


def advice(transactions: list[str]) -> Advice:
    alone = ("alone ", "BEGIN")
    texts = [text if text.startswith(alone) else f"BEGIN; {text}; COMMIT" for text in transactions]
    sql = ";\n".join(text.removeprefix("alone ") for text in texts) + ";"
    found = squawk(sql.replace("WORK", "SELECT pg_sleep(0.6)").replace("SPARE", "spare"))
    assert not found.reason, f"It is in the lock file, so that `make` installs it: {found.reason}"
    return found


def test_the_documentation_has_the_figures() -> None:
    hazards, twins = ([advice(case[which]) for case in CORPUS] for which in ("hazard", "twin"))
    rules = [[{one.rule for one in found.warned} for found in side] for side in (hazards, twins)]
    sentence = SENTENCE.format(
        version=hazards[0].version,
        hazards=sum(map(bool, rules[0])),
        all=len(CORPUS),
        twins=sum(map(bool, rules[1])),
        told_apart=sum(not hazard <= twin for hazard, twin in zip(*rules, strict=True)),
    )
    assert sentence in " ".join((ROOT / "docs" / "testing.md").read_text().split())
