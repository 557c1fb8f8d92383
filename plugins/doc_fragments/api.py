"""Where the API answers: options that modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Where the API answers."""

    DOCUMENTATION = r"""
options:
  api_base_url:
    description: Where the API answers; empty where there is none.
    type: str
    default: ""
  api_ca_file:
    description: File on the target with the authorities of the API's certificate; where it is empty, the usual ones.
    type: path
    default: ""
"""
