"""What a sampler collects of a migration: statements, locks and probes that waited, each with its moments."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Ran:
    """A statement as it was sampled or logged."""

    pid: int
    begin_ms: float
    end_ms: float
    text: str
    tag: str = ""
    lock_wait_ms: float = 0.0
    last_ms: float = 0.0


@dataclass
class Held:
    """A lock of a session: when it was observed, and the last sample without it."""

    pid: int
    oid: int
    mode: str
    before_ms: float
    first_ms: float
    last_ms: float
    granted_ms: float | None = None


@dataclass
class Blocked:
    """A probe that waited for a lock: from which sample to which, and how many of them met which session before it."""

    first_ms: float
    last_ms: float
    pids: Counter[int] = field(default_factory=Counter)


@dataclass
class Samples:
    """What the sampler collected, by the server's clock in ms."""

    count: int = 0
    last_ms: float = 0.0
    largest_gap_ms: float = 0.0
    ran: list[Ran] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    blocked: dict[int, list[Blocked]] = field(default_factory=dict)
    applications: dict[int, str] = field(default_factory=dict)
    transactions: set[tuple[int, str]] = field(default_factory=set)
    hidden: bool = False
    current: dict[int, Ran] = field(default_factory=dict)
    open: dict[tuple[int, int, str], Held] = field(default_factory=dict)
