"""Documentation of the options in module_utils/dbrelease/module.py: LOGIN_OPTIONS."""


class ModuleDocFragment:
    """How a module reaches the database."""

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
      - Password of that role. It is masked, in every form in which programs print one, in messages, logs, the journal's
        texts and results. Names, paths and what else later tasks read are left as they are.
      - One that may as well be a word (fewer than 8 characters, or up to 15 of one kind) is masked only where it stands
        by itself, not within names and paths.
    type: str
  login_db:
    description: Database to connect to.
    type: str
    required: true
  ssl_mode:
    description:
      - As libpq's C(sslmode). By default (also where it is empty) V(prefer) for a server on this machine, which is a
        socket, the loopback or a container on a bridge of its own, and V(verify-full) for any other.
      - Unless it is V(verify-ca) or V(verify-full), the password is never sent in clear, whatever the server asks for;
        that needs a libpq of 16 or later.
    type: str
    choices: ["", disable, allow, prefer, require, verify-ca, verify-full]
  ssl_root_cert:
    description:
      - File on the target with the authority that the server's certificate is verified by. By default libpq's own,
        C(~/.postgresql/root.crt).
    type: path
  bookkeeping_table:
    description:
      - Where the migration tool keeps the database's revision; with its schema before a dot where the role would not
        find it without. Whoever may write it is trusted as the application's migrations are.
    type: str
    default: alembic_version
requirements: [psycopg2]
"""
