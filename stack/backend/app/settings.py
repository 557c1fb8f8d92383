"""The settings of the API and the worker, all from the environment."""

from __future__ import annotations

import os
from typing import Literal

from sqlalchemy import URL

Phase = Literal["A", "B"]


def database_url() -> URL:
    """The database of this process, by the variables that the official Postgres image uses as well."""
    return URL.create(
        "postgresql+psycopg2",
        username=os.environ["POSTGRES_USER"],
        password=os.environ["POSTGRES_PASSWORD"],
        host=os.environ.get("POSTGRES_HOST", "postgres"),
        port=int(os.environ.get("POSTGRES_PORT", "5432")),
        database=os.environ["POSTGRES_DB"],
    )


def broker_url() -> str:
    return os.environ.get("REDIS_URL", "redis://redis:6379/0")


def app_phase() -> Phase:
    """A: a drawing has one project. B: the same, and `projects` from the junction table."""
    phase = os.environ.get("APP_PHASE", "A")
    if phase not in ("A", "B"):
        raise SystemExit(f"APP_PHASE is {phase!r}, which is no phase of this application; set it to A or B.")
    return "B" if phase == "B" else "A"
