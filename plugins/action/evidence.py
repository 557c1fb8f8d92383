"""evidence works on the target; this action fetches its model in the same step and renders the files from it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ansible.context as context  # type: ignore[import-untyped]
import ansible.module_utils
from ansible.errors import AnsibleConnectionFailure  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.action import DeclaredAction, bounded_work, declared_by  # noqa: E402
from ansible.module_utils.dbrelease.core.answer import MIB, untrusted  # noqa: E402
from ansible.module_utils.dbrelease.core.errors import ReleaseError  # noqa: E402
from ansible.module_utils.dbrelease.core.files import create_private, put_command, replace_private, write_failure  # noqa: E402
from ansible.module_utils.dbrelease.core.journal import RUN_ID, Run  # noqa: E402
from ansible.module_utils.dbrelease.core.plain_text import printable  # noqa: E402
from ansible.module_utils.dbrelease.core.safe_names import line_problem, name_problem  # noqa: E402
from ansible.module_utils.dbrelease.report.commands import checked_ways  # noqa: E402
from ansible.module_utils.dbrelease.report.files import RENDERERS, as_json  # noqa: E402
from ansible.module_utils.dbrelease.report.page import PAGE_NAME, page_of  # noqa: E402
from ansible.module_utils.dbrelease.report.problems import bounded  # noqa: E402

MODEL = "evidence.json"
TEXT_AT_MOST = 32 * MIB
OWNERS = ".targets"  # beside the runs of an environment: the target of each run
SETTING = "report_artifacts"
LOST = "make the target reachable"
# One word of a command line, and one value of -e in which Ansible finds no template.
DATABASE = r"""(?:[\w.-]+|'"[^"'{}%\\\x00-\x1f\x7f]+"')"""


