"""One engine a process, and sessions on it."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from app.settings import database_url

# pool_pre_ping: a pooled connection that died with the database is replaced instead of failing a request.
engine = create_engine(database_url(), pool_pre_ping=True, connect_args={"connect_timeout": 3})
session_factory = sessionmaker(engine, expire_on_commit=False)


def session() -> Iterator[Session]:
    """FastAPI dependency: one session a request."""
    with session_factory() as open_session:
        yield open_session
