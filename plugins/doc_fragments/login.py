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
    description: Password of that role. It appears in no result, log or journal.
    type: str
  login_db:
    description: Database to connect to.
    type: str
    required: true
  ssl_mode:
    description: As libpq's C(sslmode).
    type: str
    default: prefer
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
requirements: [psycopg2]
"""
