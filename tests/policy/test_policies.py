"""The rules of this repository: each is a function that finds what breaks it, and is shown to find something."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ("library", "module_utils", "roles", "plugins", "collections")
GROUPS = "collections/ansible_collections/dbrelease/engine/meta/runtime.yml"
# The options that an action group gives its modules, by group; the documentation fragment says which modules have them.
GROUP_OF = {"run": "run", "login": "database"}
# A label of Compose has one of them.
STORY_WORDS = re.compile(r"drawing|(?<!com\.docker\.compose\.)(?<!compose[_ ])project|8[._]1a|junction", re.IGNORECASE)
HOME = re.compile(r"(?<![\w.$}~-])/(?:work|home|Users|root|opt/pypi)[/\w-]*/" + r"|\.\./sha" + "red")
SHELLS = re.compile(r"^\s*(?:- )?(?:ansible\.builtin\.)?(?:command|shell|raw|script):")
OPTIONS_OF = re.compile(r"Options of M\((?P<module>\w+)\)\.")
SPECS = "meta/argument_specs.yml"
PINNED = re.compile(r"\./\S+|[\w.-]+/[\w./-]+@[0-9a-f]{40}")
A_LOGIN = re.compile(r"\s+(login_(?!password: .\{\{ run_login)\w+: |ssl_(mode|root_cert): |run: .\{\{ run_opened)")
BARE_RESULT = re.compile(r"\{\{ (run_opened|run_release|run_containers|\w+_result)[\w.]* \}\}")
WAIT_IN_WORDS = re.compile(r"(?<![\w.-])(?:pg_)?sleep(?:\s+[\d.]|\s*\()|\bpg_sleep_(?:for|until)\b")
# Without one of these options a task of wait_for waits for a fixed time.
CONDITIONS = {"host", "port", "path", "search_regex"}
TASK_START = re.compile(r"^\s*- ")

Policy = Callable[[Path], Iterator[str]]


def files_of(root: Path) -> list[Path]:
    """What is in the repository, or would be after the next `git add`."""
    argv = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        paths = [root / name for name in listed.stdout.split("\0") if name]
    else:
        paths = list(root.rglob("*"))
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def yaml_of(path: Path) -> Any:
    """Its content; tags such as !vault are taken as their text."""
    return yaml.load(text_of(path), Loader=_Loader)  # noqa: S506


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_multi_constructor("!", lambda loader, tag, node: str(node.value))


# The engine


def the_engine_knows_no_story(root: Path) -> Iterator[str]:
    """The engine serves any release; what it knows of one would be in the way of the next."""
    for path in files_of(root):
        name = path.relative_to(root)
        if name.parts[0] in ENGINE:
            for number, line in enumerate([str(name), *text_of(path).splitlines()]):
                for word in STORY_WORDS.findall(line):
                    yield f"{name}:{number}: {word}: {line.strip():.80}"


def no_file_names_a_machine(root: Path) -> Iterator[str]:
    """Nothing here works on one machine only."""
    for path in files_of(root):
        for number, line in enumerate(text_of(path).splitlines(), start=1):
            if found := HOME.search(line):
                yield f"{path.relative_to(root)}:{number}: {found[0]}"


# Playbooks and roles


def playbooks_and_tasks(root: Path) -> Iterator[tuple[Path, Any]]:
    """Every YAML file that is a list, as plays and tasks are; links once, data never."""
    for path in files_of(root):
        top = path.relative_to(root).parts[0]
        if path.suffix in (".yml", ".yaml") and top not in ("tests", "releases", "schemas", "stack", "inventories"):
            content = yaml_of(path)
            if isinstance(content, list):
                yield path, content


def a_play_on_targets_stops_at_the_first_error(root: Path) -> Iterator[str]:
    """Of several targets, none goes on where another failed."""
    for path, content in playbooks_and_tasks(root):
        for play in content:
            on_targets = isinstance(play, dict) and play.get("hosts", "localhost") != "localhost"
            if on_targets and play.get("any_errors_fatal") is not True:
                yield f"{path.relative_to(root)}: play {play.get('name')!r} is not any_errors_fatal"


def a_playbook_asks_who_holds_the_target_or_only_reads(root: Path) -> Iterator[str]:
    """One that opens a run either settles, by the role recovery, whether it may act, or says that it only reads."""
    for path in sorted((root / "playbooks").glob("*.yml")):
        text = text_of(path)
        asks, reads = bool(re.search(r"name: recovery[,}]", text)), "run_exclusive: false" in text
        if "name: run}" in text and asks == reads:
            yield f"{path.relative_to(root)}: {'both' if asks else 'neither'} of role recovery and run_exclusive: false"


def a_playbook_runs_whole(root: Path) -> Iterator[str]:
    """A tag that somebody asks for leaves nothing out of it: nothing of a playbook would be a success of it."""
    for path in sorted((root / "playbooks").glob("*.yml")):
        for play in yaml_of(path):
            if "hosts" in play and play.get("tags") != ["always"]:
                yield f"{path.relative_to(root)}: play {play.get('name')!r} is not tagged always"


def a_command_says_why_no_module_does_it(root: Path) -> Iterator[str]:
    """A `command` or `shell` task has a comment in the line above the task, or above the command."""
    for path, _ in playbooks_and_tasks(root):
        lines = text_of(path).splitlines()
        for index, line in enumerate(lines):
            start = next((at for at in range(index, -1, -1) if TASK_START.match(lines[at])), index)
            is_task = SHELLS.match(line) and indent(line.replace("- ", "  ")) == indent(lines[start]) + 2
            if is_task and not any(at > 0 and lines[at - 1].lstrip().startswith("#") for at in (start, index)):
                yield f"{path.relative_to(root)}:{index + 1}: {line.strip()}"


def indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def a_role_declares_its_inputs_twice_alike(root: Path) -> Iterator[str]:
    """defaults/main.yml and meta/argument_specs.yml have the same keys and defaults, named after the role."""
    for role in sorted((root / "roles").glob("*/")):
        files = [role / SPECS, role / "tasks" / "main.yml"]
        if missing := [str(file.relative_to(root)) for file in files if not file.is_file()]:
            yield f"{role.name}: no {', '.join(missing)}"
            continue
        file = role / "defaults" / "main.yml"
        defaults = (yaml_of(file) if file.is_file() else None) or {}
        options = yaml_of(files[0])["argument_specs"]["main"].get("options", {})
        given = {name: option["default"] for name, option in options.items() if "default" in option}
        # Ansible shows the defaults of the specs where an argument is wrong, a secret's too, whatever no_log says.
        for name, option in options.items():
            if "password" in name or option.get("no_log"):
                if not option.get("no_log") or "{" in str(option.get("default", "")):
                    yield f"{role.name}: {name} is a secret; it needs no_log, and no default in argument_specs"
                if option.get("required") and name in defaults:
                    given[name] = defaults[name]
        if given != defaults:
            differing = sorted(key for key in given.keys() | defaults.keys() if given.get(key) != defaults.get(key))
            yield f"{role.name}: defaults and argument_specs differ in {', '.join(differing)}"
        for name, option in options.items():
            if not name.startswith(f"{role.name}_"):
                yield f"{role.name}: {name} is not named {role.name}_*"
            if "default" not in option and not option.get("required"):
                yield f"{role.name}: {name} has no default and is not required"
            if not option.get("description") or not option.get("type"):
                yield f"{role.name}: {name} has no description or no type"


def what_the_inventory_chooses_is_looked_at_first(root: Path) -> Iterator[str]:
    """Ansible looks at the inputs of a role where its tasks begin: late, and not where a playbook imports others of it.

    An option with choices that an inventory variable fills is one of role run, too, which opens each playbook.
    """
    chosen = {
        role.name: {
            name: (option["default"], option["choices"])
            for name, option in yaml_of(role / SPECS)["argument_specs"]["main"].get("options", {}).items()
            if "choices" in option and "{" in str(option.get("default", ""))
        }
        for role in sorted((root / "roles").glob("*/"))
        if (role / SPECS).is_file()
    }
    for role, options in chosen.items():
        for name, option in options.items():
            if option not in chosen.get("run", {}).values():
                yield f"{role}: {name} is not looked at by role run"


def a_role_is_validated_where_it_has_options(root: Path) -> Iterator[str]:
    """Ansible validates the options of a role by a task of its own, which costs time: also where there is none."""
    for path in sorted((root / "playbooks").glob("*.yml")):
        included = list(included_roles(yaml_of(path)))
        validated = {role["name"] for role in included if role.get("rolespec_validate") is not False}
        for role in included:
            specs = root / "roles" / role["name"] / SPECS
            main = yaml_of(specs)["argument_specs"]["main"] if specs.is_file() else {}
            if main.get("options") and role["name"] not in validated:
                yield f"{path.relative_to(root)}: the options of role {role['name']} are not validated"
            if main.get("options") == {} and "tasks_from" not in role and role["name"] in validated:
                yield f"{path.relative_to(root)}: role {role['name']} has no option to validate"


def included_roles(content: Any) -> Iterator[dict[str, Any]]:
    """What the tasks of a playbook import or include."""
    for below in content if isinstance(content, list) else content.values() if isinstance(content, dict) else ():
        yield from included_roles(below)
    for name, role in content.items() if isinstance(content, dict) else ():
        if str(name).rpartition(".")[2] in ("import_role", "include_role"):
            yield role


def a_role_describes_what_a_user_sets(root: Path) -> Iterator[str]:
    """What a role has from another one, or from a result, is no option: it would be a second name for it."""
    for role in sorted((root / "roles").glob("*/")):
        options = yaml_of(role / SPECS)["argument_specs"]["main"].get("options", {}) if (role / SPECS).is_file() else {}
        for name, option in options.items():
            if BARE_RESULT.fullmatch(str(option.get("default", ""))):
                yield f"{role.name}: {name} only repeats {option['default']}"


def the_login_is_written_once(root: Path) -> Iterator[str]:
    """The tasks of a role give no module its run or its login: the play does, by the defaults of an action group."""
    for path in sorted((root / "roles").rglob("*.yml")):
        for number, line in enumerate(text_of(path).splitlines(), start=1):
            in_login = path.relative_to(root) == Path("roles/run/vars/main.yml")
            if A_LOGIN.match(line) and not in_login:
                yield f"{path.relative_to(root)}:{number}: {line.strip()}"
    for path in sorted((root / "playbooks").glob("*.yml")):
        for play in yaml_of(path):
            groups = set(play.get("module_defaults") or {})
            if (
                "hosts" in play
                and path.name != "in_force.yml"  # before a run is opened, there is neither
                and groups != {f"group/dbrelease.engine.{group}" for group in GROUP_OF.values()}
            ):
                yield f"{path.relative_to(root)}: play {play.get('name')!r} does not give its modules run and login"


def an_action_group_has_every_module_with_its_options(root: Path) -> Iterator[str]:
    """A module that is in none would have no login, and one without the options would be refused them."""
    groups = yaml_of(root / GROUPS)["action_groups"]
    for fragment, group in GROUP_OF.items():
        having = {
            f"ansible.legacy.{path.stem}"
            for path in (root / "library").glob("*.py")
            if fragment in fragments_of(yaml.safe_load(constants_of(path).get("DOCUMENTATION", "")) or {})
        }
        # An action without a module has no documentation of its options.
        listed = {name for name in groups[group] if (root / "library" / f"{name.rpartition('.')[2]}.py").is_file()}
        for name in sorted(having ^ listed):
            yield f"{GROUPS}: {name} is {'not in' if name in having else 'in'} the group {group}"


# Modules


def fragments_of(documentation: dict[str, Any]) -> list[str]:
    names = documentation.get("extends_documentation_fragment", [])
    return [names] if isinstance(names, str) else names


def constants_of(path: Path) -> dict[str, Any]:
    """DOCUMENTATION, EXAMPLES, RETURN, OPTIONS and so on of a module or a fragment."""
    content: dict[str, Any] = {"__name__": path.stem}
    exec(compile(text_of(path), str(path), "exec"), content)  # noqa: S102
    return content


def documented_options(root: Path, documentation: dict[str, Any]) -> dict[str, Any]:
    """A module's own options and those of its fragments."""
    options: dict[str, Any] = {}
    for name in fragments_of(documentation):
        fragment = constants_of(root / "plugins" / "doc_fragments" / f"{name}.py")["ModuleDocFragment"]
        options |= yaml.safe_load(fragment.DOCUMENTATION)["options"]
    own = documentation.get("options") or {}
    return {**options, **{name: with_those_of_its_module(root, option) for name, option in own.items()}}


