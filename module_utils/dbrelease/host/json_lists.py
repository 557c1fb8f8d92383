"""Where in a JSON answer its list is, and which keys its objects have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# One answer's keys: of each item of a list, or of the object itself; None for an item that is no object.
Keys = tuple[frozenset[str] | None, ...]
MISSING = object()


def at(value: Any, place: str) -> Any:
    """The value of an answer at a key, or at a JSON pointer (RFC 6901); MISSING where there is none."""
    if place and not place.startswith("/"):
        return value.get(place, MISSING) if isinstance(value, dict) else MISSING
    for token in place.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(token, MISSING)
        elif isinstance(value, list) and token.isascii() and token.isdigit() and int(token) < len(value):
            value = value[int(token)]
        else:
            return MISSING
    return value


def keys_of_items(value: list[Any]) -> Keys:
    """The keys of each item."""
    return tuple(frozenset(item) if isinstance(item, dict) else None for item in value)


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a value, itself included, at any depth."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield one
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)


def lists_in(value: Any) -> Iterator[list[Any]]:
    """Every list in the objects of a value, at any depth."""
    for one in objects_in(value):
        yield from (item for item in one.values() if isinstance(item, list))


def keys_in_lists(value: Any) -> frozenset[str]:
    """The keys of all objects that are items of a list somewhere in a value."""
    found: set[str] = set()
    for items in lists_in(value):
        found.update(key for item in items if isinstance(item, dict) for key in item)
    return frozenset(found)
