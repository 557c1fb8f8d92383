"""What every module shares: options, the way it ends, and secrets kept out of both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

from ansible.module_utils import basic

from .claiming import present
from .errors import ReleaseError
from .for_people import cleaned, invocation_of, result_for_people, sentence_for_people
from .journal import Run
from .secret import learn, secrets_of

Options = dict[str, dict[str, Any]]

LOGIN_OPTIONS: Options = {
    "login_host": {"type": "str", "required": True},
    "login_port": {"type": "int", "default": 5432},
    "login_user": {"type": "str", "required": True},
    "login_password": {"type": "str", "no_log": True},
    "login_db": {"type": "str", "required": True},
    "ssl_mode": {"type": "str", "choices": ["", "disable", "allow", "prefer", "require", "verify-ca", "verify-full"]},
    "ssl_root_cert": {"type": "path"},
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

LOCK_OPTIONS: Options = {
    "lock": {
        "type": "dict",
        "default": {},
        "options": {
            "timeout_ms": {"type": "int", "default": 500},
            "attempts": {"type": "int", "default": 10},
            "deadline_seconds": {"type": "int", "default": 120},
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
            "api_base_url": {"type": "str", "default": ""},
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
            "bookkeeping_table": {"type": "str", "default": "alembic_version"},
            "stop_seconds": {"type": "int", "default": 10},
            "healthy_seconds": {"type": "int", "default": 120},
            "swap_back_command": {"type": "str", "default": ""},
            "drop_command": {"type": "str", "default": ""},
        },
    },
}

Act = Callable[[Mapping[str, Any], bool], dict[str, Any]]


def run_of(params: Mapping[str, Any]) -> Run:
    """The run that a module was called for."""
    return Run(**params["run"])


class AnsibleModule(basic.AnsibleModule):
    """A module whose secrets are masked by us, where people read them.

    Ansible puts asterisks for a secret's letters into every text, also into paths and names that other tasks read; and
    it knows none of the forms in which a program prints a secret.
    """

    def fail_json(self, msg: str, **facts: Any) -> NoReturn:
        """See there; what was given is wrong, or the act has failed."""
        shown = self._shown_by_us()
        super().fail_json(msg=sentence_for_people(msg), **result_for_people(facts), **shown)

    def exit_json(self, **result: Any) -> NoReturn:
        """See there."""
        shown = self._shown_by_us()
        super().exit_json(**result_for_people(result), **shown)

    def log(self, msg: str, log_args: Mapping[str, Any] | None = None) -> None:
        """The target's system log, which others may read, has what a module was given."""
        self._shown_by_us()
        given = {name: sentence_for_people(str(value)) for name, value in (log_args or {}).items()}
        super().log(sentence_for_people(msg), given)

    def _shown_by_us(self) -> dict[str, Any]:
        """What Ansible shows of the options with -vvv; from here on none of its own asterisks."""
        hidden = [name for name, option in self.argument_spec.items() if option.get("no_log")]
        learn(secrets_of(self.params, hidden))
        self.no_log_values.clear()
        return {"invocation": invocation_of(self.params, hidden)}


def run_module(options: Options, act: Act) -> None:
    """Run `act(params, check_mode)`: what it returns is the result; a ReleaseError becomes one sentence."""
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    try:
        with _presence(module.params, module.check_mode):
            result = act(module.params, module.check_mode)
    except ReleaseError as error:
        cleaned(error)
        module.fail_json(msg=error.message, refused=error.refused, **error.facts)
    except Exception as error:
        if reason := _database_reason(error):
            cleaned(error)
            module.fail_json(
                msg=f"The database did not answer to the end ({reason}): see that it runs and what it logged, and run "
                "again."
            )
        raise cleaned(error)  # noqa: B904
    module.exit_json(**{"changed": False, **result})


def _database_reason(error: Exception) -> str:
    """What the server or its client said; empty of any other error. Not every module asks a database."""
    if "psycopg2" not in sys.modules:
        return ""
    import psycopg2

    from .database import server_reason

    return server_reason(error) if isinstance(error, psycopg2.Error) else ""


def _presence(params: Mapping[str, Any], check_mode: bool) -> AbstractContextManager[None]:
    """A module of the run that holds the target shows that the run lives; check mode holds nothing."""
    run = params.get("run") or {}
    return present(run_of(params)) if run.get("run_id") and not check_mode else nullcontext()
