"""A test's own sessions: they find names as the application's do, and what of the engine works in one finds them so."""

from __future__ import annotations

from ansible.module_utils.dbrelease.postgres import session as database
from ansible.module_utils.dbrelease.postgres.session import Login, Session


def connect(login: Login, application_name: str) -> Session:
    """As the engine connects, but with the role's own search_path."""
    session = database.connect(login, application_name)
    session.own_settings = session.role_settings
    with session.cursor() as cursor:
        for name, value in session.role_settings.items():
            cursor.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))
    return session
