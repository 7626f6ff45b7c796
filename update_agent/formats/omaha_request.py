"""What a client of the Omaha protocol, version 3, sends, as update_engine speaks it.

Servers in the field were tested with update_engine alone, so a request has its attributes, their order and its white
space. Answers are in `update_agent.formats.omaha`, which needs a parser; this module costs nothing to import.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum, unique

from update_agent.formats.xml_text import escape


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
    return " ".join(f'{name}="{escape(value)}"' for name, value in pairs)


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
