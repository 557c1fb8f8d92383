"""Documentation of the options in module_utils/dbrelease/module.py: LOGIN_OPTIONS."""


class ModuleDocFragment:
    """How a module connects to the database."""

    DOCUMENTATION = r"""
options:
  login_host:
    description: Address of the database server itself, as seen from the target; a connection pooler is refused.
    type: str
    required: true
  login_port:
    description: Port of the database server.
    type: int
    default: 5432
  login_user:
    description: Role to connect as.
    type: str
    required: true
  login_password:
    description:
      - Password of that role. It is masked, in every form in which programs print it, in messages, logs, texts of the
        journal and results. Names, paths and other values that later tasks read are unchanged.
      - A password that could be a word (fewer than 8 characters, or up to 15 of one kind) is masked only as a separate
        word, not within names and paths.
    type: str
  login_db:
    description: Database to connect to.
    type: str
    required: true
  ssl_mode:
    description:
      - As libpq's C(sslmode). By default (also where it is empty) V(prefer) for a server on this machine, which is a
        socket, the loopback or a container on a bridge of its own, and V(verify-full) for any other.
      - Unless it is V(verify-ca) or V(verify-full), the password is never sent unencrypted, whatever the server
        requests; that needs a libpq of 16 or later.
    type: str
    choices: ["", disable, allow, prefer, require, verify-ca, verify-full]
  ssl_root_cert:
    description:
      - File on the target with the authority that verifies the server's certificate. By default that of libpq,
        C(~/.postgresql/root.crt).
    type: path
  bookkeeping_table:
    description:
      - The table in which the migration tool keeps the database's revision; with its schema where it is not in the
        role's search path. Roles that may write it are trusted like the application's migrations.
    type: str
    default: alembic_version
requirements: [psycopg2]
"""
