"""Two checkouts on one engine: nobody replaces a stack on which the other works."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The engine's answer: whose the running stack is.
ASK = 'source stack/bin/common.sh; label_of() { echo "$FOLDER"; }; refuse_while_in_use; echo free'


def checkout(folder: Path) -> Path:
    for name in ("stack/bin/common.sh", "scripts/hold-stack"):
        (folder / name).parent.mkdir(parents=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def ask(here: Path, owner: Path | str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "FOLDER": f"{owner}/stack" if owner else ""}
    return subprocess.run(["bash", "-c", ASK], cwd=here, env=environment, capture_output=True, text=True, check=False)


def test_a_stack_on_which_another_checkout_works_is_not_replaced(tmp_path: Path) -> None:
    one, two = checkout(tmp_path / "one"), checkout(tmp_path / "two")
    assert ask(two, one).stdout == "free\n", "nothing was ever run there"
    held = subprocess.Popen([one / "scripts/hold-stack", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert held.stdin and held.stdout
    held.stdin.write(b"held\n")
    held.stdin.flush()
    assert held.stdout.readline() == b"held\n"
    refused = ask(two, one)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"is that of the checkout {one}, where a command of make works on it" in refused.stderr
    assert ask(one, one).stdout == "free\n", "its own commands share it"
    assert ask(two, "").stdout == ask(two, tmp_path / "gone").stdout == "free\n"
    held.communicate()
    assert ask(two, one).stdout == "free\n"


def test_a_daemon_that_a_command_starts_does_not_hold_the_stack(tmp_path: Path) -> None:
    one, two = checkout(tmp_path / "one"), checkout(tmp_path / "two")
    command = "sleep 60 >/dev/null 2>&1 & echo $!"
    pid = subprocess.run([one / "scripts/hold-stack", "bash", "-c", command], capture_output=True, check=True).stdout
    try:
        assert ask(two, one).stdout == "free\n"
    finally:
        subprocess.run(["kill", pid.decode().strip()], check=True)
