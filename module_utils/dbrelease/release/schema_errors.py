"""Turn the errors of a JSON Schema into sentences that a reader of the document understands.

In our schemas `title` names a value in a sentence: "expected <title>, found ...".
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema.validators
import referencing
import referencing.exceptions

from ..core.errors import ReleaseError
from .yaml_reader import Problem

SHOWN_CHARACTERS = 60
Key = Sequence[str | int]


class Schemas:
    """The published schemas of a folder."""

    def __init__(self, folder: Path) -> None:
        """Read them all; raises ReleaseError."""
        try:
            files = sorted(folder.glob("*.schema.json"))
            contents = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in files}
            self._registry: Any = referencing.Registry().with_contents(contents.items())
        except (OSError, ValueError, referencing.exceptions.CannotDetermineSpecification) as error:
            raise ReleaseError(f"Reading the schemas in {folder} failed ({error}): restore the folder.") from error
        self._folder = folder
        self._contents = contents

    def problems(self, name: str, document: Any, shown: str) -> list[Problem]:
        """All errors of a document by the schema `name`, in the order of its keys."""
        if name not in self._contents:
            raise ReleaseError(f"Reading the schema {self._folder / name} failed (it is missing): restore the folder.")
        return self.problems_of(document, self._contents[name], shown)

    def problems_of(self, document: Any, schema: Mapping[str, Any], shown: str) -> list[Problem]:
        """All errors of a document, or of a part of one, by a schema."""
        validator = _Validator(
            schema,
            registry=self._registry,
            format_checker=jsonschema.FormatChecker(["regex"]),
        )
        errors = sorted(validator.iter_errors(document), key=lambda error: [str(part) for part in error.absolute_path])
        return [
            Problem(shown, key_text(document, key), expected, found)
            for error in errors
            for key, expected, found in self._readings(error)
        ]

    def _readings(self, error: jsonschema.ValidationError) -> Iterator[tuple[Key, str, str]]:
        """Key, expectation and finding of one error; `required` reports one missing key per error."""
        path, schema, value = list(error.absolute_path), error.schema, error.instance
        if "propertyNames" in error.absolute_schema_path:
            yield path, f"as each key {expectation(schema)}", found_text(value)
        elif error.validator == "additionalProperties":
            known = list(schema.get("properties", {}))
            for extra in (key for key in value if key not in known):
                yield [*path, extra], f"one of {', '.join(known)}", f"an unknown key{suggestion(extra, known)}"
        elif error.validator == "required":
            for missing in (key for key in error.validator_value if error.message.startswith(repr(key))):
                yield [*path, missing], expectation(self._property(schema, missing)), "nothing"
        elif error.validator == "oneOf":
            names = [name for choice in error.validator_value for name in choice["required"]]
            given = [name for name in names if name in value]
            yield path, f"exactly one of {', '.join(names)}", " and ".join(given) or "none of them"
        elif error.validator == "dependentRequired":
            for key, needed in error.validator_value.items():
                for missing in (name for name in needed if key in value and name not in value):
                    yield [*path, key], f"{missing} beside it", "none"
        elif error.validator in COUNTED:
            word = COUNTED[error.validator].format(error.validator_value)
            yield path, f"{expectation(schema)}, {word}", found_text(value)
        else:
            yield path, expectation(schema), found_text(value, quote_numbers=takes_text_alone(schema))

    def _property(self, schema: dict[str, Any], name: str) -> dict[str, Any]:
        """The schema of a property, its reference followed."""
        return self.followed(schema.get("properties", {}).get(name, {}))

    def content(self, name: str) -> dict[str, Any]:
        """The schema of that name, which exists."""
        found: dict[str, Any] = self._contents[name]
        return found

    def followed(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """A schema, its reference followed; its own title says more than that of the reference."""
        seen: Any = found
        for _ in range(3):
            if "$ref" not in seen:
                break
            address, _, pointer = seen["$ref"].partition("#")
            for base in [address] if address else list(self._contents):
                try:
                    seen = self._registry.resolver(base).lookup(f"#{pointer}").contents
                    break
                except referencing.exceptions.Unresolvable:
                    continue
        return {**seen, **found} if "title" in found else seen


def _ecma_pattern(_validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[jsonschema.ValidationError]:
    """Match as JSON Schema defines it: `$` is the very end; in Python it also matches before a last line break."""
    if isinstance(value, str) and not re.search(ENDS.sub(_very_end, pattern), value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


# A `$` that means the end: neither escaped nor in brackets.
ENDS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\$", re.DOTALL)


def _very_end(found: re.Match[str]) -> str:
    return r"\Z" if found[0] == "$" else found[0]


_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _ecma_pattern})

COUNTED = {
    "maxLength": "of at most {} characters",
    "minItems": "with at least {} item",
    "minProperties": "with at least {} key",
    "uniqueItems": "each item once",
}


def takes_text_alone(schema: dict[str, Any]) -> bool:
    """Whether a number must be put in quotes."""
    return "string" in types_of(schema) and "integer" not in types_of(schema)


def types_of(schema: dict[str, Any]) -> list[str]:
    """The types that a schema allows."""
    types = schema.get("type", [])
    return [types] if isinstance(types, str) else list(types)


def expectation(schema: dict[str, Any]) -> str:
    """What a schema expects, in words."""
    if "title" in schema:
        return str(schema["title"])
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    kind = (types_of(schema) or ["value"])[0]
    words = {
        "boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "text",
        "array": "a list", "object": "a mapping", "value": "a value",
    }[kind]  # fmt: skip
    if "minimum" in schema and "maximum" in schema:
        words += f" from {schema['minimum']} to {schema['maximum']}"
    return words


def found_text(value: Any, *, quote_numbers: bool = False) -> str:
    """What was found, short enough for a sentence."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = " ".join((value if isinstance(value, str) else json.dumps(value, default=str)).split())
    # A message is one line, without characters that move the cursor or reverse the text.
    text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text[: SHOWN_CHARACTERS + 1])
    short = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
    if isinstance(value, str):
        return f"`{short}`" if short else "empty text"
    kind = "true or false" if isinstance(value, bool) else "a number" if isinstance(value, int | float) else "a date"
    return f"{short} ({kind}; put it in quotes)" if quote_numbers else short


def suggestion(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)` where a known name is close."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""


def key_text(document: Any, path: Key) -> str:
    """`migration.lock.timeout_ms`; an item of a list by its name where it has one: `checks[no_orphan].violations`."""
    text = ""
    value = document
    for part in path:
        if isinstance(part, int):
            value = value[part]
            name = value.get("name") if isinstance(value, dict) else None
            text += f"[{name if isinstance(name, str) and name else part}]"
        else:
            text += f".{part}" if text else str(part)
            value = value.get(part) if isinstance(value, dict) else None
    return text
