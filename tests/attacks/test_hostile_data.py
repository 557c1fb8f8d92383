"""Data of a database, a log or a target that tries to reach the terminal, or the eye, of whoever reads a message."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.display import cleaned, json_text, result_for_people, sentence_for_people
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.core.plain_text import is_printable, printable, printable_parts
from ansible.module_utils.dbrelease.report.files import RENDERERS
from ansible.module_utils.dbrelease.report.model import build
from ansible.module_utils.dbrelease.report.notify import message_of, payload_of
from ansible.module_utils.dbrelease.report.notify_send import letter
from ansible.module_utils.dbrelease.report.page import page_of

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = [
    ("a colour", "\x1b[31mred", r"\x1b[31mred"),
    ("the title of the window", "\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
    ("a C1 control", "\x9b2J", r"\x9b2J"),
    ("backspaces", "drop\x08\x08\x08\x08keep", r"drop\x08\x08\x08\x08keep"),
    ("a delete", "a\x7fb", r"a\x7fb"),
    ("a NUL", "a\x00b", r"a\x00b"),
    ("a line turned round", "\u202egnirts\u202c", r"\u202egnirts\u202c"),
    ("an isolate", "\u2066a\u2069\u2067\u2068", r"\u2066a\u2069\u2067\u2068"),
    ("marks of direction", "\u200e\u200f\u061c", r"\u200e\u200f\u061c"),
    ("no width", "pub\u200blic\u200c\u200d\u2060", r"pub\u200blic\u200c\u200d\u2060"),
    ("a byte order mark", "\ufeffpublic", r"\ufeffpublic"),
    ("tags", "a\U000e0041\U000e007f", r"a\U000e0041\U000e007f"),
    ("variation selectors", "a\ufe0f\U000e0100", r"a\ufe0f\U000e0100"),
    ("a filler", "\u3164\u115f\uffa0", r"\u3164\u115f\uffa0"),
    ("a lone surrogate", "a\udc80b\ud83d", r"a\udc80b\ud83d"),
    ("a soft hyphen", "ad\xadmin", r"ad\xadmin"),
]
LINE_ENDS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize(("hostile", "shown"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_what_is_not_seen_is_written_out(hostile: str, shown: str) -> None:
    for lines in (False, True):
        assert printable(hostile, lines=lines) == shown
        assert printable(shown, lines=lines) == shown
    assert not is_printable(hostile)


@pytest.mark.parametrize("end", LINE_ENDS, ids=ascii)
def test_a_line_stays_one_line(end: str) -> None:
    assert printable(f"a{end}b\tc") == "a b c"
    assert printable(f"a{end}b\tc", lines=True) == "a\nb\tc"


def test_what_people_write_stays_as_it_is() -> None:
    text = "Zeichnungen für Bücher, 図面, чертежи, رسومات, a\N{COMBINING ACUTE ACCENT}, 100 %, `it's` \\ ✔ 🙂\xa0€"
    assert printable(text) == text and is_printable(text)
    assert printable_parts({"k\x1b": ["\x1b", 1, None, {"a": "x\ny"}]}) == {r"k\x1b": [r"\x1b", 1, None, {"a": "x\ny"}]}


EVERYTHING = "".join(row[1] for row in HOSTILE) + "\u2028[ok]\r\n\x85"
HOSTILE_NAME = f'public."{EVERYTHING}"'


def seen(text: str) -> bool:
    """Whether nothing in a text of lines is unseen."""
    return printable(text, lines=True) == text


def hostile_proof(status: str) -> dict[str, Any]:
    return {
        **{"name": "verify.rows", "title": f"Rows of {HOSTILE_NAME}", "status": status, "duration_ms": 1},
        **{"expected": {HOSTILE_NAME: HOSTILE_NAME}, "observed": [HOSTILE_NAME], "detail": HOSTILE_NAME},
        **{"remedy": HOSTILE_NAME, "sql": HOSTILE_NAME, "sample": [{HOSTILE_NAME: HOSTILE_NAME}]},
    }


@pytest.fixture
def model(run_parameters: dict[str, Any]) -> dict[str, Any]:
    """The evidence of a run whose journal is full of it."""
    journal = Journal(Run(**run_parameters))
    journal.append("run", "started", {"asked": ["deployed"]})
    journal.append("verify", "started")
    journal.append("verify", "failed", {"message": HOSTILE_NAME, "proofs": [hostile_proof("fail")]})
    journal.append("playbook", "failed", {"task": HOSTILE_NAME, "message": HOSTILE_NAME})
    built = build(journal.run, {"title": "A sample"}, journal.read(), asked=["deployed"])
    return dict(built)


@pytest.mark.parametrize("name", [*RENDERERS, "report.html"])
def test_no_report_shows_what_is_not_seen(model: dict[str, Any], name: str) -> None:
    page = page_of(model, ROOT / "roles/report/templates") if name == "report.html" else RENDERERS[name](model)  # type: ignore[arg-type]
    assert "x1b[31mred" in page
    assert seen(page)
    assert is_printable(model["headline"])


def test_no_message_to_people_does(run_parameters: dict[str, Any]) -> None:
    given = {"title": HOSTILE_NAME, "outcome": "failed", "succeeded": False, "headline": HOSTILE_NAME, "report": "r"}
    message = message_of("failure", Run(**{**run_parameters, "environment": HOSTILE_NAME}), given)
    mail = letter(message, "a@example.org", ["b@example.org"])
    payloads = [payload_of(message, kind) for kind in ("json", "slack", "teams")]
    assert printable_parts(payloads) == payloads
    assert is_printable(message.subject) and is_printable(message.headline) and is_printable(mail["Subject"])
    assert seen(mail.get_content())


def test_no_result_of_a_module_does() -> None:
    result = result_for_people(
        {
            "message": HOSTILE_NAME,
            "lock_waits": [{"application": HOSTILE_NAME, "user": HOSTILE_NAME, "query": HOSTILE_NAME}],
            "proofs": [hostile_proof("fail")],
            "diff": {"before": HOSTILE_NAME, "after": HOSTILE_NAME},
            HOSTILE_NAME: 1,
        }
    )
    assert printable_parts(result) == result
    assert is_printable(result["message"]) and is_printable(result["proofs"][0]["detail"])
    assert is_printable(sentence_for_people(HOSTILE_NAME))
    error = cleaned(ValueError(HOSTILE_NAME))
    assert seen("".join(traceback.format_exception(error)))


def test_nor_does_a_text_that_is_kept_and_it_is_read_back_as_it_was() -> None:
    kept = json_text({HOSTILE_NAME: [HOSTILE_NAME]}, indent=1)
    assert seen(kept)
    assert json.loads(kept) == {HOSTILE_NAME: [HOSTILE_NAME]}
