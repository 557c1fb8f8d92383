"""Keep secrets out of what is shown or stored for people, in every form that a program may print them in.

Only what people read is masked: messages, logs, reports, and the texts of a result or of a journal's line. What a
later step parses (an output that a pattern is searched in, a name, a path, a revision, a statement) is not.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from html.entities import codepoint2name
from typing import Any
from urllib.parse import unquote, urlsplit

MASK = "***"
# A secret of this length is masked also within a word; one with a character that words do not have, from this length.
LONG, MIXED, ODD = 16, 8, 6
# Shorter ones are masked where a secret is expected, and not wherever the same letters are a word.
SHORTEST_WORD = 3
# Of so many characters base64 and hexadecimal digits are not met by chance.
ENCODED = 8
# A sign of escaping may itself be escaped, and that again.
ESCAPES, PERCENT = r"\\{0,16}", "%{1,8}(?:25){0,4}"
BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")

# scheme://user:password@host, password=... in a connection string, PASSWORD '...' in SQL: any password is masked.
_URL_PASSWORD = re.compile(r"(?P<before>\w://[^\s:/@]*:)(?P<password>[^\s/]+)(?P<after>@)")
_DSN_PASSWORD = re.compile(
    r"""(?P<before>(?:\b|[A-Z_])pass(?:word|wd)["']?(?:\s*=\s*|\s*:\s+|\s+(?=[E$]?')))"""
    r"""(?:E?'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*"|[^\s'"&)]+)""",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(r"(?P<before>\b(?:Basic|Bearer)\s+)[A-Za-z0-9+/=_.~-]{8,}")
_WEBHOOK = re.compile(
    r"(?P<before>https?://(?:hooks\.slack(?:-gov)?\.com|[\w.-]+\.(?:webhook\.office|logic\.azure|powerplatform)\.com(?::\d+)?)/)"
    r"[^\s\"'<>]+",
    re.IGNORECASE,
)
# A word begins also behind a colour and behind a sign that is written by letters, and ends before one.
_BEFORE_WORD = (
    r"(?:(?<![\w./\\@-])|(?<=[0-9;\[]m)|(?<=\\[nrtfvb])"
    r"|(?<=%[0-9A-Fa-f]{2})|(?<=\\x[0-9A-Fa-f]{2})|(?<=\\u[0-9A-Fa-f]{4}))"
)
_BEHIND_WORD = r"""(?![\w/=-])(?!\.\w)(?!\\(?![nrtfvbxu"'\\]))"""
_SECRET_VARIABLE = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)
_PLACES = (_URL_PASSWORD, _DSN_PASSWORD, _AUTHORIZATION, _WEBHOOK)


@dataclass(frozen=True)
class Secret:
    """A secret, and whose it is: HTTP sends both together, in base64."""

    text: str
    user: str = ""


_known: dict[Secret, None] = {}


def learn(secrets: Iterable[Secret]) -> None:
    """Mask these from now on in all that this process shows."""
    _known.update(dict.fromkeys(secret for secret in secrets if secret.text))


def forget() -> None:
    """Know no secret any more."""
    _known.clear()


def masked(text: str, secret: str | None = None) -> str:
    """The text for people: without this secret, without those that the process knows, in any form, and of any URL.

    An unusual or long secret is masked everywhere. A common word is masked where it is a word of its own, not within
    names and paths; one of one or two characters only in quotes, after `=` and in a URL.
    """
    return _masked(text, secret, sql=False)


def masked_sql(text: str, secret: str | None = None) -> str:
    """The same for SQL, where a common word on its own is a name: it is masked in literals only."""
    return _masked(text, secret, sql=True)


def _masked(text: str, secret: str | None, *, sql: bool) -> str:
    for one in (*_known, *([Secret(secret)] if secret else [])):
        for pattern in _patterns(one, sql):
            text = pattern.sub(MASK, text)
        text = _without_base64(text, one)
    return without_url_passwords(text)


def without_url_passwords(text: str) -> str:
    """The text without the passwords in a URL, a connection string or a header."""
    for place in _PLACES:
        text = place.sub(lambda found: f"{found['before']}{MASK}{found.groupdict().get('after') or ''}", text)
    return text


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


def secrets_of(params: Mapping[str, Any], hidden: Iterable[str]) -> Iterator[Secret]:
    """What a module was given and may not show: its `no_log` options, and the logins of any URL."""
    user = params.get("login_user") or params.get("smtp_user") or ""
    for name in hidden:
        value = params.get(name)
        if isinstance(value, str) and value:
            yield Secret(value, user)
            yield from map(Secret, _in_path(value))
        elif isinstance(value, Mapping):
            yield from _of_environment(value)
    for password in url_passwords({**params, **dict.fromkeys(hidden)}):
        yield Secret(password)
        yield Secret(unquote(password))


def _of_environment(variables: Mapping[str, Any]) -> Iterator[Secret]:
    """The secrets among a program's variables, by their names, and the passwords in their URLs; a role is none."""
    for name, value in variables.items():
        if _SECRET_VARIABLE.search(name):
            yield Secret(str(value))
    for password in url_passwords(variables):
        yield Secret(password)
        yield Secret(unquote(password))


def _in_path(url: str) -> Iterator[str]:
    """The part of an address whose path is a secret that identifies the receiver without its host."""
    if not url.startswith(("http://", "https://")):
        return
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    path = f"{parts.path}{'?' if parts.query else ''}{parts.query}"
    for piece in {path, *path.split("/"), *re.split(r"[?&]", parts.query)}:
        if len(piece) >= LONG:
            yield piece


def is_word(text: str) -> bool:
    """Whether a secret may also be a name or a word of a sentence: then only the separate word is masked."""
    kinds = {_kind(character) for character in text} - {""}
    if len(text) >= LONG:
        return False
    return len(text) < (ODD if "odd" in kinds else MIXED) or len(kinds) < 2


def _kind(character: str) -> str:
    if character.isdigit():
        return "digit"
    if character.isalpha():
        return "letter"
    return "" if character in "_-./ " else "odd"


@cache
def _patterns(secret: Secret, sql: bool) -> tuple[re.Pattern[str], ...]:
    texts = {form: None for name in (None, "NFC", "NFD") for form in [_normal(secret.text, name)]}
    return tuple(re.compile(_pattern(text, sql)) for text in sorted(texts, key=len, reverse=True))


def _normal(text: str, form: Any) -> str:
    return unicodedata.normalize(form, text) if form else text


def _pattern(text: str, sql: bool) -> str:
    """Each character in any of its forms, so that any mixture of them is found, and one escaped in another."""
    # Consecutive backslashes are one run; how often it was doubled is unknown.
    runs = re.findall(r"\\+|[^\\]", text, re.DOTALL)
    spelled = "".join(map(_run, runs))
    data = text.encode(errors="surrogatepass")
    digits = r"(?i:" + "(?:[ :]|\\\\x)?".join(f"{byte:02x}" for byte in data) + ")"
    if not is_word(text):
        return f"(?:{spelled}|{digits})"
    by_itself = rf"{_BEFORE_WORD}(?:{spelled}){_BEHIND_WORD}"
    in_place = rf"(?<=[:=])(?:{spelled})(?=[@&\s]|$)|(?<=')(?:{spelled})(?=')"
    if not sql:
        in_place += rf'|(?<=")(?:{spelled})(?=")'
    found = (
        [in_place, rf"(?<![0-9A-Fa-f])(?:\\\\?x)?{digits}(?![0-9A-Fa-f])"] if len(text) >= SHORTEST_WORD else [in_place]
    )
    return "|".join(found if sql or len(text) < SHORTEST_WORD else [by_itself, *found])


def _run(run: str) -> str:
    if run.startswith("\\"):
        hexadecimal = "|".join(
            (
                rf"{PERCENT}5[cC]",
                r"&(?:amp;)*(?:#0*92|#[xX]0*5[cC]|bsol);",
                "=5[cC]",
                r"\\{1,16}(?:x5[cC]|u005[cC]|134)",
            )
        )
        return rf"(?:\\{{{len(run)},64}}|(?:{hexadecimal}){{{len(run)}}})"
    return _character(run)


@cache
def _character(character: str) -> str:
    code, data = ord(character), character.encode(errors="surrogatepass")
    forms = [re.escape(character) if character.isascii() and character.isalnum() else ESCAPES + re.escape(character)]
    forms = [*_doubled(character), *forms]
    forms.append("".join(rf"{PERCENT}(?i:{byte:02x})" for byte in data))
    forms.append("".join(rf"\\{{1,16}}(?i:x{byte:02x})" for byte in data))
    forms.append("".join(rf"\\{{1,16}}{byte:03o}" for byte in data))
    forms.append("".join(rf"=(?i:{byte:02x})" for byte in data))
    forms.append(rf"\\{{1,16}}(?i:u{code:04x}|u\{{0*{code:x}\}}|U{code:08x})" if code < 0x10000 else _astral(character))
    forms.append(rf"&(?:amp;)*(?:#0*{code}|#(?i:x0*{code:x}){_named(code)});")
    if code < 0x100:
        forms.append(rf"(?:{PERCENT}|\\{{1,16}}x)(?i:{code:02x})")
    if code >= 0x80:
        # Read in another encoding, or as none.
        forms += [re.escape(data.decode("latin-1")), "\ufffd{1,4}"]
    if character == " ":
        forms.append(r"\+")
    if character in "\n\r\t":
        forms.append(rf"\\{{1,16}}{ {chr(10): 'n', chr(13): 'r', chr(9): 't'}[character] }")
    return f"(?:{'|'.join(forms)})"


def _doubled(character: str) -> list[str]:
    """How quoting writes one sign by several; the longest first."""
    if character == "'":
        quote = ESCAPES + "'"
        return [rf"{quote}{ESCAPES}\"{quote}{ESCAPES}\"{quote}", r"'\\{1,16}''", rf"{quote}{quote}"]
    if character in '"%${}`':
        return [(ESCAPES + re.escape(character)) * 2]
    return []


def _astral(character: str) -> str:
    high, low = (f"{unit:04x}" for unit in memoryview(character.encode("utf-16-le")).cast("H"))
    return rf"\\{{1,16}}(?i:u{high}\\{{1,16}}u{low}|u\{{0*{ord(character):x}\}}|U{ord(character):08x})"


def _named(code: int) -> str:
    names = {39: "apos", 10: "NewLine", 9: "Tab"}
    name = codepoint2name.get(code) or names.get(code)
    return f"|{name}" if name else ""


def _without_base64(text: str, secret: Secret) -> str:
    for core, whole in _cores(secret):
        spans = []
        begin = 0
        # The alphabet of URLs has two other signs; no other text becomes longer or shorter by that.
        plain = text.replace("-", "+").replace("_", "/")
        while (place := plain.find(core, begin)) >= 0:
            left, right = place, place + len(core)
            while left > 0 and text[left - 1] in BASE64 and text[left - 1] != "=":
                left -= 1
            while right < len(text) and text[right] in BASE64:
                right += 1
            if not whole or plain[left:right].rstrip("=") == core:
                spans.append((left, right))
            begin = right
        for left, right in reversed(spans):
            text = text[:left] + MASK + text[right:]
    return text


@cache
def _cores(secret: Secret) -> tuple[tuple[str, bool], ...]:
    """What base64 makes of a secret anywhere within a longer text; of a short one only the complete form is known."""
    cores: dict[tuple[str, bool], None] = {}
    for data in {secret.text.encode(errors="replace"), secret.text.encode("latin-1", "replace")}:
        for offset in range(3):
            encoded = base64.b64encode(bytes(offset) + data).decode()
            core = encoded[(0, 2, 3)[offset] : (offset + len(data)) * 8 // 6]
            if len(core) >= ENCODED:
                cores[core, False] = None
        for one in (data, *((secret.user.encode() + b":" + data,) if secret.user else ())):
            cores[base64.b64encode(one).decode().rstrip("="), True] = None
    return tuple(cores)
