"""The Omaha protocol, version 3, as update_engine speaks it: what the server answered.

Of a response only what update_engine reads is read, and `hash_sha256` of the package. Requests are in
`update_agent.formats.omaha_request`.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit
from xml.etree.ElementTree import Element

from update_agent.errors import FormatError, Kind, TransferError
from update_agent.formats import xml
from update_agent.formats.release import Version

MAX_RESPONSE_BYTES: Final = 1 << 20
MAX_URL_CHARS: Final = 2048
MAX_URLS: Final = 32
DEFAULT_MAX_FAILURES_PER_URL: Final = 10

_MAX_INT64: Final = (1 << 63) - 1
_MAX_UINT32: Final = (1 << 32) - 1
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoUpdate:
    """There is nothing for this node now.

    Attributes:
        poll_interval_secs: when the server wants to be asked again, or None.
    """

    poll_interval_secs: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A release to install.

    Attributes:
        version: of the release.
        urls: complete http and https URLs of the payload, 1 to 32, in the server's order.
        size_bytes: of the payload, more than 0.
        sha256: of the whole payload, 32 bytes.
        is_delta: the payload needs the old release.
        max_failure_count_per_url: failures until the next URL is used, at least 1.
        disable_backoff: try again at once after a failed attempt.
        poll_interval_secs: when the server wants to be asked again, or None.
    """

    version: Version
    urls: tuple[str, ...]
    size_bytes: int
    sha256: bytes
    is_delta: bool
    max_failure_count_per_url: int
    disable_backoff: bool
    poll_interval_secs: int | None


def parse_response(data: bytes) -> NoUpdate | Update:
    """What the server answered to an update check.

    Raises:
        FormatError: omaha-empty, omaha-malformed; omaha-invalid, when a piece is missing or makes no sense.
        TransferError: omaha-refused, when the server gives an error instead.
    """
    response = xml.parse(data, root="response", limit_bytes=MAX_RESPONSE_BYTES)
    app, check = _find_check(response)
    interval = _number(check, "PollInterval", maximum=_MAX_UINT32) or None
    match check.get("status"):
        case "noupdate":
            return NoUpdate(poll_interval_secs=interval)
        case "ok":
            return _update(check, interval)
        case None:
            raise _invalid("updatecheck: expected a status, got none")
        case status:
            raise _refused(app, status)


def _invalid(message: str) -> FormatError:
    return FormatError(Kind.OMAHA_INVALID, f"response: {message}")


def _shown(text: str) -> str:
    """Text of the server for a message: short and harmless on a terminal."""
    return repr(text[:100])


def _refused(app: Element, status: str) -> TransferError:
    reason = app.get("status", "ok")
    if reason == "ok":
        reason = status
    return TransferError(
        Kind.OMAHA_REFUSED,
        f"update server: expected an update or none, got {_shown(reason)}",
        hint="ask whoever runs the update server what that means for this node",
    )


def _find_check(response: Element) -> tuple[Element, Element]:
    """The first updatecheck and its app."""
    apps = response.findall("app")
    for app in apps:
        check = app.find("updatecheck")
        if check is not None:
            return app, check
    for app in apps:
        if app.get("status", "ok") != "ok":
            raise _refused(app, "error")
    raise _invalid("expected an app with an updatecheck, got none")


def _number(element: Element, name: str, *, maximum: int) -> int | None:
    text = element.get(name)
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,19}", text) is None or int(text) > maximum:
        raise _invalid(f"{element.tag}@{name}: expected a number from 0 to {maximum}, got {_shown(text)}")
    return int(text)


def _update(check: Element, interval: int | None) -> Update:
    manifest = check.find("manifest")
    package = check.find("manifest/packages/package")
    if manifest is None or package is None:
        raise _invalid("updatecheck: expected a manifest with a package, got none")
    action = next((each for each in manifest.findall("actions/action") if each.get("event") == "postinstall"), None)
    if action is None:
        action = Element("action")
    size = _number(package, "size", maximum=_MAX_INT64)
    if not size:
        raise _invalid("package@size: expected more than 0 bytes, got nothing")
    failures = _number(action, "MaxFailureCountPerUrl", maximum=_MAX_UINT32)
    return Update(
        version=_version(manifest),
        urls=_urls(check, package),
        size_bytes=size,
        sha256=_sha256(package, action),
        is_delta=action.get("IsDeltaPayload") == "true",
        # 0 has the same effect as 1: the first failure moves to the next URL.
        max_failure_count_per_url=DEFAULT_MAX_FAILURES_PER_URL if failures is None else max(failures, 1),
        disable_backoff=action.get("DisablePayloadBackoff") == "true",
        poll_interval_secs=interval,
    )


def _version(manifest: Element) -> Version:
    try:
        return Version.parse(manifest.get("version", ""))
    except FormatError as error:
        raise _invalid(f"manifest@{error.message}") from error


def _urls(check: Element, package: Element) -> tuple[str, ...]:
    name = package.get("name", "")
    segments = re.split(r"[/\\]", unquote(name))
    if not name or ".." in segments or name.startswith("/") or _SCHEME.match(name) or _CONTROL.search(name):
        raise _invalid(f"package@name: expected a file name, got {_shown(name)}")
    codebases = [codebase for each in check.findall("urls/url") if (codebase := each.get("codebase"))]
    if not 1 <= len(codebases) <= MAX_URLS:
        raise _invalid(f"urls: expected 1 to {MAX_URLS} URLs, got {len(codebases)}")
    return tuple(_url(codebase, name) for codebase in codebases)


def _url(codebase: str, name: str) -> str:
    separator = "" if codebase.endswith("/") else "/"
    url = f"{codebase}{separator}{name}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise _invalid(f"url@codebase: expected an http or https URL, got {_shown(codebase)}") from error
    if parts.scheme not in {"http", "https"} or not host or _CONTROL.search(url):
        raise _invalid(f"url@codebase: expected an http or https URL, got {_shown(codebase)}")
    if len(url) > MAX_URL_CHARS:
        raise _invalid(f"url@codebase: expected at most {MAX_URL_CHARS} characters, got {len(url)}")
    return url


def _sha256(package: Element, action: Element) -> bytes:
    of_action = _digest(action, "sha256")
    of_package = _digest(package, "hash_sha256")
    if of_action is not None and of_package is not None and of_action != of_package:
        raise _invalid("expected the SHA-256 of package and action to be the same, got two")
    digest = of_action or of_package
    if digest is None:
        raise _invalid("action@sha256: expected the SHA-256 of the payload, got none")
    return digest


def _digest(element: Element, name: str) -> bytes | None:
    """32 bytes written in base64 or as hexadecimal digits."""
    text = element.get(name, "").strip()
    if not text:
        return None
    try:
        digest = bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise _invalid(f"{element.tag}@{name}: expected base64 or hexadecimal digits, got {_shown(text)}") from error
    if len(digest) != 32:
        raise _invalid(f"{element.tag}@{name}: expected 32 bytes, got {len(digest)}")
    return digest
