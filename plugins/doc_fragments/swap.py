"""Documentation of the options in module_utils/dbrelease/module.py: SWAP_OPTIONS."""


class ModuleDocFragment:
    """How one database replaces another."""

    DOCUMENTATION = r"""
options:
  swap:
    description: How the application is stopped and started, and the commands that the report shows.
    type: dict
    default: {}
    suboptions:
      containers:
        description:
          - The application's containers. Only running ones are stopped and started, together with the other running
            containers of the same Compose or Swarm service; empty names are ignored.
        type: list
        elements: str
        default: []
      backend_container:
        description: The container with the files of C(remove_payload); empty where they are on the target itself.
        type: str
        default: ""
      remove_payload:
        description:
          - Files of the release, as M(release_info) returns its payload, that are removed before the application stops,
            so that a backend that migrates at its start finds nothing to apply. Only a file with the release's
            sha256 is removed; all are put back where the swap fails.
        type: list
        elements: dict
        default: []
      stop_seconds:
        description: How long a container may take to stop before it is killed; its own, longer stop timeout applies.
        type: int
        default: 10
      healthy_seconds:
        description: How long the containers may take to become healthy again.
        type: int
        default: 120
      swap_back_command:
        description:
          - For the report, the command that swaps back; C({database}) stands for the name of the kept database.
        type: str
        default: ""
      drop_command:
        description: For the report, the command that drops the kept database; C({database}) stands for its name.
        type: str
        default: ""
"""
