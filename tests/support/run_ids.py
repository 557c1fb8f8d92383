"""Run ids that no other worker of the tests has, and no other checkout: the programs of a run are ended by its id.

They are looked for on the whole machine and on the whole server. The name of a parametrized test has no such id in it:
the workers would not agree on it.
"""

from __future__ import annotations

import secrets


def run_id(begun: str = "20260102T030405Z") -> str:
    """Of a run that began then."""
    return f"{begun}-{secrets.token_hex(3)}"


RUN_ID = run_id()  # that of the fixture `run_parameters`
