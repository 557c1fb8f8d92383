"""A real sshd of this user on a port of its own, as a target that is reached over SSH."""

from __future__ import annotations

import getpass
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from waits import until

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
SETTINGS = """
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxSessions {sessions}
"""


@contextmanager
def ssh_target(*, sessions: int = 10) -> Iterator[dict[str, Any]]:
    """The variables of a host that is this machine, reached over SSH; sshd allows so many sessions to a connection."""
    assert SSHD, "found no sshd: run 'make clients'"
    with tempfile.TemporaryDirectory(prefix="ssh-") as name:  # short: the path of a control socket has a limit
        folder = Path(name)
        for key in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
        (folder / "sshd_config").write_text(SETTINGS.format(folder=folder, sessions=sessions))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        kind, key_text, *_ = (folder / "host_key.pub").read_text().split()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key_text}\n")
        if Path("/run").is_dir() and getpass.getuser() == "root":
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # which Debian's service would create
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [SSHD, "-D", "-e", "-p", str(port), "-f", str(folder / "sshd_config")], stderr=log
            )
        try:
            until(lambda: _answers(port) or server.poll() is not None, "sshd does not listen")
            assert server.poll() is None, (folder / "log").read_text()
            yield {
                "ansible_connection": "ssh",
                "ansible_host": "127.0.0.1",
                "ansible_port": port,
                "ansible_user": getpass.getuser(),
                "ansible_ssh_private_key_file": str(folder / "user_key"),
                "ansible_ssh_common_args": shlex.join(
                    ["-F", "none", "-o", f"UserKnownHostsFile={folder}/known_hosts", "-o", "IdentitiesOnly=yes"]
                ),
                "ansible_control_path_dir": str(folder / "cp"),
            }
        finally:
            for socket_path in (folder / "cp").glob("*"):
                subprocess.run(["ssh", "-O", "exit", "-S", str(socket_path), "x"], capture_output=True, check=False)
            server.terminate()
            server.wait(60)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
            return one.recv(4) == b"SSH-"
    except OSError:
        return False
