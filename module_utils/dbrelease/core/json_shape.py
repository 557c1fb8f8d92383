"""Compare JSON that was read with its schema, which is declared as data; describe the first difference.

A shape is a type, or None for null; a list with one shape, for a list of such; a tuple of shapes, for any one of them;
or a mapping by key, with `?` behind an optional key, and EACH for every key that is not named. Other keys of an object
are not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Shape = Any
EACH = "*"
WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    None: "null",
}


def fits(value: Any, shape: Shape) -> bool:
    """Whether it is of that shape."""
    return not difference(value, shape)


def difference(value: Any, shape: Shape, name: str = "it") -> str:
    """`tables.orders is not an object`, `settings lacks owner`; empty where it fits."""
    return next(_differences(value, shape, name), "")


def _differences(value: Any, shape: Shape, name: str) -> Iterator[str]:
    if isinstance(shape, tuple):
        differences = [difference(value, one, name) for one in shape]
        if "" not in differences:
            yield differences[0]
    elif isinstance(shape, list) and isinstance(value, list):
        for place, one in enumerate(value):
            yield from _differences(one, shape[0], f"{name}[{place}]")
    elif isinstance(shape, Mapping) and isinstance(value, dict):
        yield from _in_object(value, shape, name)
    elif not _is_a(value, shape):
        yield f"{name} is not {WORDS[_kind(shape)]}"


def _in_object(value: dict[str, Any], shape: Mapping[str, Shape], name: str) -> Iterator[str]:
    named = {key.removesuffix("?"): one for key, one in shape.items() if key != EACH}
    if lacking := [key for key in shape if key != EACH and not key.endswith("?") and key not in value]:
        yield f"{name} lacks {', '.join(lacking)}"
    for key, one in value.items():
        if key in named or EACH in shape:
            yield from _differences(one, named.get(key, shape.get(EACH)), f"{name}.{key}" if name != "it" else key)


def _kind(shape: Shape) -> Any:
    return next((kind for kind in (list, dict) if isinstance(shape, kind)), shape)


def _is_a(value: Any, shape: Shape) -> bool:
    if shape is None:
        return value is None
    # A list or an object came here because it is none.
    return isinstance(shape, type) and isinstance(value, shape) and (shape is bool or not isinstance(value, bool))
