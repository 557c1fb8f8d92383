# What is used here of jsonschema, which ships no types.
from collections.abc import Iterator, Sequence
from typing import Any

class FormatChecker:
    def __init__(self, formats: Sequence[str] | None = ...) -> None: ...

class ValidationError(Exception):
    message: str
    validator: str | None
    validator_value: Any
    instance: Any
    schema: Any
    absolute_path: Sequence[str | int]
    absolute_schema_path: Sequence[str | int]
    def __init__(self, message: str) -> None: ...

class Draft202012Validator:
    def __init__(self, schema: Any, *, registry: Any = ..., format_checker: FormatChecker | None = ...) -> None: ...
    def iter_errors(self, instance: Any) -> Iterator[ValidationError]: ...
    def validate(self, instance: Any) -> None: ...
    def is_valid(self, instance: Any) -> bool: ...
    @classmethod
    def check_schema(cls, schema: Any) -> None: ...
