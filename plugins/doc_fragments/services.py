"""Documentation of the option in module_utils/dbrelease/module.py: SERVICES_OPTIONS."""


class ModuleDocFragment:
    """The application's services, for the guards of a step."""

    DOCUMENTATION = r"""
options:
  services:
    description: The services that the guards of a step query; a step does not run while one of its C(guarded_by) fails.
    type: dict
    default: {}
    suboptions:
      guards:
        description: The guards of the release's C(rollback), of which a step names those it needs.
        type: list
        elements: dict
        default: []
      containers:
        description: The container of each service, by the service's name; empty where the target has none.
        type: dict
        default: {}
      api_base_url:
        description: Base URL of the API; empty where the target has none.
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