class ActionModule(DeclaredAction):
    """See library/evidence.py."""

    declared = declared_by(__file__)

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """The result; without evidence one sentence on what is unknown, and what to do."""
        self._check_ways()
        try:
            result = super().run(tmp, task_vars)
        except AnsibleConnectionFailure as error:
            return {"unreachable": True, "msg": self._unknown(f"The connection to {self.target} was lost", error, LOST)}
        if result.get("failed") and not result.get("headline"):
            result["msg"] = self._unknown("Gathering the evidence failed", result.get("msg"), "remove the cause")
        return result

    def _check_ways(self) -> None:
        """The operator types these commands here: the module gets those that exist, with this run's inventory."""
        run, release = self._task.args.get("run"), self._task.args.get("release")
        if isinstance(run, Mapping) and isinstance(release, Mapping):
            ways = checked_ways(
                release,
                str(run.get("release", "")),
                str(run.get("environment", "")),
                folder=Path.cwd(),
                root=ROOT,
                inventories=list(context.CLIARGS.get("inventory") or ()),
            )
            self._task.args["release"] = {**release, "ways_back": ways}

    def _unknown(self, what: str, why: Any, remedy: str) -> str:
        run = self._run()
        reason = printable(str(why or "it gave no reason")).strip().removesuffix(".")
        return (
            f"{what} in run {run.run_id} of {run.playbook} ({reason}), and the result of the run is unknown here: "
            f"{remedy}, and rerun the playbook, which finishes or cleans up."
        )

    def refuse(self) -> None:
        """A run whose name leads out of the folder of the artifacts."""
        run = self._run()
        if not re.fullmatch(RUN_ID, run.run_id) or name_problem(run.environment):
            raise ReleaseError(
                f"Gathering the evidence was refused (run {run.run_id!r} of {run.environment!r} cannot name a folder): "
                "give the run as the role run opens it.",
                refused=True,
            )

    def judged(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result without the files' texts, which are brought; no page is a warning, since the evidence counts."""
        texts = result.pop("texts", None)
        if not result.get("failed"):
            own = {"problems": bounded(result.get("problems")), "report": "", "run_id": self._run().run_id}
            ways = [way for way in result.get("ways_back") or [] if isinstance(way, dict) and self._is_own(way)]
            result = {**result, **own, "ways_back": ways}
        if not texts:  # in check mode, or where the module has failed
            return result
        try:
            with bounded_work(
                f"Reading {MODEL} of {self.target}", "find out which program runs there instead of its Python."
            ):
                model = self._model(texts)
                foreign = self._take_foreign_ways(model)
                text = as_json(model)
            folder = self._folder()
            self._bring(folder / MODEL, text)
            result["report"] = str(folder / MODEL)
        except ReleaseError as error:
            ending = f" Result of the run: {result['headline']}" if result.get("headline") else ""
            return {**result, "failed": True, "msg": f"{error.message}{ending}"}
        if foreign:
            result["warnings"] = [*result.get("warnings", []), foreign]
        try:
            for name in RENDERERS:
                self._bring(folder / name, self._rendered(name, model))
            page = self._rendered(PAGE_NAME, model)
            self._bring(folder / PAGE_NAME, page)
            result["report"] = str(folder / PAGE_NAME)
            self._put(f"{self._there(str(result.get('directory', '')))}/{PAGE_NAME}", page)
        except ReleaseError as error:
            result["warnings"] = [*result.get("warnings", []), error.message]
        return result

    def _run(self) -> Run:
        run: Mapping[str, Any] = self._task.args["run"]
        return Run(**{name: str(run[name]) for name in ("run_id", "release", "environment", "playbook", "state_dir")})

    def _model(self, texts: Mapping[str, Any]) -> Any:
        """The file of the target's answer from which all others are rendered."""
        for name in texts:
            if name not in RENDERERS:
                raise untrusted(
                    self._what(), f"it contains a file {name!r}, and only {', '.join(RENDERERS)} are fetched"
                )
        text = texts.get(MODEL)
        if not isinstance(text, str) or len(text) > TEXT_AT_MOST:
            raise untrusted(self._what(), f"its {MODEL} is not a text of at most {TEXT_AT_MOST // MIB} MiB")
        try:
            model = json.loads(text)
            as_json(model)
        except (ValueError, RecursionError) as error:
            raise untrusted(self._what(), f"its {MODEL} is not JSON") from error
        if not isinstance(model, dict):
            raise untrusted(self._what(), f"its {MODEL} is not evidence")
        return model

    def _take_foreign_ways(self, model: dict[str, Any]) -> str:
        """Remove ways back that are not commands of this release: an operator types here what a report shows.

        Returns a sentence where there were any.
        """
        ways = model.get("ways_back")
        if not ways:
            return ""
        own = [way for way in ways if isinstance(way, dict) and self._is_own(way)] if isinstance(ways, list) else []
        model["ways_back"] = own
        if own == ways:
            return ""
        return (
            f"{MODEL} of {self.target} named a way back that is not a command of this release, and it was removed: "
            "find out which program runs there instead of its Python, and type no command that you do not know."
        )

    def _is_own(self, way: Mapping[str, Any]) -> bool:
        run = self._run()
        declared = [
            {"title": one["title"], "command": one["command"].replace("{environment}", run.environment)}
            for one in self._task.args["release"].get("ways_back") or ()
        ]
        asked = str(self._task.args.get("swap_back_command") or "")
        swap_back = DATABASE.join(map(re.escape, asked.split("{database}"))) if asked else self._usual_swap_back
        return way in declared or re.fullmatch(swap_back, str(way.get("command"))) is not None

    @property
    def _usual_swap_back(self) -> str:
        """The default of the role restore: another playbook may report an interrupted restore."""
        release, environment = re.escape(self._run().release), re.escape(self._run().environment)
        maintenance = r"(?:-e restore_maintenance_db=[\w.-]+ )?"
        playbook = rf"(?:restore_{release}\.yml|playbooks/restore\.yml -e release={release})"
        own = (self._task.args["release"].get("commands") or {}).get("restore")
        given = [re.escape(own.replace("{environment}", self._run().environment))] if own else []
        restore = "|".join([*given, rf"ansible-playbook {playbook} -i {environment}"])
        return rf"(?:{restore}) {maintenance}-e restore_swap_back={DATABASE}"

    def _folder(self) -> Path:
        """The folder of the files: within the artifacts, through no link, and owned by this target."""
        run = self._run()
        artifacts = Path(self._task.args["artifacts"]).resolve()
        folder = artifacts / run.environment / run.run_id
        owner = artifacts / run.environment / OWNERS / run.run_id
        for path in (folder, owner):
            if path.resolve() != path:
                raise ReleaseError(
                    f"Writing to {path} was refused (it is, or leads through, a link): remove the link.", refused=True
                )
        try:
            whose = owner.read_text(encoding="utf-8", errors="replace") if owner.exists() else ""
            if not whose and not folder.exists():
                with os.fdopen(create_private(owner, setting=SETTING), "w", encoding="utf-8") as file:
                    file.write(self.target)
                whose = self.target
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise write_failure(folder, error, SETTING) from error
        if whose != self.target:
            raise ReleaseError(
                f"Writing to {folder} was refused (it contains the evidence of "
                f"{whose or 'a run of an earlier version'}, not of {self.target}): move it elsewhere to have it "
                "written again.",
                refused=True,
            )
        return folder

    def _bring(self, path: Path, text: str) -> None:
        replace_private(path, text.encode("utf-8", "replace"), self._run().run_id, setting=SETTING)

    def _rendered(self, name: str, model: Any) -> str:
        try:
            with bounded_work(f"Rendering {name} of {self.target}", f"read {MODEL}."):
                text = page_of(model, self._templates) if name == PAGE_NAME else RENDERERS[name](model)
            if len(text) > TEXT_AT_MOST:
                raise ReleaseError(
                    f"Writing {name} of {self.target} was refused (it is greater than {TEXT_AT_MOST // MIB} MiB): "
                    f"read {MODEL}.",
                    refused=True,
                )
            return text
        except ReleaseError:
            raise
        # Any error: the evidence comes from the target and may have any form.
        except Exception as error:
            raise ReleaseError(
                f"Rendering {name} failed ({MODEL} of {self.target} is not valid evidence: "
                f"{type(error).__name__}): read {MODEL}."
            ) from error

    @property
    def _templates(self) -> Path:
        return Path(self._task.args["templates"])

    def _there(self, answered: str) -> str:
        """The folder on the target: the run's, or the target's answer where only it can expand the state directory."""
        own = str(self._run().directory)
        if not own.startswith("~") and "$" not in own:
            return own
        if line_problem(answered) or not answered.startswith("/") or not answered.endswith(f"/{self._run().run_id}"):
            raise untrusted(self._what(), "its directory is not that of the run")
        return answered

    def _put(self, path: str, page: str) -> None:
        """Write the page beside the evidence on the target, complete or not at all, without another module."""
        command = put_command(path, self._run().run_id)
        done = self._low_level_execute_command(command, in_data=page.encode("utf-8", "replace"))
        if done["rc"]:
            raise ReleaseError(f"Writing {path} on the target failed ({done['stderr'].strip()}): make room there.")
