"""Pack a module before a worker needs it: Ansible's own work, done once for all workers of a play.

It only saves time: where it fails, Ansible packs the module as usual.
"""

from __future__ import annotations

import ast
import functools
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import ansible.constants as constants  # type: ignore[import-untyped]
import ansible.context as context  # type: ignore[import-untyped]
from ansible.executor import module_common  # type: ignore[import-untyped]
from ansible.plugins.loader import module_loader  # type: ignore[import-untyped]
from ansible.template import Templar  # type: ignore[import-untyped]

IMPORTS = (ast.Import, ast.ImportFrom)


def pack(module: str) -> None:
    """Let Ansible pack a module already here, in the process that its workers are forked from.

    A worker packs the module that it runs, and parses about 100 files for that: in a deploy of 13 modules that was a
    third of the processor's time. Each worker finds what is packed here in Ansible's own cache of this play, and a file
    that is parsed for one module is parsed for all. It only saves time: where it fails, the worker packs the module as
    usual, and reports why it cannot.
    """
    if not context.CLIARGS or multiprocessing.parent_process() is not None:
        return
    with suppress(Exception):
        if not hasattr(module_common._compile_module_ast, "__wrapped__"):
            module_common._compile_module_ast = parsed_once(module_common._compile_module_ast)
            located_once(module_common.LegacyModuleUtilLocator)
        found = module_loader.find_plugin_with_context(module, ".py")
        module_common.modify_module(
            module_name=module,
            module_path=found.plugin_resolved_path,
            module_args={},
            templar=Templar(loader=None),
            task_vars={"ansible_python_interpreter": sys.executable},
            module_compression=constants.config.get_config_value("DEFAULT_MODULE_COMPRESSION"),
        )


def parsed_once(parse: Callable[[str, str], ast.Module]) -> Callable[[str, str], ast.Module]:
    """Ansible's parser, which parses a file of module_utils once, and of which `kept` is what stays in memory."""

    @functools.cache
    def remembered(name: str, source: str) -> ast.Module:
        return kept(parse(name, source))

    @functools.wraps(parse)
    def parsed(name: str, source: str) -> ast.Module:
        # Of the module itself Ansible wants more than its imports.
        return (remembered if name.startswith("ansible.module_utils.") else parse)(name, source)

    return parsed


def located_once(locator: type[Any]) -> None:
    """Let Ansible search each name of module_utils once for all modules, most of which ask for the same ones.

    A third of the time to pack was spent on that, most of it on names that are no files (`from x import y`).
    """
    locate = locator.__init__

    @functools.cache
    def found(name: tuple[str, ...], mu_paths: tuple[str, ...], options: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
        one = object.__new__(locator)
        locate(one, name, mu_paths=list(mu_paths), **dict(options))
        attributes: dict[str, Any] = vars(one)
        return attributes

    def located(self: Any, name: tuple[str, ...], *, mu_paths: list[str], **options: Any) -> None:
        vars(self).update(found(name, tuple(mu_paths), tuple(sorted(options.items()))))

    locator.__init__ = functools.wraps(locate)(located)


def kept(tree: ast.Module) -> ast.Module:
    """A file with nothing but its imports, those that are not at its top level inside an `if`: Ansible needs no more.

    The whole trees of the files of a deploy take more than 30 MB, which each worker would carry.
    """
    top = [statement for statement in tree.body if isinstance(statement, IMPORTS)]
    inner = [found for statement in tree.body if not isinstance(statement, IMPORTS) for found in _imports_in(statement)]
    tree.body = [*top, ast.If(test=ast.Constant(value=True), body=inner, orelse=[])]
    return tree


def _imports_in(node: ast.AST) -> Iterator[ast.stmt]:
    """Those in the statements below it: an expression has none."""
    for name in ("body", "orelse", "handlers", "finalbody", "cases"):
        for below in getattr(node, name, ()):
            if isinstance(below, IMPORTS):
                yield below
            else:
                yield from _imports_in(below)
