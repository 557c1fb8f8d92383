"""What was read as JSON is of the shape that is declared, or the first difference is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.backup.manifest import read
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.json_shape import EACH, difference


@pytest.mark.parametrize(
    ("value", "shape", "reported"),
    [
        ("x", str, ""),
        (5, str, "it is not a text"),
        (5, int, ""),
        (True, int, "it is not a whole number"),
        (True, bool, ""),
        (1.5, int, "it is not a whole number"),
        (None, int, "it is not a whole number"),
        (None, (int, None), ""),
        ("x", (int, None), "it is not a whole number"),
        ([], [str], ""),
        (["a", 5], [str], "it[1] is not a text"),
        ({}, [str], "it is not a list"),
        ({"a": 5, "more": None}, {"a": int}, ""),
        ({}, {"a": int, "b": int, "c?": int}, "it lacks a, b"),
        ({"a": 5, "c": None}, {"a": int, "c?": int}, "c is not a whole number"),
        ({"a": {"b": [1]}}, {"a": {"b": [str]}}, "a.b[0] is not a text"),
        ({"x": {"n": 1}, "y": {}}, {EACH: {"n": int}}, "y lacks n"),
        ({"a": "x", "y": "x"}, {"a": str, EACH: int}, "y is not a whole number"),
        ([], {EACH: int}, "it is not an object"),
    ],
)
def test_the_first_difference_is_reported(value: Any, shape: Any, reported: str) -> None:
    assert difference(value, shape) == reported


MANIFEST = {
    "run_id": "20260102T030405Z-abcdef",
    "file": "x.dump",
    "sha256": "00",
    "bytes": 5,
    "revision": "1",
    "server_version": "15.9",
    "tool_version": "pg_dump (PostgreSQL) 15.9",
    "database_bytes": 5,
    "settings": {"owner": "o", "encoding": "UTF8", "collate": "C", "ctype": "C", "acl": None, "role_settings": {}},
    "sequences": {"public.s": {"last_value": 1, "increment": 1}},
    "tables": {"public.t": {"rows": 1, "fingerprint": "9", "columns": ["a"]}},
    "decoded": {"sha256": "00"},
    "restored": None,
}


@pytest.mark.parametrize(
    ("key", "value", "reported"),
    [
        ("settings", None, "settings is not an object"),
        ("settings", [], "settings is not an object"),
        ("settings", {}, "settings lacks owner, encoding, collate, ctype"),
        ("settings", {**MANIFEST["settings"], "acl": "x"}, "settings.acl is not a list"),  # type: ignore[dict-item]
        ("tables", [], "tables is not an object"),
        ("tables", {"public.t": None}, "tables.public.t is not an object"),
        ("tables", {"public.t": {"rows": 1, "fingerprint": "9"}}, "tables.public.t lacks columns"),
        ("sha256", 5, "sha256 is not a text"),
        ("bytes", "x", "bytes is not a whole number"),
        ("server_version", None, "server_version is not a text"),
        ("server_version", 15, "server_version is not a text"),
        ("tool_version", None, "tool_version is not a text"),
        ("sequences", [], "sequences is not an object"),
        ("sequences", {"public.s": {}}, "sequences.public.s lacks last_value, increment"),
        ("decoded", "x", "decoded is not an object"),
        ("restored", "x", "restored is not an object"),
        ("database_bytes", "x", "database_bytes is not a whole number"),
        ("snapshot_at", 5, "snapshot_at is not a text"),
        ("revision", None, "revision is not a text"),
        ("file", None, "file is not a text"),
    ],
)
def test_a_manifest_with_an_odd_value_is_refused_in_one_sentence(
    tmp_path: Path, key: str, value: Any, reported: str
) -> None:
    path = tmp_path / "x.manifest.json"
    path.write_text(json.dumps(MANIFEST))
    assert read(path) == MANIFEST
    path.write_text(json.dumps({**MANIFEST, key: value}))
    with pytest.raises(ReleaseError) as raised:
        read(path)
    assert raised.value.message == f"Reading the manifest {path} failed ({reported}): use another backup."
