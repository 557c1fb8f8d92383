"""Data of a database, a log or a target that tries to reach the terminal, or the eye, of whoever reads a message."""

from __future__ import annotations

import pytest
from ansible.module_utils.dbrelease.plain_text import is_printable, printable, printable_parts

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
