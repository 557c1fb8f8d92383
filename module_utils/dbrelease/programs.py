"""Programs that work for a run, wherever its commands run, and may have lost whoever began them."""

from __future__ import annotations

from collections.abc import Sequence

from .commands import Commands

TIMEOUT_S = 30
# The engine has no call that ends what `exec` began; the run is in the environment of its programs.
END_PROGRAMS = r"""
for process in /proc/[0-9]*; do
  if tr '\0' '\n' < "$process/environ" 2>/dev/null | grep -Eq "^PGAPPNAME=dbrelease-.*-($1)$"; then
    kill -KILL "${process#/proc/}" 2>/dev/null && echo "${process#/proc/}"
  fi
done
exit 0
"""


def end_programs(commands: Commands, run_ids: Sequence[str]) -> int:
    """End those of these runs; returns how many there were. Raises ReleaseError where nothing can be run there."""
    finished = commands.run(["sh", "-c", END_PROGRAMS, "sh", "|".join(run_ids)], timeout_s=TIMEOUT_S)
    return len(finished.stdout.split())
