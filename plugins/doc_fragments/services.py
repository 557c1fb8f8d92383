"""Documentation of the option in module_utils/dbrelease/module.py: SERVICES_OPTIONS."""


class ModuleDocFragment:
    """Where the application is, for the guards of a step."""

    DOCUMENTATION = r"""
options:
  services:
    description: What the guards of a step ask, and where; a step is not run while one of its C(guarded_by) fails.
    type: dict
    default: {}
    suboptions:
      guards:
        description: The guards of the release's C(rollback), of which a step names those that it needs.
        type: list
        elements: dict
        default: []
      containers:
        description: The container of each service, by the service's name; empty where the target has none.
        type: dict
        default: {}
      api_base_url:
        description: Where the API answers; empty where the target has none.
        type: str
        default: ""
      api_ca_file:
        description: File on the target with the authorities of the API's certificate; empty for the usual ones.
        type: path
        default: ""
      timeout_seconds:
        description: How long one request may take.
        type: float
        default: 5
"""
