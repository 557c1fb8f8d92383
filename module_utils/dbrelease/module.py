"""What every module shares: options, the way it ends, and secrets kept out of both."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

from ansible.module_utils import basic

from .core.connection import ending_with_its_connection
from .core.display import cleaned, invocation_of, result_for_people, sentence_for_people
from .core.errors import ReleaseError
from .core.options import Options, run_of
from .core.redaction import learn, secrets_of
from .runs.holder import present

Act = Callable[[Mapping[str, Any], bool], dict[str, Any]]


class AnsibleModule(basic.AnsibleModule):
    """A module whose secrets are masked by us, where people read them.

    Ansible replaces a secret's letters in every text, also in paths and names that other tasks read; and it does not
    know the forms in which a program prints a secret.
    """

    def fail_json(self, msg: str, **facts: Any) -> NoReturn:
        """Fail as Ansible does, with masked texts: an argument is wrong, or the act has failed."""
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
    # What was imported is never garbage: searching it again, as Python does also at the end, takes an eighth of the
    # time of a module that does little.
    gc.freeze()
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    try:
        with ending_with_its_connection(), _presence(module.params, module.check_mode):
            result = act(module.params, module.check_mode)
    except ReleaseError as error:
        cleaned(error)
        facts = {**error.facts, **({"could_not_run": True} if _is_caused_so(error) else {})}
        module.fail_json(msg=error.message, refused=error.refused, **facts)
    except Exception as error:
        if reason := _database_reason(error):
            cleaned(error)
            module.fail_json(
                msg=f"The session with the database failed ({reason}): check that the database is running and what it "
                "logged, and rerun the playbook.",
                could_not_run=_says_nothing(error),
            )
        raise cleaned(error)  # noqa: B904
    module.exit_json(**{"changed": False, **result})


def _database_reason(error: Exception) -> str:
    """What the server or its client reported; empty for any other error. Not every module uses a database."""
    if "psycopg2" not in sys.modules:
        return ""
    import psycopg2

    from .postgres.session import server_reason

    return server_reason(error) if isinstance(error, psycopg2.Error) else ""


def _is_caused_so(error: ReleaseError) -> bool:
    return isinstance(error.__cause__, Exception) and bool(_database_reason(error.__cause__)) and _says_nothing(error)


def _says_nothing(error: Exception) -> bool:
    """Whether the database itself, and not the request, is the reason of its error."""
    from .postgres.could_not_run import could_not_run

    return could_not_run(error)


def _presence(params: Mapping[str, Any], check_mode: bool) -> AbstractContextManager[None]:
    """A module of the run that holds the target shows that the run is alive; check mode holds nothing."""
    run = params.get("run") or {}
    return present(run_of(params)) if run.get("run_id") and not check_mode else nullcontext()