def with_those_of_its_module(root: Path, option: dict[str, Any]) -> dict[str, Any]:
    """An option that holds the options of another module has them from there, and not a second time."""
    named = OPTIONS_OF.fullmatch(str(option.get("description", "")))
    if not named:
        return option
    documentation = yaml.safe_load(constants_of(root / "library" / f"{named['module']}.py")["DOCUMENTATION"])
    return {**option, "suboptions": documentation["options"]}


def plain(options: dict[str, Any], inner: str) -> dict[str, Any]:
    """Options in one form, whether they come from the documentation or from the code."""
    return {
        name: {
            "type": option.get("type", "str"),
            "required": bool(option.get("required", False)),
            "default": option.get("default"),
            "choices": list(option["choices"]) if "choices" in option else None,
            "elements": option.get("elements"),
            "options": plain(option[inner], inner) if option.get(inner) else None,
        }
        for name, option in options.items()
    }


def differences(documented: dict[str, Any], coded: dict[str, Any], place: str = "") -> Iterator[str]:
    for name in sorted(documented.keys() | coded.keys()):
        if name not in coded or name not in documented:
            yield f"option {place}{name} is {'documented only' if name in documented else 'not documented'}"
            continue
        for key, value in documented[name].items():
            other = coded[name][key]
            if key == "options" and value and other:
                yield from differences(value, other, f"{place}{name}.")
            elif value != other:
                yield f"option {place}{name}: {key} is {value!r} in the documentation and {other!r} in the code"


