"""Clients that write through the API while a playbook runs."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests
from outside import API

ANSWERS_WITHIN_S = 60


@dataclass
class Client:
    """Creates drawings, moves them between projects, and remembers every acknowledged write."""

    projects: list[str]
    acknowledged: dict[str, str | None] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    longest_s: float = 0.0

    def work(self, stop: threading.Event) -> None:
        """Until it is stopped."""
        for number in itertools.count():
            project = self.projects[number % len(self.projects)]
            if number % 3 and self.acknowledged:
                identity = next(iter(self.acknowledged))
                self.send("PATCH", f"drawings/{identity}", {"project_id": project})
            else:
                body = {"title": f"live 'n' {number} 📐", "file_path": f"/live/{number}.pdf", "project_id": project}
                self.send("POST", "drawings", body)
            if stop.wait(0.02):
                return

    def send(self, method: str, path: str, body: dict[str, str]) -> None:
        """One request."""
        begun = time.monotonic()
        answer = requests.request(method, f"{API}/{path}", json=body, timeout=30)
        self.longest_s = max(self.longest_s, time.monotonic() - begun)
        if answer.ok:
            self.acknowledged[answer.json()["id"]] = body["project_id"]
        else:
            self.errors.append(f"{method} {path}: {answer.status_code} {answer.text}")

    def until_acknowledged(self, drawings: int) -> None:
        """Wait for so many drawings."""
        deadline = time.monotonic() + ANSWERS_WITHIN_S
        while len(self.acknowledged) < drawings and not self.errors:
            assert time.monotonic() < deadline, f"{len(self.acknowledged)} of {drawings} drawings were acknowledged"
            time.sleep(0.02)


@contextmanager
def writing() -> Iterator[Client]:
    """A client that writes within the block."""
    projects = [each["id"] for each in requests.get(f"{API}/projects", timeout=10).json()[:7]]
    client, stop = Client(projects), threading.Event()
    thread = threading.Thread(target=client.work, args=(stop,))
    thread.start()
    try:
        yield client
    finally:
        stop.set()
        thread.join()
