"""Whether the server admits db_user to the databases of a restore: the maintenance database, and a copy's new name."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import psycopg2

from ..core.errors import ReleaseError
from ..core.restore_names import copy_name
from .session import Login, connect

APPLICATION = "dbrelease admitted"
MAINTENANCE = "postgres"
# In every language of the server's messages.
HBA = "pg_hba.conf"
# A new name is tried only where a rule names databases: the attempt leaves a line in the server's log. A role that may
# not read the rules leaves that question open.
NAMES_DATABASES = """
SELECT CASE WHEN has_function_privilege('pg_hba_file_rules()', 'EXECUTE') THEN
  EXISTS (SELECT FROM pg_hba_file_rules WHERE type <> 'local' AND NOT database && '{all,replication}'::text[])
ELSE false END AS found
"""


def not_admitted(login: Login, run_id: str, maintenance: str = MAINTENANCE) -> str:
    """What would stop a restore, in sentences with what to do; empty where nothing does."""
    try:
        with (
            closing(connect(replace(login, database=maintenance), APPLICATION, read_only=True)) as session,
            session.cursor() as cursor,
        ):
            cursor.execute(NAMES_DATABASES)
            ((tried,),) = cursor.fetchall()
    except psycopg2.Error:
        return ""
    except ReleaseError as error:
        return (
            f"A restore works from the database {maintenance}, where this role has no access. {error.message} "
            "Or name another database by -e restore_maintenance_db=NAME."
        )
    copy = copy_name(login.database, run_id)
    if not tried:
        return ""
    try:
        connect(replace(login, database=copy), APPLICATION, read_only=True).close()
    except ReleaseError as error:
        if HBA in error.message:
            return (
                f"A restore makes a new database beside this one, such as {copy}, and the server's pg_hba.conf does "
                f"not admit {login.user} to it. Let it admit {login.user} to all databases from this target, and "
                "reload the server: the name is another one each time."
            )
    return ""