def a_module_does_what_it_documents(root: Path) -> Iterator[str]:
    """DOCUMENTATION, EXAMPLES and RETURN are there, are YAML, and agree with OPTIONS; check mode is supported."""
    for path in sorted((root / "library").glob("*.py")):
        module = constants_of(path)
        documentation, examples, returned = (
            yaml.safe_load(module.get(name, "")) for name in ("DOCUMENTATION", "EXAMPLES", "RETURN")
        )
        if not (isinstance(documentation, dict) and isinstance(examples, list) and isinstance(returned, dict)):
            yield f"{path.stem}: DOCUMENTATION, EXAMPLES or RETURN is missing"
            continue
        for problem in _documentation_problems(path.stem, documentation, returned):
            yield f"{path.stem}: {problem}"
        options = documented_options(root, documentation)
        for problem in differences(plain(options, "suboptions"), plain(module["OPTIONS"], "options")):
            yield f"{path.stem}: {problem}"
        for problem in _example_problems(path.stem, examples, options):
            yield f"{path.stem}: {problem}"


def _documentation_problems(name: str, documentation: dict[str, Any], returned: dict[str, Any]) -> Iterator[str]:
    if documentation.get("module") != name:
        yield f"it is documented as {documentation.get('module')}"
    if not documentation.get("short_description") or not documentation.get("description"):
        yield "it has no description"
    for attribute in ("check_mode", "diff_mode"):
        if "support" not in documentation.get("attributes", {}).get(attribute, {}):
            yield f"it does not say whether it supports {attribute}"
    if documentation.get("attributes", {}).get("check_mode", {}).get("support") != "full":
        yield "it does not support check mode"
    for key, value in returned.items():
        if not {"description", "type", "returned"} <= value.keys():
            yield f"the result {key} has no description, type or returned"


