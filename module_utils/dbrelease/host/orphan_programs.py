"""Terminate the programs of a run, which may have outlived the process that started them."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.errors import ReleaseError
from .commands import Commands

TIMEOUT_S = 30
# The engine has no call that ends a program that `exec` started; the run's id is in the program's environment.
# A parent is killed before its child, because a script would continue with its next command; except `timeout`, which
# ends when its program has ended. The container's first process adopts an orphan. Where that is Postgres, it treats an
# orphan that a signal has ended as a crashed child of its own: it terminates every session, and recovers. So an orphan
# there only gets SIGTERM, and only if it is a program that exits then; it prints a message to a pipe that has no reader
# any more, which would cause another signal, so the script reads from that pipe.
END_PROGRAMS = r"""
exec 2>/dev/null
own="^PGAPPNAME=dbrelease-.*-($1)$"
: | grep -z x
if [ $? -eq 1 ]; then
  programs() { grep -lEz "$own" /proc/[0-9]*/environ; }
else # a smaller grep, asked for each process
  programs() { for file in /proc/[0-9]*/environ; do tr '\0' '\n' < $file | grep -Eq "$own" && echo $file; done; }
fi
status() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status"; }
round=0
while [ $round -lt 25 ]; do
  round=$((round + 1)) left=
  parents=" $(sed -n 's/^PPid:[[:space:]]*//p' /proc/[0-9]*/status | tr '\n' ' ')"
  found=$(programs) ours=
  for file in $found; do pid=${file#/proc/} ours="$ours ${pid%/environ} "; done
  for pid in $ours; do
    process=/proc/$pid name=$(status $pid Name) parent=$(status $pid PPid)
    above=$(status "$parent" Name) left="$left
works $pid $name"
    case $name,$parents in timeout,*" $pid "*) kill -CONT $pid; continue ;; esac
    case $above,$ours in timeout,*) ;; *" $parent "*) continue ;; esac
    case $above,$name in
      post*,pg_dump | post*,pg_restore)
        (exec 3< $process/fd/1 4< $process/fd/2
         kill -TERM $pid && echo "ended $pid"
         kill -CONT $pid # it may have ended before this
         while kill -0 $pid; do sleep 0.1; done) ;;
      postgres,* | postmaster,*) ;;
      *) kill -KILL $pid && echo "ended $pid" ;;
    esac
  done
  [ "$left" ] || break
  sleep 0.2
done
echo "$left"
echo done
"""


def end_programs(commands: Commands, run_ids: Sequence[str]) -> int:
    """Terminate the programs of these runs; return their number.

    Raises ReleaseError where no command can run there, or where a program keeps running.
    """
    finished = commands.run(["sh", "-c", END_PROGRAMS, "sh", "|".join(run_ids)], timeout_s=TIMEOUT_S)
    lines = [line.split(maxsplit=1) for line in finished.stdout.splitlines() if line]
    left = sorted(what for word, *rest in lines if word == "works" for what in rest)
    if left or lines[-1:] != [["done"]]:
        why = f"{', '.join(left)} (process, program) did not end, or Postgres would treat its end as a crash"
        if not left:
            why = f"not done within {TIMEOUT_S} s" if finished.timed_out else f"status {finished.status}"
        raise ReleaseError(
            f"Terminating the programs of run {' and '.join(run_ids)} in {commands.place} failed ({why}): "
            "check what is still running there, wait until it has ended, and rerun the playbook."
        )
    return len({pid for word, *rest in lines if word == "ended" for pid in rest})
