"""A release that is made to harm: YAML without end, files that are none, destinations anywhere, links that lead out."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import payload
import pytest
import yaml
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.host.commands import commands_in
from ansible.module_utils.dbrelease.preflight.places import read_payload
from ansible.module_utils.dbrelease.release.load import load
from ansible.module_utils.dbrelease.release.requirements import PayloadFile
from ansible.module_utils.dbrelease.release.schema_errors import Schemas

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "schemas"
SHOP = ROOT / "tests/unit/release/data/shop_7"
# What a release takes to be refused: far less than what it could stand for.
MEMORY_BYTES = 512 << 20
PATIENCE_S = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a whole release, to break."""
    shutil.copytree(SHOP, tmp_path / "releases" / "shop_7")
    return tmp_path / "releases" / "shop_7"


def refusal(folder: Path) -> str:
    """What the release is refused for, with so much memory and time for that and no more."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(PATIENCE_S)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, hard))
    try:
        with pytest.raises(ReleaseError) as caught:
            load(folder, SCHEMAS)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    assert caught.value.refused
    return caught.value.message


def _too_long(*_: Any) -> None:
    raise TimeoutError


def laughs(levels: int, each: int = 10, leaf: str = "ha") -> str:
    lines = [f"a0: &a0 [{', '.join([leaf] * each)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * each)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def merged_laughs(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


DOCUMENTS: dict[str, tuple[str, str]] = {
    "aliases of aliases": (laughs(9), "at most 50000 values, aliases followed"),
    "aliases in merge keys": (merged_laughs(9), "at most 50000 values, aliases followed"),
    "aliases of a long text": (
        f'long: &long "{"x" * 90_000}"\nlist: [{", ".join(["*long"] * 1000)}]\n',
        "at most 1 MiB of text, aliases followed",
    ),
    "a list that holds itself": ("a: &a [*a]\n", "one that contains itself"),
    "a mapping that holds itself": ("a: &a {b: *a}\n", "one that contains itself"),
    "a merge of itself": ("a: &a {<<: *a}\n", "one that contains itself"),
    "lists in lists": ("a: " + "[" * 20_000 + "]" * 20_000, "at most 40 levels"),
    "mappings in mappings": ("".join(f"{' ' * n}a:\n" for n in range(1000)), "at most 40 levels"),
    "a file of many megabytes": ("# " + "x" * (2 << 20), "which is larger than 1 MiB"),
    "many values": ("a: [" + "1," * 60_000 + "]", "at most 50000 values"),
    "a number of many digits": ("a: " + "9" * 5000, "a number of at most 30 digits"),
    "a hexadecimal number of many digits": ("a: 0x" + "f" * 500_000, "a number of at most 30 digits"),
    "a number to the base of 60": ("a: 1" + ":59" * 100_000, "a number of at most 30 digits"),
    "a duration that is a number": ("a: 1:30", "a number, or text in quotes, found 1:30"),
    "an infinite number": ("a: 1.0e+999", "a finite number"),
    "a date that there is not": ("a: 2026-13-45", "a valid date, or text in quotes"),
    "a time that there is not": ("a: 2026-01-01 99:99:99", "a valid date, or text in quotes"),
    "a tag of Python": ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    "a tag of bytes": ("a: !!binary aGE=", "a value without a tag, found !!binary"),
    "a tag of a set": ("a: !!set {x: null}", "a value without a tag, found !!set"),
    "a tag of pairs": ("a: !!omap [x: 1]", "a value without a tag, found !!omap"),
    "a key twice, far apart": ("title: a\nrelease: b\ntitle: c\n", "each key once, found `title`"),
    "thousands of problems": ("".join(f"{n}: x\n" for n in range(5000)), "a key that is text, found 49."),
    "a long name in a mistake": ("a: *" + "b" * 100_000, "found undefined alias"),
}


@pytest.mark.parametrize("file", ["release.yml", "checks.yml"])
@pytest.mark.parametrize(("text", "said"), DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_a_document_is_refused_before_it_takes_the_machine(folder: Path, file: str, text: str, said: str) -> None:
    (folder / file).write_text(text, encoding="utf-8")
    message = refusal(folder)
    assert said in message
    assert message.startswith(f"releases/shop_7/{file}: ") or f" releases/shop_7/{file}: " in message
    assert len(message) < 20_000


def test_an_alias_that_stands_for_little_is_taken(folder: Path) -> None:
    text = (folder / "release.yml").read_text(encoding="utf-8")
    assert "title: Orders have many items" in text
    text = text.replace("title: Orders have many items", "title: &title Orders have many items", 1)
    text = text.replace("title: Fill", "title: *title", 1)
    (folder / "release.yml").write_text(text, encoding="utf-8")
    loaded = load(folder, SCHEMAS)
    assert loaded["migration"]["finalize"][0]["title"] == loaded["title"] == "Orders have many items"


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a pipe that nobody writes to": (pipe, "not a regular file"),
    "a folder": (Path.mkdir, "not a regular file"),
    "a device": (link_to("/dev/zero"), "which leads out of it"),
    "a link out of the folder": (link_to("/etc/passwd"), "which leads out of it"),
    "a link to another release": (lambda path: path.symlink_to(SHOP / "release.yml"), "which leads out of it"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "form a loop"),
    "a file of many megabytes": (lambda path: path.write_bytes(b"#" * (5 << 20)), "which is larger than"),
}


@pytest.mark.parametrize("name", ["release.yml", "checks.yml", "migrations/bbb2.py", "migrations/fill.sql"])
@pytest.mark.parametrize(("make", "said"), FILES.values(), ids=FILES.keys())
def test_only_a_regular_file_of_the_folder_is_read(
    folder: Path, name: str, make: Callable[[Path], Any], said: str
) -> None:
    path = folder / name
    path.unlink()
    make(path)
    assert said in refusal(folder)


def test_a_link_inside_of_the_folder_is_copied_as_its_file(folder: Path) -> None:
    path = folder / "migrations" / "bbb2.py"
    path.rename(path.with_name("kept.py"))
    path.symlink_to("kept.py")
    (item,) = load(folder, SCHEMAS)["migration"]["payload"]
    assert item["path"] == str(path.with_name("kept.py"))


def with_destination(folder: Path, destination: Any) -> Path:
    file = folder / "release.yml"
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    document["migration"]["payload"][0]["destination"] = destination
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return folder


ELSEWHERE = [
    "/etc/cron.d/backdoor",
    "/var/spool/cron/crontabs/postgres",
    "/app/migrations",
    "/app/migrations_of_others/x.py",
    "/app/main.py",
    "/x.py",
]
CROOKED = [
    "/app/migrations/../../etc/cron.d/x",
    "/app/migrations/..",
    "/app/migrations/.",
    "/app/migrations/./x.py",
    "/app/migrations//x.py",
    "//app/migrations/x.py",
    "/app/migrations/x.py/",
    "/app/migrations/x.py\n",
    "/app/migrations/x.py\r",
    "/app/migrations/\n",
    "/app/migrations/a\nb.py",
    "/app/migrations/\x1b[31mx.py",
    "/app/migrations/\x00.py",
    "/app/migrations/\u202eyp.x",
    "/app/migrations/..\n/x.py",
    "app/migrations/x.py",
    "",
    "/",
]


@pytest.mark.parametrize("destination", [*ELSEWHERE, *CROOKED], ids=ascii)
def test_a_destination_is_below_a_folder_that_the_inventory_names(folder: Path, destination: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        load(with_destination(folder, destination), SCHEMAS, ["/app/migrations"])
    assert caught.value.refused
    assert "release.yml: migration.payload[0].destination: expected " in caught.value.message
    assert not set(caught.value.message) & set("\n\r\x00\x1b\u202e")


@pytest.mark.parametrize("destination", CROOKED, ids=ascii)
def test_a_destination_is_a_plain_path_whoever_asks(folder: Path, destination: str) -> None:
    with pytest.raises(
        ReleaseError, match=r"migration.payload\[0\].destination: expected an absolute path without \.\."
    ):
        load(with_destination(folder, destination), SCHEMAS)


def test_a_destination_below_one_of_the_folders_is_taken(folder: Path) -> None:
    release = with_destination(folder, "/srv/my app/versions/x.py")
    (item,) = load(release, SCHEMAS, ["/app/migrations", "/srv/my app"])["migration"]["payload"]
    assert item["folder"] == "/srv/my app"
    assert json.loads(json.dumps(item)) == item


def test_without_a_folder_nothing_is_put_anywhere(folder: Path) -> None:
    with pytest.raises(ReleaseError, match="payload_folders of the inventory names no folder"):
        load(folder, SCHEMAS, [])


@pytest.mark.parametrize("named", ["/", "", "app", "/app/..", "/app/", "//app", "/a\nb", "/app/./x", 7, None])
def test_a_folder_that_confines_nothing_is_refused(folder: Path, named: Any) -> None:
    with pytest.raises(ReleaseError, match="Reading payload_folders of the inventory was refused") as caught:
        load(folder, SCHEMAS, [named])
    assert caught.value.refused and "\n" not in caught.value.message


# The way to a destination, in a container or on a target: with a link in it the name says one place and means another.
def links(root: Path, kind: str) -> Path:
    """What stands at root/app/migrations; returns the destination."""
    migrations, outside = root / "app" / "migrations", root / "etc"
    migrations.mkdir(parents=True)
    outside.mkdir()
    (outside / "there.py").write_text("theirs")
    if kind == "the folder":
        (migrations / "versions").symlink_to(outside)
        return migrations / "versions" / "new.py"
    if kind == "the file":
        (migrations / "new.py").symlink_to(outside / "there.py")
    if kind == "the file, to nothing yet":
        (migrations / "new.py").symlink_to(outside / "new.py")
    if kind == "a chain":
        (migrations / "one").symlink_to("../../etc/new.py")
        (migrations / "new.py").symlink_to("one")
    if kind == "a circle":
        (migrations / "new.py").symlink_to("new.py")
    if kind == "up":
        (migrations / "new.py").symlink_to("..")
    if kind == "a name like the folder's":
        (root / "app" / "migrations_of_others").mkdir()
        (migrations / "versions").symlink_to("../migrations_of_others")
        return migrations / "versions" / "new.py"
    return migrations / "new.py"


@pytest.mark.parametrize(
    "kind",
    ["the folder", "the file", "the file, to nothing yet", "a chain", "a circle", "up", "a name like the folder's"],
)
def test_no_link_leads_a_file_out_of_its_folder(tmp_path: Path, run_parameters: dict[str, Any], kind: str) -> None:
    destination = links(tmp_path, kind)
    folder = str(tmp_path / "app" / "migrations")
    seen = read_payload(commands_in(None), [PayloadFile("new.py", str(destination), "0" * 64, folder)], "abc")
    assert seen.states == {str(destination): "outside"}
    item = {"source": "new.py", "destination": str(destination), "sha256": "0" * 64, "folder": folder}
    asked = {"run": run_parameters, "payload": [item], "copy": [], "backend_container": ""}
    for check_mode in (True, False):
        result = payload.act(asked, check_mode)
        assert "leads out of the folder that the inventory names for it, by a link" in result["message"]


def test_a_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    real = tmp_path / "srv" / "migrations"
    (real / "kept").mkdir(parents=True)
    (real / "versions").symlink_to("kept")
    (tmp_path / "app").symlink_to(tmp_path / "srv")
    folder = tmp_path / "app" / "migrations"
    files = [
        PayloadFile("a.py", str(folder / "versions" / "a.py"), "0" * 64, str(folder)),
        PayloadFile("b.py", str(folder / "nowhere" / "b.py"), "0" * 64, str(folder)),
        PayloadFile("c.py", str(folder / "c.py"), "0" * 64),
    ]
    states = read_payload(commands_in(None), files, "abc").states
    assert list(states.values()) == ["missing", "no_folder", "missing"]


# Python's `$` is also before a last line break; JSON Schema's is not.
@pytest.mark.parametrize("name", ["release", "checks"])
def test_no_pattern_of_a_schema_takes_a_line_break_at_its_end(name: str) -> None:
    def patterns(schema: Any) -> list[str]:
        if isinstance(schema, dict):
            found = [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
            return found + [one for value in schema.values() for one in patterns(value)]
        return [one for value in schema for one in patterns(value)] if isinstance(schema, list) else []

    content = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    samples = ["a", "a1", "/a", "a/b.py", "1a", "preflight.x", "A a", "echo {environment}", "integer", "/a/b"]
    whole = [pattern for pattern in patterns(content) if pattern.endswith("$")]
    taken = []
    for pattern in whole:
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "string", "pattern": pattern}
        good = [sample for sample in samples if not problems_of(schema, sample)]
        assert good, pattern
        taken += [(pattern, sample) for sample in good if not problems_of(schema, f"{sample}\n")]
    assert taken == []


def problems_of(schema: dict[str, Any], value: str) -> list[Any]:
    schemas = Schemas(SCHEMAS)
    schemas._contents["one.schema.json"] = schema
    return schemas.problems("one.schema.json", value, "shown")


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [
        ("^a$", "a", True),
        ("^a$", "a\n", False),
        ("^(a|b$)", "b\n", False),
        ("^(?!x(/|$))", "x\n", True),
        (r"^a\$", "a$b", True),
        ("^[$]$", "$", True),
        ("^[^]$]$", "a", True),
        (r"^[\]$]$", "$", True),
        ("^[$]$", "$\n", False),
    ],
)
def test_the_end_is_the_end_wherever_it_stands(pattern: str, value: str, fits: bool) -> None:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "string", "pattern": pattern}
    assert (problems_of(schema, value) == []) == fits
