"""Read from containers, the target's disk and the API."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..core.errors import ReleaseError
from ..core.own_files import finding_on
from ..host.commands import Commands
from ..host.http import Answer, HttpSession
from ..migrate.alembic import script_history
from ..release.requirements import Endpoint, PayloadFile
from .facts import Payload, StateDir, Unseen

TIMEOUT_S = 30
ROOT = "0"
HISTORY_LINE = re.compile(r"(?P<down>[^\s,]+(?:, [^\s,]+)*)(?: \([^)]*\))* -> (?P<revision>\w+)\b")

# Prints one word or one sha256 for each destination, in their order; then the scripts that define the release's
# revision. Each destination comes with the folder that it may not leave, or with an empty word. The target of a link
# is read with a mark behind it, because a name may end with a line break.
PAYLOAD_SCRIPT = r"""
inside() {
  [ -n "$2" ] || return 0
  root=$(cd -P -- "$2" 2>/dev/null && pwd -P && echo /) || return 0
  place=$1; met=
  while [ -L "$place" ]; do
    met="$met."; [ "${#met}" -lt 40 ] || return 1
    next=$(readlink -- "$place" && echo /) || return 1
    next=${next%??}
    case $next in /*) place=$next ;; *) place=${place%/*}/$next ;; esac
  done
  case $place in */. | */.. | */) return 1 ;; esac
  folder=$(cd -P -- "${place%/*}/" 2>/dev/null && pwd -P && echo /) || return 0
  case ${folder%??}/ in "${root%??}"/*) return 0 ;; esac
  return 1
}
pattern=$1; shift
while [ "$1" != -- ]; do
  if ! inside "$1" "$2"; then echo outside
  elif [ -f "$1" ]; then sum=$(sha256sum < "$1") && echo "${sum%% *}" || echo unreadable
  elif [ -e "$1" ] || [ -L "$1" ]; then echo no_file
  elif [ ! -d "${1%/*}/" ]; then echo no_folder
  elif [ ! -w "${1%/*}/" ]; then echo read_only
  else echo missing
  fi
  shift 2
done
shift
for folder in "$@"; do
  grep -lE "$pattern" "$folder"/*.py 2>/dev/null
done
exit 0
"""


def read_payload(commands: Commands, payload: Sequence[PayloadFile], revision: str) -> Payload:
    """Read what exists at each destination, and which files there define the revision of the release."""
    if not payload:
        return Payload({})
    destinations = [item.destination for item in payload]
    folders = sorted({str(PurePosixPath(path).parent) for path in destinations if path.endswith(".py")})
    pattern = rf"""^revision *(:[^=]*)?= *['"]{re.escape(revision)}['"]"""
    asked = [word for item in payload for word in (item.destination, item.folder)]
    argv = ["sh", "-c", PAYLOAD_SCRIPT, "sh", pattern, *asked, "--", *folders]
    finished = commands.run(argv, timeout_s=TIMEOUT_S)
    lines = finished.stdout.splitlines()
    if finished.status != 0 or len(lines) < len(destinations):
        raise ReleaseError(
            f"Checking the release's files in {commands.place} failed "
            f"({' '.join(finished.stderr.split()) or f'status {finished.status}'}): "
            "check that it has a shell, sha256sum and grep."
        )
    count = len(destinations)
    return Payload(dict(zip(destinations, lines[:count], strict=True)), tuple(lines[count:]))


def read_history(commands: Commands, command: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Read each revision that the backend knows with its predecessors; empty where that cannot be read."""
    if known := script_history(commands, command):
        return known
    finished = commands.run([*command, "history"], timeout_s=TIMEOUT_S)
    return parse_history(finished.stdout) if finished.status == 0 else {}


def parse_history(text: str) -> Mapping[str, tuple[str, ...]]:
    """Parse lines such as `0ab3 -> f4c8 (head), Add a table` and `<base> -> 0ab3, Begin`."""
    found = (HISTORY_LINE.match(line.strip()) for line in text.splitlines())
    return {
        line["revision"]: tuple(down for down in line["down"].split(", ") if down != "<base>") for line in found if line
    }


def read_state_dir(path: str, near: Sequence[str] = ()) -> StateDir:
    """Read the nearest folder that exists: its free room, and whether this user, and no other, can write to it.

    near: what else is known to have access to it.
    """
    folder = next(place for place in (Path(path), *Path(path).parents) if os.path.lexists(place))
    found = finding_on(path)
    foreign = f"{found.what}, so others may change what is kept in {path}: {found.remedy}." if found else ""
    free, problem = _writable(folder)
    return StateDir(str(folder), free, problem, foreign, (*_work_trees(Path(path)), *near))


def _writable(folder: Path) -> tuple[int, str]:
    """The free bytes there, and a sentence if it cannot be written."""
    advice = "set release_state_dir to a folder that the deploying user can write."
    try:
        usage = os.statvfs(folder)
    except OSError as error:
        return 0, f"{folder} cannot be read ({error.strerror}): {advice}"
    free = usage.f_bavail * usage.f_frsize
    if not folder.is_dir():
        return free, f"{folder} is not a folder: rename it, or {advice}"
    if usage.f_flag & os.ST_RDONLY:
        return free, f"{folder} is on a file system that is mounted read-only: {advice}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return free, f"{folder} cannot be written by the deploying user: {advice}"
    return free, ""


def _work_trees(path: Path) -> list[str]:
    trees = [folder for folder in (path, *path.parents) if os.path.lexists(folder / ".git")]
    return [f"it is in the git work tree {folder}, where `git clean -fdx` removes it" for folder in trees]


def mounted_into(path: str, mounts: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Which containers may write to a folder, or to a part of it, by the mounts that the engine reports."""
    kept = Path(os.path.realpath(path))
    found = []
    for container, those in sorted(mounts.items()):
        for mount in those:
            source = Path(os.path.realpath(str(mount.get("Source") or "/dev/null")))
            if mount.get("RW") and (kept.is_relative_to(source) or source.is_relative_to(kept)):
                found.append(f"the container {container} may write to it, by its mount at {mount.get('Destination')}")
    return found


def ask_api(
    base_url: str, endpoints: Sequence[Endpoint], timeout_s: int, ca_file: str = ""
) -> Mapping[str, Answer] | Unseen:
    """Send one request to each endpoint."""
    try:
        with HttpSession(base_url, timeout_s, ca_file) as session:
            return {endpoint.name: session.get(endpoint.path) for endpoint in endpoints}
    except ReleaseError as error:
        return Unseen(error.message)
