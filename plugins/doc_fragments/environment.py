"""Documentation of the options in module_utils/dbrelease/core/options.py: ENVIRONMENT_OPTIONS."""


class ModuleDocFragment:
    """What Alembic gets beside its container's own variables."""

    DOCUMENTATION = r"""
options:
  environment:
    description:
      - Variables that Alembic is started with, such as the login of the role that migrates; in no argument list.
      - What their names say is secret (PASS, SECRET, TOKEN, KEY and their like), and passwords in URLs, are masked.
    type: dict
    default: {}
"""
