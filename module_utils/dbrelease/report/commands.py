"""The commands of the ways back, as typed on the controller; each is checked to exist."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Way = dict[str, str]
PLAYBOOK, ENVIRONMENT = "ansible-playbook", "{environment}"
SUFFIXES = (".yml", ".yaml")
INVENTORY = ("-i", "--inventory", "--inventory-file")
# Options of ansible-playbook whose value is no playbook.
WITH_VALUE = (*INVENTORY, "-e", "--extra-vars", "-l", "--limit", "-t", "--tags", "--skip-tags", "-u", "--user")
ROLL_BACK, RESTORE = "Roll the release back (guarded)", "Restore the backup from before the release"


def checked_ways(
    release: Mapping[str, Any], name: str, environment: str, *, folder: Path, root: Path, inventories: Sequence[str]
) -> list[Way]:
    """The release's ways back that exist; where none does, the engine's own playbooks for any release.

    folder: where commands are typed; root: the engine's own folder; inventories: the paths given to this run.
    """
    given = [_near(path, folder) for path in inventories]
    declared = [
        {"title": str(way["title"]), "command": command}
        for way in release.get("ways_back") or ()
        if (command := _checked(str(way["command"]), environment, folder, given))
    ]
    return declared or list(_usual(release, name, environment, folder, root, given))


def checked_commands(
    release: Mapping[str, Any], *, folder: Path, root: Path, inventories: Sequence[str]
) -> dict[str, str]:
    """The commands that messages recommend, with this run's inventory; and `restore`, which also swaps back.

    Where the declared playbook does not exist, the engine's own for any release. Without a given inventory the
    environment stays a placeholder.
    """
    given, name = [_near(path, folder) for path in inventories], str(release["release"])
    commands = {"restore": _own(f"restore_{name}.yml", "restore", name, folder, root, given)}
    for key, declared in (release.get("commands") or {}).items():
        commands[key] = _checked(str(declared), ENVIRONMENT, folder, given) or _own("", key, name, folder, root, given)
    return {key: command.replace(shlex.quote(ENVIRONMENT), ENVIRONMENT) for key, command in commands.items()}


def _own(short: str, playbook: str, name: str, folder: Path, root: Path, given: Sequence[str]) -> str:
    """The release's playbook in the folder if it exists, else the engine's for any release; empty without either."""
    if short and (folder / short).is_file():
        return shlex.join([PLAYBOOK, short, *_options(ENVIRONMENT, given)])
    path = root / "playbooks" / f"{playbook}.yml"
    words = [PLAYBOOK, _near(str(path), folder), *_options(ENVIRONMENT, given), "-e", f"release={name}"]
    return shlex.join(words) if path.is_file() else ""


def _usual(
    release: Mapping[str, Any], name: str, environment: str, folder: Path, root: Path, given: Sequence[str]
) -> Iterator[Way]:
    reversible = (release.get("migration") or {}).get("reversible", True) is not False
    for title, file in ((ROLL_BACK, "rollback"), (RESTORE, "restore"))[0 if reversible else 1 :]:
        playbook = root / "playbooks" / f"{file}.yml"
        if playbook.is_file():
            words = [PLAYBOOK, _near(str(playbook), folder), *_options(environment, given), "-e", f"release={name}"]
            yield {"title": title, "command": shlex.join(words)}


def _checked(command: str, environment: str, folder: Path, given: Sequence[str]) -> str:
    """The command as typed in the folder; empty where the program or the playbook does not exist."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    if not words:
        return ""
    if Path(words[0]).name != PLAYBOOK:
        there = (
            shutil.which(words[0], path=None if "/" not in words[0] else str(folder)) or (folder / words[0]).is_file()
        )
        return command.replace(ENVIRONMENT, environment) if there else ""
    typed, playbooks = _typed(words, environment, folder, given)
    if not playbooks or not all((folder / playbook).is_file() for playbook in playbooks):
        return ""
    return shlex.join(typed)


def _typed(words: Sequence[str], environment: str, folder: Path, given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words with the inventory that exists, and those of them that are playbooks."""
    typed, playbooks, before = [], [], ""
    for word in words:
        named = word.replace(ENVIRONMENT, environment)
        if before in INVENTORY and given and (named != word or not (folder / named).exists()):
            typed += [part for number, one in enumerate(given) for part in ([before, one] if number else [one])]
        else:
            typed.append(named)
            if named.endswith(SUFFIXES) and before not in WITH_VALUE:
                playbooks.append(named)
        before = word
    return typed, playbooks


def _options(environment: str, given: Sequence[str]) -> list[str]:
    return [part for one in given or [environment] for part in ("-i", one)]


def _near(path: str, folder: Path) -> str:
    """The shortest form of the path as seen from the folder; a list of hosts is unchanged."""
    if "," in path:
        return path
    relative = os.path.relpath(path, folder)
    return path if relative.startswith("..") else relative
