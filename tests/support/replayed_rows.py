"""Replays a script of saved rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def replay(session: Any, path: str) -> None:
    """What psql does with the script: the rows between COPY and `\\.` are its input."""
    head, rest = Path(path).read_text(encoding="utf-8").split("FROM STDIN;\n")
    body, tail = rest.rsplit("\n\\.\n", 1)
    statements = [line for line in head.splitlines() if not line.startswith(("--", "\\"))]
    with session.cursor() as cursor:
        cursor.execute("\n".join(statements).removesuffix("COPY lost_rows "))
        with Path(path).with_suffix(".body").open("w+", encoding="utf-8") as file:
            file.write(body + "\n")
            file.seek(0)
            cursor.copy_expert("COPY lost_rows FROM STDIN", file)
        cursor.execute(tail)
