"""The server's half of the Omaha protocol: reads requests, writes responses as Nebraska does.

Elements of an app come in a fixed order, whatever the order of the request: ping, updatecheck, events. Unknown
attributes and elements are passed over; numbers of events are not looked into, because every event is acknowledged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final
from xml.etree.ElementTree import Element

from update_agent.errors import FormatError, Kind
from update_agent.formats import xml
from update_agent.formats.xml_text import escape

MAX_REQUEST_BYTES: Final = 64 << 10
MAX_APPS: Final = 32
MAX_EVENTS: Final = 64


@unique
class AppStatus(StrEnum):
    """What the server says about an app as a whole."""

    OK = "ok"
    UNKNOWN_APPLICATION = "error-unknownApplication"
    INVALID_VERSION = "error-invalidVersion"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedEvent:
    """An event as it was written in the request, each value at most 64 characters."""

    event_type: str
    result: str
    error_code: str
    previous_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AskingApp:
    """One app of a request.

    Attributes:
        app_id: as it was written.
        version: likewise; may be no version at all.
        track: the group or channel it wants.
        machine_id: of the node.
        has_ping: the node says that it is alive.
        has_update_check: it asks for an update.
        events: what it reports.
    """

    app_id: str
    version: str
    track: str
    machine_id: str
    has_ping: bool
    has_update_check: bool
    events: tuple[ReportedEvent, ...]

    @property
    def product(self) -> str:
        """The app id without braces and spaces, in lower case; servers do not tell such spellings apart."""
        return normalized_app_id(self.app_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An update for an app.

    Attributes:
        version: of the release.
        codebase: URL of the folder with the payload, with a slash at the end.
        name: of the payload in it.
        size_bytes: of the payload.
        sha1_base64: of the payload; clients of today do not look at it.
        sha256_base64: of the payload.
    """

    version: str
    codebase: str
    name: str
    size_bytes: int
    sha1_base64: str
    sha256_base64: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AppAnswer:
    """What the server says to one app.

    Attributes:
        app_id: as it was written in the request.
        status: of the app; the update check of an app that is not ok is answered with error-internal.
        has_ping: acknowledge a ping.
        has_update_check: answer an update check, with `offer` or else noupdate.
        offer: the update.
        event_count: how many events to acknowledge.
    """

    app_id: str
    status: AppStatus = AppStatus.OK
    has_ping: bool = False
    has_update_check: bool = False
    offer: Offer | None = None
    event_count: int = 0


def normalized_app_id(text: str) -> str:
    """The spelling under which app ids are compared."""
    return text.strip().removeprefix("{").removesuffix("}").strip().lower()


def parse_request(data: bytes) -> tuple[AskingApp, ...]:
    """The apps of a request, at least one.

    Raises:
        FormatError: omaha-empty, omaha-malformed, omaha-invalid.
    """
    request = xml.parse(data, root="request", limit_bytes=MAX_REQUEST_BYTES)
    if request.get("protocol") != "3.0":
        raise _invalid(f"expected protocol 3.0, got {request.get('protocol', '')[:40]!r}")
    apps = request.findall("app")
    if not 1 <= len(apps) <= MAX_APPS:
        raise _invalid(f"expected 1 to {MAX_APPS} apps, got {len(apps)}")
    return tuple(_asking_app(app) for app in apps)


def _invalid(message: str) -> FormatError:
    return FormatError(Kind.OMAHA_INVALID, f"request: {message}")


def _text(element: Element, name: str, limit: int) -> str:
    text = element.get(name, "")
    if len(text) > limit:
        raise _invalid(f"{element.tag}@{name}: expected at most {limit} characters, got {len(text)}")
    return text


def _asking_app(app: Element) -> AskingApp:
    events = app.findall("event")
    if len(events) > MAX_EVENTS:
        raise _invalid(f"expected at most {MAX_EVENTS} events, got {len(events)}")
    app_id = _text(app, "appid", 256)
    if not app_id:
        raise _invalid("app@appid: expected one, got none")
    return AskingApp(
        app_id=app_id,
        version=_text(app, "version", 256),
        track=_text(app, "track", 256),
        machine_id=_text(app, "machineid", 256),
        has_ping=app.find("ping") is not None,
        has_update_check=app.find("updatecheck") is not None,
        events=tuple(
            ReportedEvent(
                event_type=_text(event, "eventtype", 64),
                result=_text(event, "eventresult", 64),
                error_code=_text(event, "errorcode", 64),
                previous_version=_text(event, "previousversion", 64),
            )
            for event in events
        ),
    )


def build_response(answers: Sequence[AppAnswer]) -> bytes:
    """The body of the HTTP answer."""
    apps = "".join(map(_app, answers))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<response protocol="3.0" server="update-agent">'
        f'<daystart elapsed_seconds="0"></daystart>{apps}</response>'
    ).encode("ascii")


def _app(answer: AppAnswer) -> str:
    ping = '<ping status="ok"></ping>' if answer.has_ping and answer.status is AppStatus.OK else ""
    check = _update_check(answer) if answer.has_update_check else ""
    events = '<event status="ok"></event>' * answer.event_count
    return f'<app appid="{escape(answer.app_id)}" status="{answer.status}">{ping}{check}{events}</app>'


def _update_check(answer: AppAnswer) -> str:
    if answer.status is not AppStatus.OK:
        return '<updatecheck status="error-internal"><urls></urls></updatecheck>'
    if answer.offer is None:
        return '<updatecheck status="noupdate"><urls></urls></updatecheck>'
    offer = answer.offer
    return (
        f'<updatecheck status="ok"><urls><url codebase="{escape(offer.codebase)}"></url></urls>'
        f'<manifest version="{escape(offer.version)}"><packages>'
        f'<package name="{escape(offer.name)}" hash="{offer.sha1_base64}" hash_sha256="{offer.sha256_base64}" '
        f'size="{offer.size_bytes}" required="true"></package></packages><actions>'
        f'<action event="postinstall" sha256="{offer.sha256_base64}" DisablePayloadBackoff="true"></action>'
        "</actions></manifest></updatecheck>"
    )
