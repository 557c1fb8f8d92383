"""The HTML page of a run; its libraries are imported only when the page is requested."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import ReleaseError

PAGE_NAME = "report.html"


def page_of(model: Mapping[str, Any], templates: Path) -> str:
    """The evidence as HTML; raises ReleaseError where pygal, Jinja2 or the templates are missing."""
    try:
        from .html import as_html
    except ImportError as error:
        raise ReleaseError(
            f"Rendering the report failed ({error.name} is not installed): install requirements.txt where Ansible "
            "runs, and rerun the playbook; evidence.json and report.md are written."
        ) from error
    if not (templates / f"{PAGE_NAME}.j2").is_file():
        raise ReleaseError(
            f"Rendering the report failed ({templates} contains no {PAGE_NAME}.j2): correct `templates`."
        )
    return as_html(model, templates)
