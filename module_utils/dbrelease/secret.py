"""Keep a password out of what is written down, in every form that a program may print it in."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"

# scheme://user:password@host, and password=... in a connection string: whoever's password it is.
_URL_PASSWORD = re.compile(r"(?P<before>\w://[^\s:/@]*:)(?P<password>[^\s/]+)(?P<after>@)")
_DSN_PASSWORD = re.compile(r"(?P<before>\bpassword\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s'\"&)]+)", re.IGNORECASE)


def masked(text: str, secret: str | None) -> str:
    """The text without the secret: raw, URL-quoted, escaped or in base64; and without any URL's password."""
    for form in _forms(secret) if secret else ():
        text = text.replace(form, MASK)
    return without_url_passwords(text)


def without_url_passwords(text: str) -> str:
    """The text without the passwords that stand where a URL or a connection string has them."""
    text = _URL_PASSWORD.sub(rf"\g<before>{MASK}\g<after>", text)
    return _DSN_PASSWORD.sub(rf"\g<before>{MASK}", text)


def url_passwords(value: Any) -> Iterator[str]:
    """Those in the URLs of a value as JSON knows it, as they are written there."""
    if isinstance(value, str):
        yield from (match["password"] for match in _URL_PASSWORD.finditer(value))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from url_passwords(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from url_passwords(part)


def _forms(secret: str) -> list[str]:
    raw = secret.encode()
    forms = {
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
    }
    # The longest first: a short form may be a part of a longer one.
    return sorted(forms, key=len, reverse=True)
