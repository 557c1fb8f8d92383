"""The lookup containers follows the release's services and the inventory's variables."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader  # type: ignore[import-untyped]
from ansible.template import Templar, trust_as_template  # type: ignore[import-untyped]

PLUGIN = Path(__file__).resolve().parents[3] / "plugins/lookup/containers.py"


@pytest.mark.parametrize(
    ("services", "variables", "found"),
    [
        ([], {}, {"backend": "", "db": ""}),
        (["db", "search"], {"search_container": "shop_search"}, {"backend": "", "db": "", "search": "shop_search"}),
        (["db"], {"db_container": "{{ prefix }}_db", "prefix": "shop"}, {"backend": "", "db": "shop_db"}),
        (["db"], {"db_container": None}, {"backend": "", "db": ""}),
    ],
    ids=["no service", "a service of its own name", "a template", "a variable without a value"],
)
def test_each_service_has_its_container(services: list[str], variables: dict[str, Any], found: dict[str, str]) -> None:
    spec = importlib.util.spec_from_file_location("containers", PLUGIN)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given = {name: trust_as_template(value) if isinstance(value, str) else value for name, value in variables.items()}
    templar = Templar(DataLoader(), variables=given)
    assert module.LookupModule(templar=templar).run([services], given) == [found]
