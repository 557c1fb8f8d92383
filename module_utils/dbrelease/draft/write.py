"""A draft as the folder of a release: YAML that a person reads and finishes, and files beside it."""

from __future__ import annotations

import hashlib
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import ReleaseError
from ..core.plain_text import printable

WIDTH, LONGEST_FLOW = 110, 90
RELEASE_FILE, CHECKS_FILE, PREVIEW_FILE = "release.yml", "checks.yml", "preview.sql"
PLAYBOOKS = {
    "deploy": "Deploy",
    "verify": "Verify",
    "rollback": "Roll back",
    "restore": "Restore the backup from before",
    "rehearse": "Rehearse",
}
REVERSIBLE: Mapping[str, Any] = {"lossy": "lossy", "false": False}
HEAD = """A draft, written by playbooks/draft.yml from what the change did on a restored copy. Read it, decide what is
left open, and rehearse it: ansible-playbook playbooks/rehearse.yml -i INVENTORY -e release={name}"""
INVENTORY = """---
# What an inventory needs for this release: README.md explains each variable.
deploy_environment: staging
db_name: NAME
db_user: USER
db_password: "{{ lookup('env', 'DB_PASSWORD') }}"
"""


@dataclass(frozen=True)
class Source:
    """A file that the release brings to the application's container."""

    path: Path
    destination: str


