"""What a release does not say: the defaults of its schemas, filled in once, so that every reader has a full release."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from .schema_errors import Schemas

# Only the folder knows it, so that the schema cannot.
TITLE = "Release {release}: {from_revision} to {to_revision}"


def named(document: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """A valid release.yml with its name, label and title, which are those of its folder where it omits them."""
    name = str(document.get("release", folder))
    title = TITLE.format(release=name, **document["migration"])
    return {**document, "release": name, "label": document.get("label", name), "title": document.get("title", title)}


def filled(document: Any, schema: Mapping[str, Any], schemas: Schemas) -> Any:
    """A valid document with each `default` of its schema in place of what it omits, at every depth.

    A section that has no default of its own stays omitted; one that is declared gets the defaults of its keys.
    """
    schema = schemas.followed(schema)
    if isinstance(document, Mapping):
        properties, others = schema.get("properties") or {}, schema.get("additionalProperties")
        missing = {key: copy.deepcopy(part["default"]) for key, part in properties.items() if "default" in part}
        inner = others if isinstance(others, Mapping) else {}
        return {
            key: filled(value, properties.get(key, inner), schemas) for key, value in {**missing, **document}.items()
        }
    if isinstance(document, list) and isinstance(schema.get("items"), Mapping):
        return [filled(item, schema["items"], schemas) for item in document]
    return document
