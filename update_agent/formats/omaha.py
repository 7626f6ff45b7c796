"""The Omaha protocol, version 3, as update_engine speaks it: requests of a client, and what the server answered.

Servers in the field were tested with update_engine alone, so a request has its attributes, their order and its
white space. Of a response only what update_engine reads is read, and `hash_sha256` of the package.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from enum import IntEnum, StrEnum, unique
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


@unique
class EventType(IntEnum):
    """What a client reports about."""

    UPDATE_COMPLETE = 3
    DOWNLOAD_STARTED = 13
    DOWNLOAD_FINISHED = 14
    INSTALLED = 800


@unique
class EventResult(IntEnum):
    """How it went."""

    ERROR = 0
    SUCCESS = 1
    SUCCESS_REBOOT = 2
    DEFERRED = 9


@unique
class InstallSource(StrEnum):
    """Who asked for the check."""

    ON_DEMAND = "ondemandupdate"
    SCHEDULER = "scheduler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    Attributes:
        event_type: what.
        result: how it went.
        error_code: update_engine's number, with flags; sent as a signed 32-bit number.
        previous_version: what ran before; "" when there is nothing new to say, "0.0.0.0" when it is not known.
    """

    event_type: EventType
    result: EventResult
    error_code: int | None = None
    previous_version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AppInfo:
    """What a node says about itself; any text is allowed everywhere.

    Attributes:
        app_id: of the product, often in braces.
        version: what runs now.
        track: the group or channel to be updated from.
        boot_id: of this boot, in braces.
        machine: as `uname -m` says.
        oem: where the image runs.
        oem_version: of the vendor's additions.
        aleph_version: what the node was installed with.
        machine_id: 32 hexadecimal digits, without braces.
        machine_alias: a name that people gave to the node.
        board: such as amd64-usr.
    """

    app_id: str
    version: str
    track: str
    boot_id: str
    machine: str
    oem: str = ""
    oem_version: str = ""
    aleph_version: str = ""
    machine_id: str = ""
    machine_alias: str = ""
    board: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client sends.

    Attributes:
        app: who asks.
        updater: name and version of the client, joined by a hyphen.
        install_source: who asked for the check.
        has_ping: say that the node is alive.
        has_update_check: ask for an update.
        events: what to report.
    """

    app: AppInfo
    updater: str
    install_source: InstallSource
    has_ping: bool = False
    has_update_check: bool = False
    events: tuple[Event, ...] = ()

    def to_bytes(self) -> bytes:
        """The body of the POST request."""
        app = self.app
        children = []
        if self.has_ping:
            children.append('<ping active="1"></ping>')
        if self.has_update_check:
            children.append("<updatecheck></updatecheck>")
        children += [_event_element(event) for event in self.events]
        request = _attributes(
            ("protocol", "3.0"),
            ("version", self.updater),
            ("updaterversion", self.updater),
            ("installsource", self.install_source),
            ("ismachine", "1"),
        )
        system = _attributes(("version", "Chateau"), ("platform", "CoreOS"), ("sp", f"{app.version}_{app.machine}"))
        body = "".join(f"        {child}\n" for child in children)
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<request {request}>\n"
            f"    <os {system}></os>\n"
            f"    <app {_app_attributes(app)} >\n"
            f"{body}"
            "    </app>\n"
            "</request>\n"
        ).encode("ascii")


def _attributes(*pairs: tuple[str, str]) -> str:
    return " ".join(f'{name}="{xml.escape(value)}"' for name, value in pairs)


def _app_attributes(app: AppInfo) -> str:
    return _attributes(
        ("appid", app.app_id),
        ("version", app.version),
        ("track", app.track),
        ("bootid", app.boot_id),
        ("oem", app.oem),
        ("oemversion", app.oem_version),
        ("alephversion", app.aleph_version),
        ("machineid", app.machine_id),
        ("machinealias", app.machine_alias),
        ("lang", "en-US"),
        ("board", app.board),
        ("hardware_class", ""),
        ("delta_okay", "false"),
    )


def _event_element(event: Event) -> str:
    pairs = [("eventtype", str(event.event_type.value)), ("eventresult", str(event.result.value))]
    if event.error_code is not None:
        signed = (event.error_code + (1 << 31)) % (1 << 32) - (1 << 31)
        pairs.append(("errorcode", str(signed)))
    if event.previous_version is not None:
        pairs.append(("previousversion", event.previous_version))
    return f"<event {_attributes(*pairs)}></event>"


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
