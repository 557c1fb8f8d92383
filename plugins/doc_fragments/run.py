"""Documentation of the options in module_utils/dbrelease/module.py: RUN_OPTIONS."""


class ModuleDocFragment:
    """The run of a module."""

    DOCUMENTATION = r"""
options:
  run:
    description: The run that this call belongs to, as M(run) opened it.
    type: dict
    required: true
    suboptions:
      run_id:
        description: Sortable, unique identifier of the run.
        type: str
        required: true
      release:
        description: Name of the release.
        type: str
        required: true
      environment:
        description: Name of the environment.
        type: str
        required: true
      playbook:
        description: Name of the playbook.
        type: str
        required: true
      state_dir:
        description: Folder on the target that keeps the journal, the backups and the evidence.
        type: path
        required: true
requirements: [python >= 3.11]
"""
