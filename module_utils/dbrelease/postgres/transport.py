"""How a session with a server is kept from others: who answers is verified, or gets no password in clear."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import Any

import psycopg2.extensions

VERIFYING = ("verify-ca", "verify-full")
# The first libpq that refuses a way of authentication.
REFUSING_LIBPQ = 160000
NO_CLEAR_PASSWORD = "!password"  # noqa: S105
ROUTES = Path("/proc/net/route")
NETWORKS = Path("/sys/class/net")
BRIDGES = ("docker", "br-", "podman", "cni-podman")

# What libpq reports, and the advice for it.
ADVICE = (
    (
        "cleartext password",
        "the password was not sent; configure the server to use scram-sha-256 (pg_hba.conf, password_encryption), or "
        "set db_sslmode to verify-full",
    ),
    (
        "root certificate file",
        "set db_sslrootcert to a file on the target with the authority of the server's certificate; db_sslmode=require "
        "would not verify the server",
    ),
    (
        "does not support SSL",
        "switch TLS on at the server (ssl = on); db_sslmode=prefer would let a host in between read and answer",
    ),
    (
        "does not match host name",
        "set db_host to a name in the server's certificate; the password was not sent",
    ),
    (
        "certificate verify failed",
        "set db_sslrootcert to the authority that signed the server's certificate, or find out which host answers "
        "there; the password was not sent",
    ),
)


def is_local(host: str) -> bool:
    """Whether what is sent to a host stays on this machine: a socket, the loopback, a container on its own bridge."""
    hosts = host.split(",")
    return all(not one or one.startswith(("/", "@")) or one == "localhost" or _is_own(one) for one in hosts)


def _is_own(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or (address.version == 4 and _is_bridged(int(address)))


def _is_bridged(address: int) -> bool:
    """Whether the most exact route to an address is one of a bridge of this machine, without a gateway."""
    try:
        lines = ROUTES.read_text().splitlines()[1:]
    except OSError:
        return False
    found = []
    for line in lines:
        name, destination, gateway, _, _, _, _, mask = line.split()[:8]
        # The kernel writes each as a number of its own byte order.
        network, bits = (
            int.from_bytes(int(part, 16).to_bytes(4, sys.byteorder), "big") for part in (destination, mask)
        )
        if address & bits == network:
            found.append((bits, name, gateway))
    if not found:
        return False
    _, name, gateway = max(found)
    return not int(gateway, 16) and (name.startswith(BRIDGES) or (NETWORKS / name / "bridge").is_dir())


def default_ssl_mode(host: str) -> str:
    """The default: a server on another machine must prove its identity."""
    return "prefer" if is_local(host) else "verify-full"


def parameters(ssl_mode: str, root_cert: str) -> dict[str, Any]:
    """For libpq."""
    given = {"sslmode": ssl_mode}
    if root_cert:
        given["sslrootcert"] = root_cert
    if ssl_mode not in VERIFYING and refuses_clear_passwords():
        given["require_auth"] = NO_CLEAR_PASSWORD
    return given


def environment(ssl_mode: str, root_cert: str) -> dict[str, str]:
    """The same for PostgreSQL's programs; those before 16 ignore PGREQUIREAUTH."""
    given = {"PGSSLMODE": ssl_mode}
    if root_cert:
        given["PGSSLROOTCERT"] = root_cert
    if ssl_mode not in VERIFYING:
        given["PGREQUIREAUTH"] = NO_CLEAR_PASSWORD
    return given


def refuses_clear_passwords() -> bool:
    """Whether the driver's libpq can refuse to send a password in clear."""
    return psycopg2.extensions.libpq_version() >= REFUSING_LIBPQ


def advice(reason: str) -> str:
    """What to do about a connection that failed for reasons of security; empty for any other."""
    return next((what for said, what in ADVICE if said in reason), "")


def caveat(host: str, ssl_mode: str) -> str:
    """One sentence on what the chosen mode leaves unprotected; empty where everything is protected."""
    if ssl_mode in VERIFYING:
        return ""
    if not is_local(host):
        said = (
            f"db_sslmode is {ssl_mode}: the server at {host} is not verified, and another host may answer in its place"
        )
        if not refuses_clear_passwords():
            said += "; this target's libpq, older than 16, would also send it the password in clear text"
        return f"{said}. Set db_sslmode to verify-full, with db_sslrootcert."
    return ""
