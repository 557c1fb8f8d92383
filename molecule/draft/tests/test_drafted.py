"""A draft has the structure of the release that people wrote, is deployed as it is written, and overwrites nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from outside import ROOT, STATE, Psql, docker, play

DRAFTS = ROOT / ".stack/drafts"
REVISION = "migrations/f4c8a2b5e1d9_create_drawing_project_associations_junction_table.py"
LABEL = f"label=dbrelease.rehearsal.target={STATE}"
GIVEN = ("-e", "release=drafted", "-e", f"run_releases={DRAFTS}", "-e", "monitor_watch_seconds=0")


def draft(name: str, to_revision: str = "f4c8a2b5e1d9") -> Any:
    return play(
        "playbooks/draft.yml",
        *("-e", f"release={name}", "-e", f"to_revision={to_revision}", "-e", f"draft_directory={DRAFTS}"),
    )


def read(folder: Path, name: str = "release.yml") -> dict[str, Any]:
    return dict(yaml.safe_load((folder / name).read_text()))


def left() -> str:
    return docker("ps", "--all", "--quiet", "--filter", LABEL) + docker("network", "ls", "--quiet", "--filter", LABEL)


@pytest.fixture(scope="module")
def drafted() -> dict[str, Any]:
    return read(DRAFTS / "drafted")


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    return read(ROOT / "releases/8_1a")


def test_it_has_all_of_the_structure_that_people_declared(drafted: dict[str, Any], written: dict[str, Any]) -> None:
    assert drafted["tables"]["created"].keys() == written["tables"]["created"].keys()
    for table, declared in written["tables"]["created"].items():
        found = drafted["tables"]["created"][table]
        assert found["columns"] == declared["columns"]
        assert found["constraints"] == declared["constraints"]
        # The index behind a constraint is declared with its constraint.
        wanted = {name: one for name, one in declared["indexes"].items() if name not in declared["constraints"]}
        assert found["indexes"] == wanted
    for table, columns in written["tables"]["existing"].items():
        assert set(columns) <= set(drafted["tables"]["existing"][table])


def test_its_revisions_and_its_guard_are_those_of_the_release(drafted: dict[str, Any], written: dict[str, Any]) -> None:
    for key in ("from_revision", "to_revision", "command"):
        assert drafted["migration"][key] == written["migration"][key]
    guarded = [one["losses"]["table"] for one in drafted["rollback"]["guards"] if "losses" in one]
    assert guarded == list(written["tables"]["created"])


def test_what_people_declared_as_steps_is_proposed(drafted: dict[str, Any], written: dict[str, Any]) -> None:
    found = {" ".join(step["sql"].split()) for step in drafted["migration"]["finalize"]}
    wanted = {step["sql"] for step in written["migration"]["finalize"] if "sql" in step}
    assert wanted <= found


def test_it_says_what_was_observed(drafted: dict[str, Any]) -> None:
    text = (DRAFTS / "drafted/release.yml").read_text()
    assert "# The longest that a writer waited was" in text
    assert "# The downgrade is an inverse" in text
    assert "CREATE TABLE drawing_project_associations" in (DRAFTS / "drafted/preview.sql").read_text()
    assert (DRAFTS / "drafted" / REVISION).read_bytes() == (ROOT / "releases/8_1a" / REVISION).read_bytes()


def test_a_draft_overwrites_nothing_and_touches_nothing(psql: Psql) -> None:
    before, fingerprint = (DRAFTS / "drafted/release.yml").read_text(), psql.fingerprint()
    done = draft("drafted")
    assert done.status != 0
    assert "a draft overwrites nothing" in done.output
    assert (DRAFTS / "drafted/release.yml").read_text() == before
    assert psql.fingerprint() == fingerprint


def test_a_revision_that_the_application_does_not_have_is_no_draft(psql: Psql) -> None:
    fingerprint = psql.fingerprint()
    done = draft("unknown", "0123456789ab")
    assert done.status != 0
    assert done.evidence["outcome"] in ("refused", "failed")
    assert "0123456789ab" in done.output
    assert not (DRAFTS / "unknown").exists()
    assert (psql.fingerprint(), left()) == (fingerprint, "")


@pytest.fixture
def deployed(psql: Psql) -> Iterator[Any]:
    yield play("playbooks/deploy.yml", *GIVEN, "-e", "rehearsal=container")
    play("playbooks/rollback.yml", *GIVEN, "-e", "remove_payload=true")


LOSSY = """
from alembic import op
import sqlalchemy as sa

revision = "aaaa11112222"
down_revision = "0ab370a9afb6"


def upgrade():
    op.alter_column("components", "label", new_column_name="name")
    op.drop_column("components", "quantity")
    op.drop_index("ix_components_drawing_id")


def downgrade():
    op.create_index("ix_components_drawing_id", "components", ["drawing_id"])
    op.add_column("components", sa.Column("quantity", sa.Numeric(12, 3), nullable=False, server_default="1"))
    op.alter_column("components", "name", new_column_name="label")
"""


def test_a_change_that_drops_and_renames_is_declared_deployed_and_goes_back_without_what_it_lost(
    psql: Psql, tmp_path: Path
) -> None:
    revision = tmp_path / "aaaa11112222_lossy.py"
    revision.write_text(LOSSY)
    payload = [{"source": str(revision), "destination": f"/app/migrations/versions/{revision.name}"}]
    given = ("-e", "release=lossy", "-e", f"run_releases={tmp_path}", "-e", "monitor_watch_seconds=0")
    done = play(
        "playbooks/draft.yml",
        *("-e", "release=lossy", "-e", "to_revision=aaaa11112222", "-e", f"draft_directory={tmp_path}"),
        *("-e", json.dumps({"draft_payload": payload})),
    )
    assert done.status == 0, done.output
    declared = read(tmp_path / "lossy")
    assert declared["migration"]["reversible"] == "lossy"
    assert declared["tables"]["changed"]["components"] == {
        "columns": {
            "quantity": None,
            "name": {"type": "character varying(120)", "nullable": False, "renamed_from": "label"},
        },
        "indexes": {"ix_components_drawing_id": None},
    }
    values = psql.value("SELECT count(quantity) FROM components")
    deployed = play("playbooks/deploy.yml", *given, "-e", "rehearsal=container")
    assert deployed.evidence["outcome"] == "deployed", deployed.output
    back = play("playbooks/rollback.yml", *given, "-e", "remove_payload=true")
    assert back.evidence["outcome"] == "rolled_back", back.output
    (lost,) = (one for one in back.evidence["proofs"] if one["name"] == "guard.lossy")
    assert f"Not brought back: {values} values of public.components.quantity." in lost["detail"]


def test_as_it_is_written_it_is_deployed_proved_and_rolled_back(deployed: Any, psql: Psql) -> None:
    assert deployed.status == 0, deployed.output
    assert deployed.evidence["outcome"] == "deployed"
    assert [one for one in deployed.evidence["proofs"] if one["status"] == "fail"] == []
    again = play("playbooks/deploy.yml", *GIVEN)
    assert again.evidence["outcome"] == "already_deployed", again.output
    back = play("playbooks/rollback.yml", *GIVEN)
    assert back.evidence["outcome"] == "rolled_back", back.output
    assert psql.value("SELECT to_regclass('drawing_project_associations') IS NULL") == "t"
