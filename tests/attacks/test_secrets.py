"""A password in every form in which a program may print it, tried on all that a run writes, shows and sends."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape, quoteattr

import pytest
import yaml
from ansible.module_utils.dbrelease.core import redaction
from ansible.module_utils.dbrelease.core.display import DATA, WORDS, facts_for_people, last_words, result_for_people
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.core.plain_text import unseen
from ansible.module_utils.dbrelease.core.redaction import Secret, is_word, masked, masked_sql
from ansible.module_utils.dbrelease.migrate.log import MigrationLog
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect
from psycopg2.extensions import QuotedString
from receivers import webhook

ROOT = Path(__file__).resolve().parents[2]
CANARY = "Zq4\\n4'r\"y%&<é $ß{x}/+@:"
CORE = ("Zq4", "n4'r", "ry%", "é $ß", "{x}", "c3%a9", "c3%A9")
USER = "canary"

Form = Callable[[str], str]


def sql_escape(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def driver_literal(text: str) -> str:
    quoted = QuotedString(text)
    quoted.encoding = "utf8"
    return quoted.getquoted().decode()


def shell_by_double_quotes(text: str) -> str:
    return "'" + text.replace("'", "'\"'\"'") + "'"


def shell_by_backslash(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def conninfo(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def basic(text: str) -> str:
    return base64.b64encode(f"{USER}:{text}".encode()).decode()


FORMS: dict[str, Form] = {
    "raw": str,
    "sql literal": lambda text: "'" + text.replace("'", "''") + "'",
    "sql literal with escapes": sql_escape,
    "the driver's literal": driver_literal,
    "sql identifier": lambda text: '"' + text.replace('"', '""') + '"',
    "shell": shlex.quote,
    "shell, by double quotes": shell_by_double_quotes,
    "shell, by a backslash": shell_by_backslash,
    "shell, printf %q": lambda text: re.sub(r"([^\w])", r"\\\1", text, flags=re.ASCII),
    "html": html.escape,
    "html, quotes as they are": lambda text: html.escape(text, quote=False),
    "html, &#39; and &#34;": lambda text: html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    "html, numbers": lambda text: "".join(f"&#{ord(one)};" for one in text),
    "html, hexadecimal": lambda text: "".join(f"&#x{ord(one):X};" for one in text),
    "html, twice": lambda text: html.escape(html.escape(text)),
    "xml": escape,
    "xml attribute": quoteattr,
    "json": json.dumps,
    "json, in unicode": lambda text: json.dumps(text, ensure_ascii=False),
    "json in json": lambda text: json.dumps(json.dumps(text)),
    "json in json in a shell": lambda text: shlex.quote(json.dumps(json.dumps(text))),
    "repr": repr,
    "ascii": ascii,
    "repr of repr": lambda text: repr(repr(text)),
    "bytes": lambda text: repr(text.encode()),
    "doubled percent": lambda text: text.replace("%", "%%"),
    "doubled percent of the quoted": lambda text: quote(text, safe="").replace("%", "%%"),
    "percent": quote,
    "percent, all": lambda text: quote(text, safe=""),
    "percent, lower case": lambda text: re.sub("%..", lambda found: found[0].lower(), quote(text, safe="")),
    "percent, some": lambda text: quote(text, safe="@:+$"),
    "percent, plus": quote_plus,
    "percent, twice": lambda text: quote(quote(text, safe=""), safe=""),
    "percent, every character": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "percent, another encoding": lambda text: quote(text, safe="", encoding="latin-1"),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of urls": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "base64 with the user": basic,
    "base64 within more": lambda text: base64.b64encode(f"xy{text} and more".encode()).decode(),
    "base64 within more, moved": lambda text: base64.b64encode(f"x{text}!".encode()).decode(),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal, upper case": lambda text: text.encode().hex().upper(),
    "hexadecimal, apart": lambda text: text.encode().hex(" "),
    "bytea": lambda text: "\\x" + text.encode().hex(),
    "escaped bytes": lambda text: "".join(f"\\x{byte:02x}" for byte in text.encode()),
    "octal": lambda text: "".join(f"\\{byte:03o}" for byte in text.encode()),
    "libpq": conninfo,
    "libpq, in a shell": lambda text: shlex.quote(f"password='{conninfo(text)}'"),
    "a url": lambda text: f"postgresql://{USER}:{quote(text, safe='')}@host/db",
    "yaml": lambda text: yaml.safe_dump(text),
    "yaml, in unicode": lambda text: yaml.safe_dump(text, allow_unicode=True),
    "yaml, double quotes": lambda text: yaml.safe_dump(text, default_style='"'),
    "quoted printable": lambda text: "".join(f"={byte:02X}" for byte in text.encode()),
    "decoded as latin-1": lambda text: text.encode().decode("latin-1"),
    "not decoded": lambda text: text.encode("latin-1", "replace").decode(errors="replace"),
    "a template": lambda text: text.replace("{", "{{").replace("}", "}}").replace("$", "$$"),
}


@pytest.fixture(autouse=True)
def nothing_is_known() -> Iterator[None]:
    redaction.forget()
    yield
    redaction.forget()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_is_masked(form: Form) -> None:
    redaction.learn([Secret(CANARY, USER)])
    printed = form(CANARY)
    kept = masked(f"before {printed} after")
    assert kept.startswith("before ") and kept.endswith(" after")
    assert not leaks(kept), kept
    assert len(kept) < len("before  after") + 45, kept


def leaks(text: str) -> list[str]:
    """The pieces of the canary, and its forms, that are in a text."""
    forms = [form(CANARY).strip() for form in FORMS.values()]
    bare = [form[1:-1] for form in forms if form[:1] in "'\""]
    return [piece for piece in (*CORE, *forms, *bare) if piece in text]


def test_a_secret_is_masked_before_a_text_is_cut() -> None:
    redaction.learn([Secret("hunter2-hunter2-hunter2")])
    assert last_words("x " * 50 + "it is hunter2-hunter2-hunter2", 12).endswith("s ***")


def test_the_output_that_a_pattern_is_searched_in_is_as_it_came(tmp_path: Path) -> None:
    log = MigrationLog(tmp_path / "log", "drawing")
    log.begin("attempt 1")
    log.feed(b"Migrated 3 drawing-project rows of drawing\n\x1b[2Jdrawing")
    assert log.end("status 0") == "Migrated 3 drawing-project rows of drawing\n\x1b[2Jdrawing\n"
    log.close()
    written = (tmp_path / "log").read_text()
    assert "Migrated 3 drawing-project rows of ***\n" in written and "\\x1b[2Jdrawing\n" in written


def test_the_journal_holds_no_secret_and_shows_nothing_unseen(run_parameters: dict[str, Any]) -> None:
    redaction.learn([Secret(CANARY)])
    journal = Journal(Run(**run_parameters))
    hostile = f"\x9b2J\u202e{CANARY}\ud800\x7f"
    journal.append("verify", "failed", {"message": hostile, "tables": {"\u200b\n": 1}})
    written = journal.path.read_text()
    assert all(character == "\n" or not unseen(character) for character in written)
    (line,) = journal.read()
    assert line["facts"] == {"message": "\x9b2J\u202e***\ud800\x7f", "tables": {"\u200b\n": 1}}


WORDS_KEPT = [
    "/app/migrations/versions/app_1.py",
    "Migrated 9000 app-items and the-app",
    "app_items of myapp, apple and App",
    "app.items, public.app, --app=1, app=1",
    "sha256 617070a1",
]
WORDS_MASKED = [
    ("the password is app.", "the password is ***."),
    ("postgresql://user:app@host/app_db", "postgresql://user:***@host/app_db"),
    ("password=app host=x", "password=*** host=x"),
    ("ALTER ROLE u PASSWORD 'app'", "ALTER ROLE u PASSWORD ***"),
    ('{"db_password": "app"}', '{"db_password": ***}'),
    ("user:app", "user:***"),
    ("\x1b[31mapp\x1b[0m", "\x1b[31m***\x1b[0m"),
    (r"one\napp\nthree", r"one\n***\nthree"),
    ("%3Aapp%40 and \\u0027app\\u0027", "%3A***%40 and \\u0027***\\u0027"),
    ("said 'app', (app) and `app`", "said '***', (***) and `***`"),
    ("Basic dXNlcjphcHA=", "Basic ***"),
    ("it is YXBw", "it is ***"),
    ("it is 617070", "it is ***"),
]


@pytest.mark.parametrize("text", WORDS_KEPT)
def test_a_word_within_names_and_paths_is_none(text: str) -> None:
    assert masked(text, "app") == text


@pytest.mark.parametrize(("text", "kept"), WORDS_MASKED)
def test_a_word_by_itself_is_masked(text: str, kept: str) -> None:
    redaction.learn([Secret("app", "user")])
    assert masked(text) == kept


def test_in_sql_a_word_is_a_name_unless_it_is_a_literal() -> None:
    script = "CREATE TABLE app (a text DEFAULT 'app'); -- app\nALTER TABLE public.app RENAME TO \"app\";"
    assert masked_sql(script, "app") == script.replace("'app'", "'***'")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        *[(word, True) for word in ("app", "drawing", "drawing_index", "12345678", "s3cret")],
        *[(other, False) for other in ("f4c8a2b5e1d9", "p@ss'd", "correct horse battery", "Tr0ub4dor")],
    ],
)
def test_which_secrets_may_be_words(text: str, word: bool) -> None:
    assert is_word(text) is word


@pytest.mark.parametrize("password", ["app", "f4c8a2b5e1d9", "upgrade", "pass"])
def test_what_later_tasks_read_is_what_it_is(password: str) -> None:
    redaction.learn([Secret(password)])
    result: dict[str, Any] = {
        "payload_missing": [f"/{password}/migrations/versions/{password}.py"],
        "run": {"run_id": password, "state_dir": f"/{password}/state"},
        "services": {"db": {"container": password}},
        "losses": [{"table": password}],
        "state": password,
        "proofs": [{"name": password, "status": password, "title": password, "detail": f"said '{password}'"}],
    }
    shown = result_for_people(result)
    detail = shown["proofs"][0].pop("detail")
    assert detail == "said '***'"
    result["proofs"][0].pop("detail")
    assert shown == result
    facts = {"from_revision": password, "path": f"/{password}", "observations": [{"sql": f"SELECT '{password}'"}]}
    assert facts_for_people(facts) == facts


def test_a_row_has_no_names_that_are_trusted() -> None:
    redaction.learn([Secret(CANARY)])
    result = {"sample": [{"name": CANARY, "run": f"\x1b{CANARY}", "files": [CANARY]}], "message": f"{CANARY}\nok"}
    assert result_for_people(result) == {
        "sample": [{"name": "***", "run": r"\x1b***", "files": ["***"]}],
        "message": "*** ok",
    }


# What a playbook reads of a result, besides what is declared to be data: flags, numbers, and texts for people.
FLAGS = {
    *(
        "changed",
        "failed",
        "skipped",
        "rc",
        "stdout",
        "refused",
        "unsettled",
        "settled",
        "ready",
        "succeeded",
        "watched",
    ),
    *("unreconciled", "samples", "ended", "rows_lost", "login_port", "release", "unreachable"),
}
SHOWN = {"message", "msg", "notice", "headline", "summary", "address_problem", "line", "proofs", "facts"}


def test_each_value_that_playbooks_read_of_a_result_is_declared() -> None:
    texts = {path: path.read_text() for part in ("roles", "playbooks") for path in (ROOT / part).rglob("*.yml")}
    registered = {name for text in texts.values() for name in re.findall(r"register: (\w+)", text)}
    read = re.compile(rf"\b(?:{'|'.join(registered)})\.(\w+)")
    found = {key for text in texts.values() for key in read.findall(text)}
    assert {"payload_missing", "losses", "watch"} <= found
    assert found - DATA - WORDS - FLAGS - SHOWN == set()


ENV = """
import os, sys
from alembic import context
from sqlalchemy import create_engine, pool
if context.is_offline_mode():
    context.configure(url="postgresql://", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(os.environ["TEST_DATABASE_URL"], poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
"""
REVISION = """
import json, os
from alembic import context, op
revision, down_revision = "bbbb00000002", "aaaa00000001"
forms = json.loads(os.environ["TEST_FORMS"])

def upgrade():
    if context.is_offline_mode():
        op.execute("SELECT " + json.loads(os.environ["TEST_LITERAL"]))
        return
    for form in forms:
        print(form)
    op.execute("CREATE TABLE order_items (id int)")
    print(os.environ["TEST_SAYS"])
    if os.environ["TEST_FAILS"]:
        raise RuntimeError(" ".join(forms))

def downgrade():
    op.execute("DROP TABLE order_items")
"""
FIRST = """
revision, down_revision = "aaaa00000001", None
def upgrade(): pass
def downgrade(): pass
"""
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Open
      run: {release: sample, environment: test, playbook: deploy, state_dir: "{{ state }}", asked: [deployed]}
      register: opened
    - block:
        - name: Migrate
          alembic_revision: &login
            run: "{{ opened.run }}"
            login_host: "{{ host }}"
            login_port: "{{ its_port }}"
            login_user: "{{ user }}"
            login_password: "{{ password }}"
            login_db: "{{ db }}"
            workdir: "{{ folder }}"
            command: ["{{ python }}", "-m", "alembic"]
            from_revision: aaaa00000001
            revision: bbbb00000002
            success_pattern: "{{ pattern }}"
          register: moved
        - name: A literal that the server says back
          sql_check_info:
            run: "{{ opened.run }}"
            login_host: "{{ host }}"
            login_port: "{{ its_port }}"
            login_user: "{{ user }}"
            login_password: "{{ password }}"
            login_db: "{{ db }}"
            checks:
              - {name: said, title: Said, violations: "SELECT {{ literal }}::int AS said"}
              - {name: shown, title: Shown, violations: "SELECT {{ literal }} AS name"}
          register: checked
          ignore_errors: true
          when: pattern == ''
        - name: Options that are wrong
          sql_check_info: {run: "{{ opened.run }}", login_password: "{{ password }}", login_host: "{{ literal }}"}
          ignore_errors: true
        - name: What tasks hand on
          ansible.builtin.assert:
            that: [opened.run.state_dir == state, moved.log is match(state), moved.revision == 'bbbb00000002']
        - name: Judge
          journal: {state: judged, run: "{{ opened.run }}", step: verify, proofs: "{{ moved.proofs }}"}
      rescue:
        - name: Record the first cause
          journal:
            state: recorded
            run: "{{ opened.run }}"
            step: playbook
            event: failed
            facts: {task: "{{ ansible_failed_task.name }}", message: "{{ ansible_failed_result.msg }}"}
    - name: Gather
      evidence:
        run: "{{ opened.run }}"
        release: {title: A sample, migration: {from_revision: aaaa00000001, to_revision: bbbb00000002}}
        asked: [deployed]
        artifacts: "{{ artifacts }}"
        templates: "{{ templates }}"
      register: evidence
    - name: Tell
      notification:
        run: "{{ opened.run }}"
        moment: end
        title: A sample
        outcome: "{{ evidence.outcome }}"
        succeeded: "{{ evidence.succeeded }}"
        headline: "{{ evidence.headline }}"
        webhook_url: "{{ webhook }}"
        smtp_password: "{{ password }}"
      register: sent
    - name: Say
      ansible.builtin.debug:
        msg: ["{{ opened }}", "{{ moved }}", "{{ checked | default('') }}", "{{ evidence }}", "{{ sent }}"]
"""


@pytest.fixture
def played(tmp_path: Path, database: Login) -> Iterator[Callable[..., tuple[str, Path]]]:
    """Plays a whole small run with -vvv: what it said, sent and wrote, in one text, and where its files are."""
    role = f"canary_{secrets.token_hex(4)}"

    def play(
        password: str, forms: list[str], *, says: str = "", pattern: str = "", fails: bool = False
    ) -> tuple[str, Path]:
        folder, state = tmp_path / "app" / "migrations", tmp_path / "app" / "state"
        (folder / "scripts" / "versions").mkdir(parents=True)
        (folder / "alembic.ini").write_text("[alembic]\nscript_location = scripts\n")
        (folder / "scripts" / "env.py").write_text(ENV)
        (folder / "scripts" / "script.py.mako").write_text("")
        (folder / "scripts" / "versions" / "first.py").write_text(FIRST)
        (folder / "scripts" / "versions" / "second.py").write_text(REVISION)
        login = replace(database, user=role, password=password)
        with closing(connect(database, "tests")) as session, session.cursor() as cursor:
            cursor.execute(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD %s", (password,))
            cursor.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
            cursor.execute("INSERT INTO alembic_version VALUES ('aaaa00000001')")
        literal = "'" + password.replace("'", "''") + "'"
        with webhook() as receiver:
            given = {
                "state": str(state),
                **{
                    "host": login.host,
                    "its_port": login.port,
                    "user": role,
                    "password": password,
                    "db": login.database,
                },
                **{"folder": str(folder), "python": sys.executable, "pattern": pattern, "literal": literal},
                **{"artifacts": str(tmp_path / "artifacts"), "templates": str(ROOT / "roles/report/templates")},
                "webhook": receiver.url,
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
            }
            (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"target": {}}, "vars": unsafe(given)}}))
            (tmp_path / "play.yml").write_text(PLAY)
            argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-vvv", "-i", "hosts.json", "play.yml"]
            url = f"postgresql+psycopg2://{role}:{quote(password, safe='')}@{login.host}:{login.port}/{login.database}"
            environment = {
                **os.environ,
                **{"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "TEST_DATABASE_URL": url, "TEST_SAYS": says},
                **{"TEST_FORMS": json.dumps(forms), "TEST_FAILS": "yes" if fails else ""},
                "TEST_LITERAL": json.dumps(literal),
            }
            ended = subprocess.run(
                argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
            )
            sent = json.dumps(receiver.bodies, ensure_ascii=False)
        print(ended.stdout, ended.stderr)
        (tmp_path / "hosts.json").unlink()
        files = [path for path in (*state.rglob("*"), *(tmp_path / "artifacts").rglob("*")) if path.is_file()]
        names = {path.name for path in files}
        assert {"journal.jsonl", "evidence.json", "report.md", "report.html", "junit.xml"} <= names, ended.stdout
        assert any(name.startswith("migration_log") for name in names) and receiver.bodies
        written = [path.read_bytes().decode(errors="replace") for path in files]
        return "\n".join([ended.stdout, ended.stderr, sent, *written]), state

    yield play
    with closing(connect(database, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"DROP OWNED BY {role}")
        cursor.execute(f"DROP ROLE {role}")


def unsafe(values: dict[str, Any]) -> dict[str, Any]:
    """Values that Ansible takes as they are, whatever braces are in them."""
    return {name: {"__ansible_unsafe": value} if isinstance(value, str) else value for name, value in values.items()}


@pytest.mark.parametrize("fails", [False, True], ids=["a migration that prints it", "one that fails with it"])
def test_no_form_is_in_anything_that_a_run_leaves(played: Callable[..., tuple[str, Path]], fails: bool) -> None:
    forms = [form(CANARY) for form in FORMS.values()]
    text, _ = played(CANARY, forms, fails=fails)
    assert leaks(text) == []
    assert "s3cr3t-t0ken" not in text
    assert ("RuntimeError" if fails else "2) “Shown” failed: 1 row breaks it") in text


def test_a_password_that_is_a_common_word_breaks_nothing(played: Callable[..., tuple[str, Path]]) -> None:
    text, state = played(
        "app", ["my password is app", "app"], says="Migrated 3 app-items", pattern="Migrated 3 app-items"
    )
    assert "A sample on test was deployed" in text
    (log,) = state.glob("migration_log*.log")
    assert "my password is ***\n***\nMigrated 3 app-items\n" in log.read_text()
    assert f"{state}/journal.jsonl" and str(state) in text


SCHEDULE = """
- hosts: all
  gather_facts: false
  module_defaults:
    group/dbrelease.engine.run: {run: "{{ run_opened.run }}"}
  vars:
    run_opened:
      run:
        {run_id: 20260102T030405Z-abcdef, release: sample, environment: test, playbook: monitor, state_dir: "{{ dir }}"}
    run_release: {release: {}}
    run_containers: {}
    monitor_schedule: hourly
  tasks:
    - ansible.builtin.include_tasks: "{{ tasks }}"
"""
ANSIBLE = """#!/bin/sh
tr '\\0' ' ' </proc/$$/cmdline >{seen}
exec {ansible} "$@"
"""
WITHOUT = """#!/bin/sh
exit 3
"""


@pytest.mark.parametrize("given", [{}, {"api_base_url": "http://u:0ther@localhost"}], ids=["the same", "another by -e"])
def test_the_check_of_a_schedule_has_no_login_in_its_argument_list(tmp_path: Path, given: dict[str, str]) -> None:
    url = f"http://{USER}:{quote(CANARY, safe='')}@localhost:8001"
    tools = Path(sys.executable).parent
    (tmp_path / "ansible").write_text(ANSIBLE.format(seen=tmp_path / "seen", ansible=tools / "ansible"))
    # It goes no further: what cron would run ends at once, and nothing is installed.
    (tmp_path / "ansible-playbook").write_text(WITHOUT)
    for program in ("ansible", "ansible-playbook"):
        (tmp_path / program).chmod(0o755)
    hosts = {"target": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}
    values = unsafe({"api_base_url": url, "db_password": CANARY, "db_user": USER})
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": values}}))
    (tmp_path / "play.yml").write_text(SCHEDULE)
    extra: dict[str, object] = {
        "tasks": str(ROOT / "roles/monitor/tasks/schedule.yml"),
        "role_path": str(ROOT / "roles/monitor"),
    }
    extra |= {"__monitor_tools": str(tmp_path), "monitor_scheduled": False, "dir": str(tmp_path / "state"), **given}
    argv = [str(tools / "ansible-playbook"), "-vvv", "-i", str(tmp_path / "hosts.json"), str(tmp_path / "play.yml")]
    ended = subprocess.run(
        [*argv, "-e", json.dumps(extra)],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(ended.stdout, ended.stderr)
    seen = (tmp_path / "seen").read_text()
    assert "--module-name=assert" in seen and "api_base_url" in seen
    assert leaks(seen) == leaks(ended.stdout + ended.stderr) == []
    refusal = "does not give the api_base_url of this run" if given else "without it the target cannot be watched"
    assert refusal in " ".join(ended.stdout.split())
