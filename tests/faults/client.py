"""A client that never stops writing, and its ledger: what was acknowledged must be there, and no more."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests
from outside import API

PAUSE_S = 0.05
TIMEOUT_S = (3, 15)
ABSENT = "(absent)"
# Whether a request that failed so was carried out cannot be determined.
SERVER_ERROR = 500

State = str | None  # of a drawing its project, of a project its description; ABSENT where there is no such row
Key = tuple[str, str]  # kind, and the name that the client gave it


@dataclass
class Entry:
    """A row of the client's own: the states that it may be in, one unless a write was not acknowledged."""

    allowed: set[State]
    identity: str = ""
    certain: bool = True

    def acknowledged(self, state: State) -> None:
        self.allowed = {state}

    def unknown(self, state: State) -> None:
        """It may be carried out now, later or never: nothing more is asked of this row."""
        self.allowed.add(state)
        self.certain = False


@dataclass
class Ledger:
    """Every write that was sent, and what came of it."""

    token: str = field(default_factory=lambda: secrets.token_hex(4))
    entries: dict[Key, Entry] = field(default_factory=dict)
    acknowledged: int = 0
    unacknowledged: int = 0

    @property
    def prefix(self) -> str:
        """What the name of each of the client's rows begins with."""
        return f"fault {self.token} "

    def lost(self, found: Mapping[Key, State]) -> list[str]:
        """Acknowledged writes of which the database does not have the last state."""
        return [
            f"{kind} {name}: {found.get((kind, name), ABSENT)}, expected {sorted(map(str, entry.allowed))}"
            for (kind, name), entry in self.entries.items()
            if found.get((kind, name), ABSENT) not in entry.allowed
        ]

    def unexpected(self, found: Mapping[Key, State]) -> list[str]:
        """Rows under the client's names that it never sent."""
        return sorted(name for kind, name in found if (kind, name) not in self.entries)


class Client(threading.Thread):
    """POST, PATCH and DELETE of drawings and projects, one after the other, until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ledger = Ledger()
        self.stop = threading.Event()
        self._seeded = [row["id"] for row in requests.get(f"{API}/projects", timeout=10).json()[:5]]

    def run(self) -> None:
        for number in itertools.count():
            for act in (self._create, self._move, self._rename, self._remove):
                if self.stop.wait(PAUSE_S):
                    return
                act(number)

    def _create(self, number: int) -> None:
        body = {"code": f"{self.ledger.token}-{number}", "description": "as created"}
        project = self._post("projects", f"p{number}", body, "as created")
        targets = [self._seeded[number % len(self._seeded)], *([project.identity] if project.identity else [])]
        for place, target in enumerate(targets):
            body = {"file_path": f"/fault/{number}-{place}.pdf", "project_id": target}
            self._post("drawings", f"d{number}-{place}", body, target)

    def _move(self, number: int) -> None:
        target = self._seeded[(number + 1) % len(self._seeded)]
        self._change("PATCH", ("drawings", f"d{number}-0"), {"project_id": target}, target)

    def _rename(self, number: int) -> None:
        self._change("PATCH", ("projects", f"p{number}"), {"description": "described anew"}, "described anew")

    def _remove(self, number: int) -> None:
        if number % 3 == 0:
            self._change("DELETE", ("drawings", f"d{number}-0"), None, ABSENT)
        if number % 3 == 1:
            # The drawing in it stays, without a project.
            answer = self._change("DELETE", ("projects", f"p{number}"), None, ABSENT)
            inside = self.ledger.entries.get(("drawings", f"{self.ledger.prefix}d{number}-1"))
            if inside and answer and inside.certain:
                inside.acknowledged(None)
            elif inside and answer is not False:
                inside.unknown(None)

    def _post(self, kind: str, name: str, body: dict[str, str], state: State) -> Entry:
        full = {**body, ("title" if kind == "drawings" else "name"): self.ledger.prefix + name}
        entry = self.ledger.entries[kind, self.ledger.prefix + name] = Entry({ABSENT})
        answer = self._send("POST", kind, full)
        if answer is None:
            entry.unknown(state)
        elif answer.ok:
            entry.acknowledged(state)
            entry.identity = answer.json()["id"]
        return entry

    def _change(self, method: str, key: Key, body: dict[str, str] | None, state: State) -> bool | None:
        """Whether it was acknowledged; None where that is unknown, False where it was refused or not sent."""
        entry = self.ledger.entries.get((key[0], self.ledger.prefix + key[1]))
        if entry is None or not entry.identity or not entry.certain:
            return False
        answer = self._send(method, f"{key[0]}/{entry.identity}", body)
        if answer is None:
            entry.unknown(state)
            return None
        if answer.ok:
            entry.acknowledged(state)
        return answer.ok

    def _send(self, method: str, path: str, body: dict[str, str] | None) -> requests.Response | None:
        try:
            answer = requests.request(method, f"{API}/{path}", json=body, timeout=TIMEOUT_S)
        except requests.RequestException:
            answer = None
        if answer is None or answer.status_code >= SERVER_ERROR:
            self.ledger.unacknowledged += 1
            time.sleep(PAUSE_S)  # plays: a client that tries again
            return None
        self.ledger.acknowledged += answer.ok
        return answer


@contextmanager
def writing() -> Iterator[Client]:
    """A client writes while the block runs."""
    client = Client()
    client.start()
    try:
        yield client
    finally:
        client.stop.set()
        client.join()