def _example_problems(name: str, examples: list[dict[str, Any]], options: dict[str, Any]) -> Iterator[str]:
    calls = [task[name] for task in examples if name in task]
    if not calls:
        yield "no example calls it"
    for call in calls:
        for option in call.keys() - options.keys():
            yield f"an example gives {option}, which is no option"
        for option, value in options.items():
            if value.get("required") and option not in call:
                yield f"an example lacks {option}"


def a_module_has_its_test(root: Path) -> Iterator[str]:
    for path in sorted((root / "library").glob("*.py")):
        if not any((root / "tests" / "unit").rglob(f"test_{path.stem}.py")):
            yield f"{path.stem}: no test_{path.stem}.py in tests/unit"


def a_modules_answer_passes_its_action(root: Path) -> Iterator[str]:
    """Of what a target answers, an action of the module's name keeps what the module declares; or none is asked."""
    actions = root / "plugins" / "action"
    for path in sorted((root / "library").glob("*.py")):
        action = actions / path.name
        if not action.is_file():
            yield f"{path.stem}: no plugins/action/{path.name}"
        elif "(DeclaredAction)" not in text_of(action) and "_execute_module" in text_of(action):
            yield f"{path.stem}: its action keeps whatever a target answers"
        elif action.is_symlink() and action.readlink() != Path("declared.py"):
            yield f"{path.stem}: its action leads to {action.readlink()}"
        elif "(DeclaredAction)" in text_of(action) and "declared_by(__file__)" not in text_of(action):
            yield f"{path.stem}: its action keeps what another module declares"


ON_THE_CONTROLLER = {
    *("assert", "debug", "fail", "import_playbook", "import_role", "import_tasks", "include_role", "include_tasks"),
}
HOLD_TASKS = ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers")
A_MODULE = re.compile(r"ansible\.builtin\.\w+|\w+\.\w+\.\w+")


def only_modules_of_ours_work_on_a_target(root: Path) -> Iterator[str]:
    """What a module of others' is answered passes no action of ours: it would be kept whole, shown, and unbounded."""
    for path, content in playbooks_and_tasks(root):
        if path.relative_to(root).parts[0] != "molecule":
            for task in content:
                for module in modules_of_others(task):
                    yield f"{path.relative_to(root)}: {module} works on the target"


def modules_of_others(task: Any, *, local: bool = False) -> Iterator[str]:
    """Those of a task or a play, and of the tasks in it."""
    if not isinstance(task, dict) or task.get("hosts") == "localhost":
        return
    local = local or task.get("delegate_to") == "localhost"
    for key, value in task.items():
        if key in HOLD_TASKS:
            for inner in value:
                yield from modules_of_others(inner, local=local)
        elif not local and A_MODULE.fullmatch(key) and key.removeprefix("ansible.builtin.") not in ON_THE_CONTROLLER:
            yield key


# Finding one's way


def the_map_shows_every_folder(root: Path) -> Iterator[str]:
    """README.md names every top-level folder (`name/`) and every document under docs/."""
    readme = root / "README.md"
    text = text_of(readme) if readme.is_file() else ""
    names = [path.relative_to(root) for path in files_of(root)]
    for folder in sorted({f"{name.parts[0]}/" for name in names if len(name.parts) > 1}):
        if not re.search(rf"(?<![\w/.]){re.escape(folder)}", text):
            yield f"README.md does not name {folder}"
    for name in names:
        if name.parts[0] == "docs" and str(name) not in text:
            yield f"README.md does not name {name}"


# The tests


def a_test_waits_for_a_condition(root: Path) -> Iterator[str]:
    """A wait for a fixed time is too long on an idle machine, and too short on a busy one.

    A loop that polls may pause. What acts a slow or a hanging program says so in its line: `# plays: ...`. Where whole
    runs are tested, that also holds for the shell and for SQL in strings, and tasks of a playbook have no exception.
    """
    for path in files_of(root):
        name = path.relative_to(root)
        whole_runs = name.parts[0] == "molecule" or name.parts[:2] == ("tests", "faults")
        if whole_runs and path.suffix in (".yml", ".yaml"):
            yield from (f"{name}: a fixed wait: {wait}" for wait in waits_in_tasks(yaml_of(path)))
        if path.suffix != ".py" or not (whole_runs or name.parts[0] in ("tests", "releases")):
            continue
        text = text_of(path)
        lines, tree = text.splitlines(), ast.parse(text)
        for number in sorted({*fixed_sleeps(tree), *(waits_in_strings(tree) if whole_runs else ())}):
            if "# plays: " not in lines[number - 1]:
                yield f"{name}:{number}: a fixed wait: {lines[number - 1].strip()}"


