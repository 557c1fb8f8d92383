"""A role whose password, and an address of the API whose password, must be in nothing that a run prints or writes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

from outside import STATE, Playbook, Psql

PASSWORD = "c@n/ary %42 'quoted' ü"
API_PASSWORD = "api-canary%2542"


@contextmanager
def canary(psql: Psql, folder: Path) -> Iterator[tuple[str, ...]]:
    """Arguments with which a playbook connects as that role, and prints all that it can."""
    secret = folder / "secret.yml"
    api = f"http://proxy:{API_PASSWORD}@localhost:8001"
    secret.write_text(json.dumps({"db_user": "canary", "db_password": PASSWORD, "api_base_url": api}))
    doubled = PASSWORD.replace("'", "''")
    psql.lines(f"CREATE ROLE canary SUPERUSER LOGIN PASSWORD '{doubled}'")
    try:
        yield "-vvv", "-e", f"@{secret}"
    finally:
        psql.lines("DROP ROLE canary")


def forms_in(run: Playbook) -> list[str]:
    """The forms of the two passwords that are in the run's output, or in a file on the target."""
    forms = [
        API_PASSWORD,
        unquote(API_PASSWORD),
        PASSWORD,
        quote(PASSWORD),
        quote(PASSWORD, safe=""),
        quote_plus(PASSWORD),
        json.dumps(PASSWORD)[1:-1],
        base64.b64encode(PASSWORD.encode()).decode(),
    ]
    everything = run.output + "".join(path.read_text(errors="replace") for path in STATE.rglob("*") if path.is_file())
    return [form for form in forms if form in everything]
