"""What a target answers is data: of a module's answer only what its RETURN declares is kept, in plain values, bounded.

For the controller. Ansible acts on many keys of a result (`ansible_facts`, `results`, `unreachable`, ...), and a target
may send any.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ReleaseError
from .plain_text import printable

MIB = 1024 * 1024
BYTES_AT_MOST = 64 * MIB
DEPTH_AT_MOST = 64  # Ansible copies results by recursion, in the process that all targets share
VALUES_AT_MOST = 500_000
WARNINGS_AT_MOST, WARNING_LENGTH, TRACE_LENGTH = 50, 2_000, 20_000
ALWAYS = {"changed": "bool", "failed": "bool", "msg": "str", "refused": "bool", "diff": "raw", "invocation": "dict"}
# What the errors of shared code carry, in whichever module they are raised.
ON_FAILURE = {
    **{"sqlstate": "str", "table": "str", "observation": "str"},
    **{"attempts": "int", "rows_lost": "int", "could_not_run": "bool"},
    **{"lock_waits": "list", "ended_sessions": "list", "revisions": "list", "proofs": "list"},
}
# Of an answer that is no JSON, Ansible itself makes this.
UNREADABLE = {"module_stdout": "str", "module_stderr": "str", "rc": "raw"}
TEXT_TYPES = ("str", "path")
TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(TEXT_TYPES, str),
    "bool": bool,
    "int": int,
    "float": (int, float),
    "list": list,
    "dict": dict,
}
Declared = Mapping[str, str]


def declared(module: Path) -> dict[str, str]:
    """The type of each key that the RETURN of a module's file declares."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for statement in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "RETURN":
            keys = yaml.load(ast.literal_eval(statement.value), Loader=loader)  # noqa: S506 - either is a safe one
            return {name: about["type"] for name, about in keys.items()}
    raise ValueError(f"{module} declares no RETURN.")


def shown(text: str) -> str:
    """A text in which every invisible character is written out."""
    return printable(text, lines=True)


def keep(answer: Mapping[str, Any], keys: Declared, what: str) -> dict[str, Any]:
    """The declared part of an answer; ReleaseError where a value has another type, or the answer exceeds a limit."""
    plain = _Plain(what)
    own = answer.get("_ansible_parsed") is False  # Ansible sets it, whatever the target sends
    failed = answer.get("failed") is not False and "failed" in answer
    types = {**(ON_FAILURE if failed else {}), **keys, **ALWAYS, **(UNREADABLE if own else {})}
    kept: dict[str, Any] = {}
    for key, kind in types.items():
        if key in answer:
            kept[key] = plain.value(answer[key])
            _typed(kept[key], kind, key, what)
    for key, value in kept.items():
        if isinstance(value, str) and types[key] == "str":
            kept[key] = shown(value) if key not in UNREADABLE else shown(value)[:TRACE_LENGTH]
    if isinstance(warnings := answer.get("warnings"), list):
        kept["warnings"] = [_message(warning)[:WARNING_LENGTH] for warning in warnings[:WARNINGS_AT_MOST]]
    if answer.get("exception"):
        kept["exception"] = _exception(answer["exception"])
    if "_ansible_parsed" in answer:
        kept["_ansible_parsed"] = not own
    return kept


def _typed(value: Any, kind: str, key: str, what: str) -> None:
    wanted = TYPES.get(kind)
    as_number = isinstance(value, bool) and kind in ("int", "float")
    if wanted and not (value is None and kind != "bool") and (as_number or not isinstance(value, wanted)):
        raise untrusted(what, f"its {key} is not of the type {kind}")


def untrusted(what: str, why: str) -> ReleaseError:
    """The sentence for an answer that is not used."""
    return ReleaseError(
        f"The answer of {what} was refused ({why}), and none of it was used: find out what runs in place of the "
        "target's Python there, and rerun the playbook.",
        refused=True,
    )


class _Plain:
    """Copies to plain JSON, so that no tag and no class of Ansible's comes from a target; counts what it copies."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.left = VALUES_AT_MOST

    def value(self, value: Any, depth: int = 0) -> Any:
        self.left -= 1
        if self.left < 0:
            raise untrusted(self.what, f"it holds more than {VALUES_AT_MOST} values")
        if depth > DEPTH_AT_MOST:
            raise untrusted(self.what, f"it is nested more than {DEPTH_AT_MOST} levels deep")
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _text(value)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value)
        if isinstance(value, dict):
            return {_text(str(key)): self.value(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set):
            return [self.value(item, depth + 1) for item in value]
        return _text(str(value))


def _text(value: str) -> str:
    """A lone surrogate cannot be written anywhere."""
    plain = str(value)
    return plain if plain.isascii() else plain.encode("utf-8", "replace").decode("utf-8")


def _message(warning: Any) -> str:
    """Of a text, or of one of Ansible's summaries."""
    return shown(_text(str(getattr(getattr(warning, "event", None), "msg", warning))))


def _exception(exception: Any) -> Any:
    """Of what was raised, its message and where; as Ansible's own summary where it is one."""
    event = getattr(exception, "event", None)
    if event is None or not dataclasses.is_dataclass(exception) or isinstance(exception, type):
        return shown(_text(str(exception)))[:TRACE_LENGTH]
    trace = getattr(event, "formatted_traceback", None)
    plain = type(event)(
        msg=shown(_text(str(event.msg)))[:TRACE_LENGTH],
        formatted_traceback=shown(_text(trace))[:TRACE_LENGTH] if isinstance(trace, str) else None,
    )
    return dataclasses.replace(exception, event=plain)
