"""Texts that name a folder on the controller or become part of its crontab: what they may not contain."""

from __future__ import annotations

import unicodedata


def name_problem(name: str) -> str:
    """Why a text cannot be the name of a folder or a part of a crontab; empty where it can."""
    if not name or len(name) > 100:
        return "it must have 1 to 100 characters"
    if name.startswith((".", "-")):
        return "it begins with a dot or a hyphen"
    if "/" in name or "\\" in name:
        return "it holds a slash"
    return line_problem(name)


def line_problem(text: str) -> str:
    """Why a text cannot be part of one line; empty where it can."""
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text):
        return "it holds a line break or another control character"
    return ""
