"""The options that modules share, as argument specifications; nothing here knows Ansible itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .journal import Run
from .redaction import learn, secrets_of

Options = dict[str, dict[str, Any]]
# Alembic's own name for its table; a declared one may have its schema before a dot.
VERSION_TABLE = "alembic_version"
LOGIN_OPTIONS: Options = {
    "login_host": {"type": "str", "required": True},
    "login_port": {"type": "int", "default": 5432},
    "login_user": {"type": "str", "required": True},
    "login_password": {"type": "str", "no_log": True},
    "login_db": {"type": "str", "required": True},
    "ssl_mode": {"type": "str", "choices": ["", "disable", "allow", "prefer", "require", "verify-ca", "verify-full"]},
    "ssl_root_cert": {"type": "path"},
    "bookkeeping_table": {"type": "str", "default": VERSION_TABLE},
}
RUN_OPTIONS: Options = {
    "run": {
        "type": "dict",
        "required": True,
        "options": {
            "run_id": {"type": "str", "required": True},
            "release": {"type": "str", "required": True},
            "environment": {"type": "str", "required": True},
            "playbook": {"type": "str", "required": True},
            "state_dir": {"type": "path", "required": True},
        },
    },
}
# Values of the inventory: the login of the role that migrates, and what else Alembic needs.
ENVIRONMENT_OPTIONS: Options = {"environment": {"type": "dict", "default": {}, "no_log": True}}
DB_CONTAINER_OPTIONS: Options = {"db_container": {"type": "str", "default": ""}}
BACKEND_OPTIONS: Options = {"backend_container": {"type": "str", "default": ""}}
API_OPTIONS: Options = {
    "api_base_url": {"type": "str", "default": ""},
    "api_ca_file": {"type": "path", "default": ""},
}
LOCK_OPTIONS: Options = {
    "lock": {
        "type": "dict",
        "default": {},
        "options": {
            "timeout_ms": {"type": "int", "default": 500},
            "attempts": {"type": "int", "default": 10},
            "deadline_seconds": {"type": "int", "default": 120},
            "blockers": {
                "type": "dict",
                "default": {},
                "options": {
                    "wait": {"type": "bool", "default": False},
                    "cancel_autovacuum": {"type": "bool", "default": False},
                    "end_idle_in_transaction": {"type": "int", "default": 0},
                },
            },
        },
    },
}
BUDGET_OPTIONS: Options = {
    "tables": {"type": "list", "elements": "str", "default": []},
    "budget": {
        "type": "dict",
        "default": {},
        "options": {
            "write_wait_ms": {"type": "int", "default": 1000},
            "duration_seconds": {"type": "float"},
            "size_bytes": {"type": "int"},
        },
    },
}
SERVICES_OPTIONS: Options = {
    "services": {
        "type": "dict",
        "default": {},
        "options": {
            "guards": {"type": "list", "elements": "dict", "default": []},
            "containers": {"type": "dict", "default": {}},
            **API_OPTIONS,
            "timeout_seconds": {"type": "float", "default": 5},
        },
    },
}
SWAP_OPTIONS: Options = {
    "swap": {
        "type": "dict",
        "default": {},
        "options": {
            "containers": {"type": "list", "elements": "str", "default": []},
            "backend_container": {"type": "str", "default": ""},
            "remove_payload": {"type": "list", "elements": "dict", "default": []},
            "stop_seconds": {"type": "int", "default": 10},
            "healthy_seconds": {"type": "int", "default": 120},
            "swap_back_command": {"type": "str", "default": ""},
            "drop_command": {"type": "str", "default": ""},
        },
    },
}


def environment_of(params: Mapping[str, Any]) -> dict[str, str]:
    """What Alembic gets beside its container's own variables; from then on what is secret in it is masked."""
    learn(secrets_of(params, ["environment"]))
    return {str(name): str(value) for name, value in (params.get("environment") or {}).items()}


def run_of(params: Mapping[str, Any]) -> Run:
    """The run that a module was called for."""
    return Run(**params["run"])
