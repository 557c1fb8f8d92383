"""Text from elsewhere as text that can be shown: nothing in it moves a cursor, turns a line round, or hides."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

# None of these is a sign: controls, formats (of direction, tags), surrogates and separators of lines.
UNSEEN_CLASSES = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Signs and marks that a terminal may ignore (Default_Ignorable_Code_Point), and a blank that is called a sign.
IGNORABLE = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2065, 0x2065),
    (0x2800, 0x2800),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0xE0000, 0xE0FFF),
)
LINE_ENDS = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")
PLAIN = re.compile(r"[ -~]*")


def printable(text: str, *, lines: bool = False) -> str:
    """The text with every invisible character written out: an escape character becomes `\\x1b`.

    It is one line, in which line ends and tabs become blanks; with `lines` it keeps its lines and its tabs. Applying it
    twice changes nothing more.
    """
    if PLAIN.fullmatch(text):
        return text
    text = LINE_ENDS.sub("\n" if lines else " ", text)
    return "".join(_seen(character, lines) for character in text)


def printable_parts(value: Any) -> Any:
    """The same for every text in a JSON value, keys too; each keeps its lines."""
    if isinstance(value, str):
        return printable(value, lines=True)
    if isinstance(value, Mapping):
        return {printable_parts(key): printable_parts(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [printable_parts(part) for part in value]
    return value


def is_printable(text: str) -> bool:
    """Whether the text is one line in which every character is visible."""
    return printable(text) == text


def unseen(character: str) -> bool:
    """Whether a character is invisible in its place."""
    ignorable = any(first <= ord(character) <= last for first, last in IGNORABLE)
    return ignorable or unicodedata.category(character) in UNSEEN_CLASSES


def _seen(character: str, lines: bool) -> str:
    code = ord(character)
    if character in "\n\t":
        return character if lines else " "
    if not unseen(character):
        return character
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