@dataclass(frozen=True)
class Wanted:
    """What the operator asked for: the release's name, its revisions, and how Alembic is started."""

    name: str
    title: str
    migration: Mapping[str, Any]
    services: Sequence[str]
    containers: Mapping[str, str]
    payload: Sequence[Source] = ()


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are, no aliases, indented lists, and on one line only what fits there."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write each value where it is used."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent a list in a mapping, as yamllint wants it."""
        super().increase_indent(flow, False)

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        """See SafeDumper."""
        node = super().represent_mapping(tag, mapping, flow_style)
        _fit(node)
        return node

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        """See SafeDumper."""
        node = super().represent_sequence(tag, sequence, flow_style)
        _fit(node)
        return node


def _fit(node: yaml.CollectionNode) -> None:
    """Put the parts of a node on lines of their own where they would be longer than a line."""
    parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
    if node.flow_style and sum(len(str(part.value)) + 4 for part in parts) > LONGEST_FLOW:
        node.flow_style = False


class _Section(dict[str, Any]):
    """A key of the document, on a line of its own; what is in it may be on one line."""


def _section_node(dumper: yaml.SafeDumper, value: _Section) -> yaml.MappingNode:
    return dumper.represent_mapping("tag:yaml.org,2002:map", value, flow_style=False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(_Section, _section_node)
_Dumper.add_representer(str, _text)
_Dumper.add_multi_representer(str, _text)  # Ansible has texts of its own


def files_of(wanted: Wanted, draft: Mapping[str, Any], preview: str) -> dict[str, str]:
    """The texts of the folder, by relative path."""
    return {
        RELEASE_FILE: release_text(wanted, draft),
        CHECKS_FILE: checks_text(draft),
        PREVIEW_FILE: preview or "-- Alembic could not print the SQL of this change without running it.\n",
        "inventory.example.yml": INVENTORY
        + "".join(f"{one}_container: {wanted.containers[one]}\n" for one in wanted.containers),
        **{
            f"{playbook}.yml": _playbook(playbook, f"{title} {wanted.name}", wanted.name)
            for playbook, title in PLAYBOOKS.items()
        },
    }


def release_text(wanted: Wanted, draft: Mapping[str, Any]) -> str:
    """release.yml; what was observed, and what is open, stands in comments where it matters."""
    migration = {
        **wanted.migration,
        **({"payload": [_payload(one) for one in wanted.payload]} if wanted.payload else {}),
        **({"reversible": REVERSIBLE[draft["reversible"]]} if draft.get("reversible", "true") in REVERSIBLE else {}),
        **({"budget": draft["budget"]} if draft.get("budget") else {}),
        **({"finalize": draft["finalize"]} if draft.get("finalize") else {}),
    }
    sections: list[tuple[str, Any, list[str]]] = [
        ("release", wanted.name, []),
        ("title", wanted.title, []),
        ("label", wanted.name, []),
        ("services", list(wanted.services), ["Those of the inventory; `clients` are those that use the database."]),
        ("clients", [one for one in wanted.services if one in ("backend", "worker")], []),
        ("server", {"minimum_major": 14, "transaction_age_limit_seconds": 300}, []),
        ("migration", migration, ["Observed on the copy:", *(draft.get("observed") or ())]),
    ]
    guards = draft.get("guards") or []
    if guards and draft.get("reversible") != "false":
        note = [draft.get("way_back", ""), "Each guard must pass before anything is rolled back."]
        sections.append(("rollback", {"guards": guards}, note))
    tables = draft["tables"]
    kept = {name: value for name, value in tables.items() if value or name in ("existing", "created")}
    sections.append(("tables", kept, []))
    comments = [*HEAD.format(name=wanted.name).split("\n")]
    if draft.get("reversible") == "false":
        comments.append(f"Not reversible: the way back is the restore. {draft.get('way_back', '')}")
    if notes := draft.get("notes"):
        comments += ["", "To decide by a person:", *(f"- {note}" for note in notes)]
    left_out = "api, monitoring, readiness, checklist"
    comments += ["", f"Not drafted: {left_out} (schemas/release.schema.json says what each means)."]
    body = "\n".join(_section(name, value, note) for name, value, note in sections if value not in ([], ""))
    return f"---\n{_commented(comments)}{body}"


def checks_text(draft: Mapping[str, Any]) -> str:
    """checks.yml."""
    notes = {
        "observations": ["Recorded with the baseline, judged by nobody."],
        "checks": ["True on the copy right after the upgrade: keep those that must stay true."],
        "plans": ["The index must be able to serve the query."],
    }
    body = "\n".join(_section(name, draft[name], note) for name, note in notes.items() if draft.get(name))
    return f"---\n{body}" if body else "---\nchecks: []\n"


def write(folder: Path, texts: Mapping[str, str], payload: Sequence[Source]) -> list[str]:
    """Write a folder that does not exist, whole or not at all; raises ReleaseError. Returns the names of its files."""
    contents = {name: text.encode() for name, text in texts.items()}
    try:
        contents |= {f"migrations/{one.path.name}": one.path.read_bytes() for one in payload}
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
            whole = Path(beside) / folder.name
            for name, content in contents.items():
                (whole / name).parent.mkdir(parents=True, exist_ok=True)
                (whole / name).write_bytes(content)
            # A folder that appeared meanwhile is not replaced: it has files.
            whole.rename(folder)
    except OSError as error:
        raise ReleaseError(
            f"Writing the draft to {folder} failed ({error.strerror}): let the user of Ansible write there, or give "
            "another release."
        ) from error
    return list(contents)


def _payload(one: Source) -> dict[str, str]:
    return {"source": f"migrations/{one.path.name}", "destination": one.destination}


def _section(name: str, value: Any, notes: Sequence[str]) -> str:
    text = yaml.dump(
        _Section({name: value}),
        Dumper=_Dumper,
        sort_keys=False,
        width=WIDTH,
        allow_unicode=True,
        default_flow_style=None,
    )
    return f"{_commented(notes)}{text}"


def _commented(lines: Sequence[str]) -> str:
    """Comments: what comes from a target is made printable, and no line of it can end a comment."""
    wrapped = [part for line in lines for part in (textwrap.wrap(printable(line), WIDTH) or [""])]
    return "".join(f"# {line}".rstrip() + "\n" for line in wrapped)


def _playbook(playbook: str, title: str, name: str) -> str:
    return (
        f"---\n- name: {title}\n  ansible.builtin.import_playbook: ../../playbooks/{playbook}.yml\n"
        f"  vars:\n    release: {name}\n"
    )


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
