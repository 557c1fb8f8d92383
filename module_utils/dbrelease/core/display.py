"""The edge where data is shown to people, or stored for them: without secrets and without invisible characters.

What a later step reads is not changed: of a result all that `DATA` names, of a journal's line all but `TEXTS`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .plain_text import printable, unseen
from .redaction import masked, masked_sql

# Of a result: what other tasks work with. These keys hold no messages, and no rows of the application.
DATA = {
    *("run", "run_id", "services", "login_host", "interrupted", "payload_missing", "watch", "losses", "started"),
    *("session_settings", "directory", "files", "texts", "unproven", "revision"),
}
# Words of ours and of the release that identify a claim or a step.
WORDS = {"name", "title", "status", "step", "event", "journal_event", "state", "outcome", "verdict", "mode", "method"}
# What is written for a reader, including rows of the application. All else in the journal is read by later steps.
TEXTS = {"message", "detail", "remedy", "headline", "notice", "sample", "expected", "observed", "query"}
SQL = {"sql", "preview_sql", "before", "after", "query"}
# Each is one sentence, or a few: a line end in it was written by another program.
ONE_LINE = {"msg", "message", "headline", "detail", "remedy", "notice", "address_problem", "line", "reason"}
ERRORS_AT_MOST = 20


def sentence_for_people(text: str) -> str:
    """One line of text."""
    return printable(masked(text))


def lines_for_people(text: str) -> str:
    """Text that may have lines."""
    return printable(masked(text), lines=True)


def last_words(text: str, length: int, secret: str | None = None) -> str:
    """The end of a program's output, on one line; masked before it is cut, as half a secret would not be recognized."""
    return " ".join(masked(text, secret).split())[-length:]


def result_for_people(value: Any, key: str = "", *, text: bool = False) -> Any:
    """What a module returns, as Ansible shows it and hands it on; below a key of `TEXTS` all is text."""
    if isinstance(value, Mapping):
        return {
            printable(str(name)): part
            if name in DATA and not text
            else result_for_people(part, str(name), text=text or name in TEXTS)
            for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [result_for_people(part, key, text=text) for part in value]
    if not isinstance(value, str):
        return value
    return printable(_masked(value, key, text), lines=key not in ONE_LINE)


def facts_for_people(value: Any, key: str = "", *, text: bool = False) -> Any:
    """The facts of a journal line, without secrets in its texts; `json_text` handles invisible characters."""
    if isinstance(value, Mapping):
        claim = {"name", "status"} <= value.keys()
        return {
            name: facts_for_people(part, str(name), text=text or name in TEXTS or (claim and name in SQL))
            for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [facts_for_people(part, key, text=text) for part in value]
    return _masked(value, key, text) if text and isinstance(value, str) else value


def _masked(value: str, key: str, text: bool) -> str:
    if key in WORDS and not text:
        return value
    return masked_sql(value) if key in SQL else masked(value)


def invocation_of(params: Mapping[str, Any], hidden: Any) -> dict[str, Any]:
    """What a module was given, as Ansible shows it with -vvv."""
    kept = {name: value for name, value in params.items() if name not in hidden}
    given: dict[str, Any] = _every_text(kept)
    return {"module_args": {**given, **dict.fromkeys(hidden, "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER")}}


def json_text(value: Any, **form: Any) -> str:
    """The value as JSON that a terminal shows unchanged: invisible characters are written as JSON's own escapes."""
    text = json.dumps(value, ensure_ascii=False, **form)
    # Line ends are the form's own: those of a text are escaped already. A long text has few different characters.
    escapes = {ord(one): json.dumps(one)[1:-1] for one in set(text) - {"\n"} if unseen(one)}
    return text.translate(escapes) if escapes else text


def _every_text(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _every_text(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_every_text(part) for part in value]
    return lines_for_people(value) if isinstance(value, str) else value


def cleaned(error: BaseException) -> BaseException:
    """The same error, and those that it was raised for; their traceback shows no secret and nothing invisible."""
    seen: list[BaseException] = [error]
    for one in seen[:ERRORS_AT_MOST]:
        one.args = tuple(lines_for_people(part) if isinstance(part, str) else part for part in one.args)
        inner = [one.__cause__, one.__context__]
        seen += [cause for cause in inner if cause is not None and cause not in seen]
    return error