def fixed_sleeps(node: ast.AST, *, polls: bool = False) -> Iterator[int]:
    """The lines of those calls of sleep that no loop repeats until its condition is true."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        polls = False
    elif isinstance(node, ast.While):
        polls = True
    elif (
        isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "sleep" and not polls
    ):
        yield node.lineno
    for inner in ast.iter_child_nodes(node):
        yield from fixed_sleeps(inner, polls=polls)


def waits_in_strings(node: ast.AST) -> Iterator[int]:
    """The lines of strings that wait in a shell or in SQL, or that name the program `sleep` in a list of arguments."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    constants = [each.value for each in parts if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    if waits("...".join(constants)):
        yield getattr(node, "lineno", 1)
    for inner in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.JoinedStr) and isinstance(inner, ast.Constant)):
            yield from waits_in_strings(inner)


def waits_in_tasks(value: Any) -> Iterator[str]:
    """Every task that waits for a fixed time, and every text that does so in a shell or in SQL."""
    if isinstance(value, dict):
        for key, inner in value.items():
            module = str(key).removeprefix("ansible.builtin.")
            if module == "pause" or (module == "wait_for" and not CONDITIONS & {*(inner or {})}):
                yield f"{key}: {inner}"
            yield from waits_in_tasks(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from waits_in_tasks(inner)
    elif isinstance(value, str) and waits(value):
        yield value


def waits(text: str) -> bool:
    """Whether it sleeps for a fixed time; the loops of a shell may, between two looks at their condition."""
    outside = re.sub(r"\b(while|until)\b.*?\bdo\b.*?\bdone\b", "", text, flags=re.DOTALL)
    return text == "sleep" or bool(WAIT_IN_WORDS.search(outside))


# What others run for us


def an_action_is_one_commit(root: Path) -> Iterator[str]:
    """A tag or a branch of somebody else's repository may be another program tomorrow; a commit is what was read."""
    for path in files_of(root):
        name = path.relative_to(root)
        if name.parts[0] != ".github" or path.suffix not in (".yml", ".yaml"):
            continue
        for what in uses_of(yaml_of(path)):
            if not what.startswith("./") and not re.search(
                rf"(?m){re.escape(what)}[\"']? +# v\d[\w.]*$", text_of(path)
            ):
                yield f"{name}: {what} has no version as a comment"
            if not PINNED.fullmatch(what):
                yield f"{name}: {what} is not one commit"


def uses_of(value: Any) -> Iterator[str]:
    """Every action and workflow that it calls, wherever it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from [str(inner)] if key == "uses" else uses_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from uses_of(inner)


# The stack


def the_stack_listens_on_this_machine_alone(root: Path) -> Iterator[str]:
    """Its API and its Redis ask nobody who they are."""
    for path in files_of(root):
        name = path.relative_to(root)
        if name.parts[0] != "stack" or "compose" not in name.name:
            continue
        for service, settings in (yaml_of(path).get("services") or {}).items():
            for port in settings.get("ports") or ():
                if not str(port.get("host_ip") if isinstance(port, dict) else port).startswith("127.0.0.1"):
                    yield f"{name}: {service} publishes {port} to every network of the machine"
            if settings.get("network_mode") == "host":
                yield f"{name}: {service} is in the machine's own network"


POLICIES: list[Policy] = [
    the_engine_knows_no_story,
    no_file_names_a_machine,
    a_play_on_targets_stops_at_the_first_error,
    a_playbook_asks_who_holds_the_target_or_only_reads,
    a_playbook_runs_whole,
    a_command_says_why_no_module_does_it,
    a_role_declares_its_inputs_twice_alike,
    what_the_inventory_chooses_is_looked_at_first,
    a_role_is_validated_where_it_has_options,
    a_role_describes_what_a_user_sets,
    the_login_is_written_once,
    an_action_group_has_every_module_with_its_options,
    a_module_does_what_it_documents,
    a_module_has_its_test,
    a_modules_answer_passes_its_action,
    only_modules_of_ours_work_on_a_target,
    the_map_shows_every_folder,
    a_test_waits_for_a_condition,
    an_action_is_one_commit,
    the_stack_listens_on_this_machine_alone,
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_policy(policy: Policy) -> None:
    broken = list(policy(ROOT))
    assert not broken, "\n".join(broken)


def test_the_policies_have_something_to_look_at() -> None:
    plays = [play for _, content in playbooks_and_tasks(ROOT) for play in content if "hosts" in play]
    assert len(plays) >= 2
    assert len(list((ROOT / "library").glob("*.py"))) >= 10
    assert len(list((ROOT / "roles").glob("*/tasks/main.yml"))) >= 6
    assert len([path for path in files_of(ROOT) if path.relative_to(ROOT).parts[0] in ENGINE]) >= 50


MODULE = '''
DOCUMENTATION = """
module: orders
short_description: Orders
description: Orders.
extends_documentation_fragment: [login, run]
options:
  limit: {description: How many., type: int, default: 5}
  state: {description: Which., choices: [open, closed], required: true}
  page: {description: Where., type: dict, suboptions: {size: {description: Big., type: int}}}
attributes: {check_mode: {support: full}, diff_mode: {support: none}}
"""
EXAMPLES = """
- name: Look
  orders: {state: open, login_host: db, run: x}
"""
RETURN = """
count: {description: How many., type: int, returned: always}
"""
OPTIONS = {
    "login_host": {"type": "str", "required": True},
    "run": {"type": "str", "required": True},
    "limit": {"type": "int", "default": 5},
    "state": {"type": "str", "choices": ["open", "closed"], "required": True},
    "page": {"type": "dict", "options": {"size": {"type": "int"}}},
}
'''
FRAGMENT = '''
class ModuleDocFragment:
    DOCUMENTATION = """
options:
  login_host: {description: Where., type: str, required: true}
"""
'''
SOUND = {
    "README.md": ".github/ collections/ library/ molecule/ playbooks/ plugins/ roles/ stack/ tests/"
    " docs/ (docs/guide.md)",
    ".github/workflows/test.yml": """
      - uses: actions/checkout@0123456789abcdef0123456789abcdef01234567  # v5.0.0
      - uses: ./.github/actions/own
""",
    "stack/docker-compose.yml": """
services: {api: {ports: ["127.0.0.1:80:8000", {host_ip: 127.0.0.1, target: 8000, published: 80}]}}
""",
    "docs/guide.md": "A guide.",
    "library/orders.py": MODULE,
    "plugins/doc_fragments/login.py": FRAGMENT,
    "plugins/doc_fragments/run.py": FRAGMENT.replace("login_host", "run"),
    GROUPS: "action_groups: {run: [ansible.legacy.orders], database: [ansible.legacy.orders]}",
    "plugins/action/orders.py": "class ActionModule(DeclaredAction):\n    declared = declared_by(__file__)\n",
    "tests/unit/test_orders.py": "",
    "roles/ship/defaults/main.yml": "ship_speed: 1",
    "roles/ship/tasks/main.yml": """
- name: Ship
  # No module ships.
  ansible.builtin.command: ship
  delegate_to: localhost
- name: An option of that name is no command
  orders:
    command: ship
""",
    "roles/ship/meta/argument_specs.yml": """
argument_specs:
  main:
    options:
      ship_speed: {type: int, default: 1, description: How fast.}
      ship_run: {type: dict, required: true, description: Which run.}
""",
    "tests/test_orders.py": """import time


def until(done):
    while not done():
        time.sleep(0.1)


def slow():
    while True:
        act = lambda: time.sleep(1)  # plays: a slow server
""",
    "molecule/ship/tests/test_ships.py": """import subprocess

SLOW = "SELECT pg_sleep(2)"  # plays: a slow migration


def test_it_ships():
    subprocess.run(["sh", "-c", "until [ -e /tmp/there ]; do sleep 0.2; done"])
""",
    "molecule/ship/converge.yml": """
- hosts: all
  any_errors_fatal: true
  tasks:
    - name: Wait for the ship
      ansible.builtin.wait_for:
        path: /tmp/there
        timeout: 60
""",
    "roles/wait/tasks/main.yml": "[]",
    "roles/wait/meta/argument_specs.yml": "argument_specs: {main: {options: {}}}",
    "playbooks/deploy.yml": "- {name: run}\n- {name: recovery}\n",
    "playbooks/look.yml": "- {hosts: all, any_errors_fatal: true, tags: [always], module_defaults: "
    "{group/dbrelease.engine.run: x, group/dbrelease.engine.database: y}}\n",
    "deploy.yml": "- hosts: all\n  any_errors_fatal: true\n- hosts: localhost\n- import_playbook: other.yml\n",
}


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_a_sound_repository_breaks_no_policy(policy: Policy, tmp_path: Path) -> None:
    assert list(policy(make(tmp_path, SOUND))) == []


MACHINE, OUTSIDE = "/work" + "/main/", "../" + "shared"  # in two parts: this file is looked at as well
ROLE = "roles/ship/defaults/main.yml"
SHIPS, CONVERGE = "molecule/ship/tests/test_ships.py", "molecule/ship/converge.yml"
PIN = "@0123456789abcdef0123456789abcdef01234567  # v5.0.0"
WORKFLOW, COMPOSE = ".github/workflows/test.yml", "stack/docker-compose.yml"
SHIP_SPECS, SHIP_TASKS = "roles/ship/meta/argument_specs.yml", "roles/ship/tasks/main.yml"
BROKEN: list[tuple[Policy, str, str, str, str]] = [
    (the_engine_knows_no_story, "library/orders.py", "Orders.", "Drawings.", "library/orders.py:5: Drawing"),
    (the_engine_knows_no_story, ROLE, "1", "1  # as in 8.1a", f"{ROLE}:1: 8.1a"),
    (the_engine_knows_no_story, "roles/ship/files/junction.sql", "", "x", "roles/ship/files/junction.sql:0: junction"),
    (no_file_names_a_machine, "docs/guide.md", "A", f"See {MACHINE}", f"docs/guide.md:1: {MACHINE}"),
    (no_file_names_a_machine, "docs/guide.md", "A", f"See {OUTSIDE}/docs", f"docs/guide.md:1: {OUTSIDE}"),
    (a_play_on_targets_stops_at_the_first_error, "deploy.yml", "true", "false", "deploy.yml: play None is not"),
    (a_play_on_targets_stops_at_the_first_error, "deploy.yml", "localhost", "db", "deploy.yml: play None is not"),
    (
        a_playbook_asks_who_holds_the_target_or_only_reads,
        "playbooks/deploy.yml",
        "- {name: recovery}\n",
        "",
        "neither of role recovery and",
    ),
    (a_playbook_runs_whole, "playbooks/look.yml", ", tags: [always]", "", "play None is not tagged"),
    (a_playbook_runs_whole, "playbooks/look.yml", "always", "look", "look.yml: play None is not tagged"),
    (
        a_command_says_why_no_module_does_it,
        "roles/ship/tasks/main.yml",
        "  # No module ships.\n",
        "",
        "main.yml:3: ans",
    ),
    (a_command_says_why_no_module_does_it, "roles/ship/tasks/more.yml", "", "- shell: x\n", "more.yml:1: - shell: x"),
    (a_role_declares_its_inputs_twice_alike, ROLE, "1", "2", "ship: defaults and argument_specs differ in ship_speed"),
    (a_role_declares_its_inputs_twice_alike, ROLE, "ship_speed: 1", "a: 1", "argument_specs differ in a, ship_speed"),
    (a_role_declares_its_inputs_twice_alike, SHIP_SPECS, ", required: true", "", "ship_run has no default and is not"),
    (a_role_declares_its_inputs_twice_alike, SHIP_SPECS, "ship_run", "run", "run is not named ship_*"),
    (a_role_declares_its_inputs_twice_alike, SHIP_SPECS, ", description: How fast.", "", "no description or no type"),
    (a_role_declares_its_inputs_twice_alike, SHIP_SPECS, "speed:", "password:", "ship_password is a secret"),
    (a_role_declares_its_inputs_twice_alike, "roles/fly/tasks/main.yml", "", "[]", "fly: no roles/fly/meta"),
    (
        what_the_inventory_chooses_is_looked_at_first,
        SHIP_SPECS,
        "default: 1,",
        "choices: [1, 2], default: '{{ speed }}',",
        "ship: ship_speed is not looked at by role run",
    ),
    (
        a_role_is_validated_where_it_has_options,
        "playbooks/look.yml",
        "tags: [always]",
        "tags: [always], tasks: [{include_role: {name: ship, rolespec_validate: false}}]",
        "look.yml: the options of role ship are not validated",
    ),
    (
        a_role_is_validated_where_it_has_options,
        "playbooks/other.yml",
        "",
        "[{tasks: [{block: [{include_role: {name: wait}}]}]}]",
        "other.yml: role wait has no option to validate",
    ),
    (
        a_role_describes_what_a_user_sets,
        SHIP_SPECS,
        "default: 1",
        "default: '{{ run_opened.run }}'",
        "ship: ship_speed only repeats {{ run_opened.run }}",
    ),
    (the_login_is_written_once, SHIP_TASKS, "    command: ship\n", "    login_db: x\n", "8: login_db: x"),
    (the_login_is_written_once, SHIP_TASKS, "    command: ship\n", "    run: '{{ run_opened.run }}'\n", "8: run: '{{"),
    (the_login_is_written_once, "playbooks/look.yml", "group/dbrelease.engine.run: x, ", "", "does not give its mod"),
    (
        an_action_group_has_every_module_with_its_options,
        GROUPS,
        "run: [ansible.legacy.orders]",
        "run: []",
        "ansible.legacy.orders is not in the group run",
    ),
    (
        an_action_group_has_every_module_with_its_options,
        "library/orders.py",
        "[login, run]",
        "[run]",
        "ansible.legacy.orders is in the group database",
    ),
    (a_module_does_what_it_documents, "library/orders.py", 'RETURN = """', 'X = """', "or RETURN is missing"),
    (a_module_does_what_it_documents, "library/orders.py", "module: orders", "module: x", "documented as x"),
    (a_module_does_what_it_documents, "library/orders.py", "support: full", "support: none", "not support check mode"),
    (a_module_does_what_it_documents, "library/orders.py", ", diff_mode: {support: none}", "", "supports diff_mode"),
    (a_module_does_what_it_documents, "library/orders.py", "default: 5}", "default: 6}", "limit: default is 6"),
    (a_module_does_what_it_documents, "library/orders.py", '"int", "default"', '"str", "default"', "limit: type is"),
    (a_module_does_what_it_documents, "library/orders.py", '["open"', '["new"', "state: choices is"),
    (a_module_does_what_it_documents, "library/orders.py", "size: {", "width: {", "page.size is not documented"),
    (a_module_does_what_it_documents, "library/orders.py", '    "login_host"', '    "host"', "host is not documented"),
    (a_module_does_what_it_documents, "library/orders.py", ", returned: always", "", "the result count has no"),
    (a_module_does_what_it_documents, "library/orders.py", "{state: open, ", "{", "an example lacks state"),
    (a_module_does_what_it_documents, "library/orders.py", "{state:", "{colour: red, state:", "gives colour"),
    (a_module_does_what_it_documents, "library/orders.py", "  orders: {", "  items: {", "no example calls it"),
    (
        a_module_does_what_it_documents,
        "library/orders.py",
        "page: {description: Where., type: dict, suboptions: {size: {description: Big., type: int}}}",
        "page: {description: Options of M(orders)., type: dict}",
        "page.limit is documented only",
    ),
    (a_module_has_its_test, "library/items.py", "", "x", "items: no test_items.py in tests/unit"),
    (a_modules_answer_passes_its_action, "library/items.py", "", "x", "items: no plugins/action/items.py"),
    (
        a_modules_answer_passes_its_action,
        "plugins/action/orders.py",
        "DeclaredAction):",
        "ActionBase): _execute_module()",
        "orders: its action keeps whatever",
    ),
    (a_modules_answer_passes_its_action, "plugins/action/orders.py", "__file__", "'x'", "what another module declares"),
    (
        only_modules_of_ours_work_on_a_target,
        "roles/ship/tasks/main.yml",
        "  delegate_to: localhost\n",
        "",
        "tasks/main.yml: ansible.builtin.command works",
    ),
    (
        only_modules_of_ours_work_on_a_target,
        "playbooks/look.yml",
        "tags: [always]",
        "tasks: [{block: [{community.docker.docker_container: {}}]}]",
        "look.yml: community.docker.docker_container works",
    ),
    (an_action_is_one_commit, WORKFLOW, PIN, "@v5", "test.yml: actions/checkout@v5 is not one commit"),
    (an_action_is_one_commit, WORKFLOW, PIN, "@main", "actions/checkout@main is not"),
    (an_action_is_one_commit, WORKFLOW, PIN, "", "actions/checkout is not"),
    (an_action_is_one_commit, WORKFLOW, PIN, "@0123456  # v5.0.0", "@0123456 is not"),
    (an_action_is_one_commit, WORKFLOW, "  # v5.0.0", "", "has no version"),
    (an_action_is_one_commit, WORKFLOW, "actions/checkout@", "docker://alpine@", "docker://alpine@0123"),
    (
        an_action_is_one_commit,
        ".github/actions/a/action.yaml",
        "",
        "- {'uses': 'a/b@v1'}",
        "yaml: a/b@v1 is not",
    ),
    (the_stack_listens_on_this_machine_alone, COMPOSE, "127.0.0.1:", "", "api publishes 80:8000"),
    (the_stack_listens_on_this_machine_alone, COMPOSE, "127.0.0.1", "10.0.0.7", "api publishes 10.0.0.7:80:8000"),
    (the_stack_listens_on_this_machine_alone, COMPOSE, "host_ip: 127.0.0.1, ", "", "api publishes {'target'"),
    (the_stack_listens_on_this_machine_alone, COMPOSE, "{api", "{db: {network_mode: host}, api", "db is in the"),
    (
        a_test_waits_for_a_condition,
        "tests/test_orders.py",
        "while not done():",
        "if done():",
        "test_orders.py:6: a fixed",
    ),
    (
        a_test_waits_for_a_condition,
        "tests/test_orders.py",
        "while not done():",
        "for n in 1, 2:",
        "test_orders.py:6: a",
    ),
    (
        a_test_waits_for_a_condition,
        "tests/test_orders.py",
        "  # plays: a slow server",
        "",
        "test_orders.py:11: a fixed",
    ),
    (
        a_test_waits_for_a_condition,
        "releases/a/tests/test_b.py",
        "",
        "from time import sleep\nsleep(1)",
        "test_b.py:2: a",
    ),
    (
        a_test_waits_for_a_condition,
        SHIPS,
        "until [ -e /tmp/there ]; do sleep 0.2; done",
        "sleep 2; cat a",
        "py:7: a fixed",
    ),
    (a_test_waits_for_a_condition, SHIPS, '"sh"', '"sleep"', "test_ships.py:7: a fixed"),
    (a_test_waits_for_a_condition, SHIPS, "  # plays: a slow migration", "", "test_ships.py:3: a fixed"),
    (a_test_waits_for_a_condition, SHIPS, "", "import time\ntime.sleep(1)", "test_ships.py:2: a fixed"),
    (a_test_waits_for_a_condition, "tests/faults/a.py", "", "RUN = 'sleep 2 && ship'", "a.py:1: a fixed"),
    (a_test_waits_for_a_condition, CONVERGE, "path: /tmp/there", "delay: 5", "converge.yml: a fixed wait"),
    (a_test_waits_for_a_condition, CONVERGE, "path: /tmp/there", "", "converge.yml: a fixed wait"),
    (
        a_test_waits_for_a_condition,
        "molecule/ship/verify.yml",
        "",
        "- tasks: [{pause: {seconds: 3}}]",
        "verify.yml: a fixed wait: pause",
    ),
    (
        a_test_waits_for_a_condition,
        "molecule/ship/verify.yml",
        "",
        "- tasks: [{ansible.builtin.shell: 'ship; sleep 2'}]",
        "verify.yml: a fixed wait: ship",
    ),
    (the_map_shows_every_folder, "README.md", "library/", "", "README.md does not name library/"),
    (the_map_shows_every_folder, "docs/more.md", "", "x", "README.md does not name docs/more.md"),
]


@pytest.mark.parametrize(("policy", "file", "old", "new", "found"), BROKEN)
def test_what_breaks_a_policy_is_found(
    policy: Policy, file: str, old: str, new: str, found: str, tmp_path: Path
) -> None:
    text = SOUND.get(file, "")
    assert old in text
    broken = list(policy(make(tmp_path, {**SOUND, file: text.replace(old, new, 1) if old else new})))
    assert any(found in line for line in broken), broken
