"""The lookup containers follows the release's services and the inventory's variables."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader  # type: ignore[import-untyped]
from ansible.template import Templar, trust_as_template  # type: ignore[import-untyped]

PLUGIN = Path(__file__).resolve().parents[3] / "plugins/lookup/containers.py"

OPENED = {"run_opened": {"containers": {"backend": "shop-api-1", "db": "{{ 1 + 1 }}", "search": "shop-search-1"}}}


@pytest.mark.parametrize(
    ("services", "variables", "found"),
    [
        ([], {}, {"backend": "", "db": ""}),
        (["db", "search"], {"search_container": "shop_search"}, {"backend": "", "db": "", "search": "shop_search"}),
        (["db"], {"db_container": "{{ prefix }}_db", "prefix": "shop"}, {"backend": "", "db": "shop_db"}),
        (["db"], {"db_container": None}, {"backend": "", "db": ""}),
        (["search"], {"compose_project": "shop"}, {"backend": "", "db": "", "search": ""}),
        (
            ["search"],
            {"compose_project": "shop", "db_container": "", "search_container": "own", **OPENED},
            {"backend": "shop-api-1", "db": "", "search": "own"},
        ),
        ([], OPENED, {"backend": "", "db": ""}),
    ],
    ids=[
        "no service",
        "a service of its own name",
        "a template",
        "a variable without a value",
        "a project, before it was looked up",
        "found in a project",
        "no project",
    ],
)
def test_each_service_has_its_container(services: list[str], variables: dict[str, Any], found: dict[str, str]) -> None:
    assert looked_up(services, variables) == [found]


def test_the_services_to_find_have_their_names_in_the_compose_file() -> None:
    variables = {"compose_services": {"db": "postgres"}, "search_container": ""}
    assert looked_up(["search", "worker"], variables, composed=True) == [
        {"backend": "backend", "db": "postgres", "worker": "worker"}
    ]


def looked_up(services: list[str], variables: dict[str, Any], **options: Any) -> Any:
    spec = importlib.util.spec_from_file_location("containers", PLUGIN)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given = {name: trust_as_template(value) if isinstance(value, str) else value for name, value in variables.items()}
    templar = Templar(DataLoader(), variables=given)
    return module.LookupModule(templar=templar).run([services], given, **options)
