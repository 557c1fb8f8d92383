"""A module is packed before its worker is forked, as the worker would pack it, and each file is parsed once."""

from __future__ import annotations

import ast
import base64
import io
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ansible.constants as constants  # type: ignore[import-untyped]
import ansible.module_utils
import pytest
from ansible.executor import module_common  # type: ignore[import-untyped]
from ansible.plugins.loader import init_plugin_loader, module_loader, module_utils_loader  # type: ignore[import-untyped]
from ansible.template import Templar  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[3]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))

from ansible.module_utils.dbrelease import packing  # noqa: E402

Parse = Callable[[str, str], ast.Module]
SAMPLE = """
import ansible.module_utils.first
try:
    from ansible.module_utils.common import second
except ImportError:
    second = None
else:
    import ansible.module_utils.third
match 1:
    case 1:
        def inner():
            from ansible.module_utils import fourth
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Ansible keeps what it has packed in this play."""
    if not module_loader.has_plugin("ansible.builtin.ping"):
        init_plugin_loader([])
    module_loader.add_directory(str(ROOT / "library"))
    module_utils_loader.add_directory(str(ROOT / "module_utils"))
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp_path), raising=False)
    monkeypatch.setattr("ansible.context.CLIARGS", {"subset": None})
    monkeypatch.setattr(module_common, "_compile_module_ast", module_common._compile_module_ast)
    locator = module_common.LegacyModuleUtilLocator
    monkeypatch.setattr(locator, "__init__", locator.__init__)
    return tmp_path / "ansiballz_cache"


def packed_by_ansible(module: str) -> list[str]:
    made = module_common.modify_module(
        module_name=module,
        module_path=str(ROOT / f"library/{module}.py"),
        module_args={},
        templar=Templar(loader=None),
        task_vars={"ansible_python_interpreter": sys.executable},
        module_compression="ZIP_DEFLATED",
    )
    longest = max(re.findall(r"[A-Za-z0-9+/=]{2000,}", made.b_module_data.decode()), key=len)
    return sorted(zipfile.ZipFile(io.BytesIO(base64.b64decode(longest))).namelist())


def test_the_worker_finds_it_packed_as_it_would_have(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = packed_by_ansible("journal")
    for file in cache.iterdir():
        file.unlink()
    packing.pack("journal")
    assert [file.name for file in cache.glob("*journal*") if file.suffix != ".lock"] != []
    monkeypatch.setattr(module_common, "recursive_finder", None)  # from here on nothing can be packed
    assert packed_by_ansible("journal") == wanted


def test_a_file_that_two_modules_need_is_parsed_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: Counter[str] = Counter()
    parse: Parse = module_common._compile_module_ast

    def counting(name: str, source: str) -> ast.Module:
        parsed[name] += 1
        return parse(name, source)

    monkeypatch.setattr(module_common, "_compile_module_ast", counting)
    packing.pack("journal")
    first = len(parsed)
    packing.pack("run")
    assert first > 50
    assert len(parsed) > first
    assert parsed.most_common(1)[0][1] == 1


def test_a_name_that_two_modules_need_is_searched_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: Counter[tuple[Any, ...]] = Counter()
    locator = module_common.LegacyModuleUtilLocator
    locate = locator.__init__

    def counting(self: Any, name: tuple[str, ...], **options: Any) -> None:
        searched[(name, *map(str, options.items()))] += 1
        locate(self, name, **options)

    monkeypatch.setattr(locator, "__init__", counting)
    packing.pack("journal")
    first = len(searched)
    packing.pack("run")
    assert first > 100
    assert len(searched) > first
    assert searched.most_common(1)[0][1] == 1


def test_what_is_kept_of_a_file_are_all_its_imports() -> None:
    def found(tree: ast.Module) -> tuple[set[Any], set[Any]]:
        finder = module_common.ModuleDepFinder("ansible.module_utils.sample", tree)
        return finder.submodules, finder.optional_imports

    whole = found(ast.parse(SAMPLE))
    assert found(packing.kept(ast.parse(SAMPLE))) == whole
    assert (len(whole[0]), len(whole[1])) == (4, 3)


def test_without_a_play_and_in_a_worker_nothing_is_packed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.parent_process", lambda: SimpleNamespace(pid=1))
    packing.pack("journal")
    monkeypatch.undo()
    packing.pack("journal")
    assert not cache.exists()


def test_an_ansible_that_packs_otherwise_is_left_to_itself(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module_common, "_compile_module_ast")
    packing.pack("journal")
    assert not cache.exists()
