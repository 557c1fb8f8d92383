"""Documentation of the options in module_utils/dbrelease/core/options.py: ENVIRONMENT_OPTIONS."""


class ModuleDocFragment:
    """The variables that Alembic gets in addition to those of its container."""

    DOCUMENTATION = r"""
options:
  environment:
    description:
      - Variables for Alembic, such as the login of the role that migrates; they appear in no argument list.
      - Values whose names indicate a secret (such as PASS, SECRET, TOKEN, KEY), and passwords in URLs, are masked.
    type: dict
    default: {}
"""
