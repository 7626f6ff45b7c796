"""One conversation with the update server about one update: ask, then tell how it went."""

from dataclasses import dataclass
from typing import Final, Protocol

from update_agent.formats.omaha import NoUpdate, Update
from update_agent.formats.omaha_request import AppInfo, Event, EventResult, EventType, InstallSource, Request

OFFICIAL_SERVER: Final = "https://public.update.flatcar-linux.net/v1/update/"
"""Error codes of nodes that ask another server carry a flag, so that its operator can tell them apart."""

_FLAG_OTHER_SERVER: Final = 1 << 28
_FLAG_RESUMED: Final = 1 << 30


class UpdateServer(Protocol):
    """What `update_agent.net.omaha_client.OmahaClient` does."""

    def check(self, request: Request) -> NoUpdate | Update:
        """Ask for an update."""

    def report(self, request: Request) -> bool:
        """Send events; best effort."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSession:
    """Speaks for one node; every request repeats who it is.

    Attributes:
        server: the update server.
        url: where it is, for the flags of error codes.
        app: what the node says about itself.
        updater: name and version of the program.
        install_source: who asked for the update.
    """

    server: UpdateServer
    url: str
    app: AppInfo
    updater: str
    install_source: InstallSource

    def check(self) -> NoUpdate | Update:
        """Ask for an update, and say that the node is alive.

        Raises:
            TransferError, FormatError: as the server's `check`.
        """
        # The server hears with every check how the last boot went; nothing is known to have gone wrong.
        event = Event(event_type=EventType.UPDATE_COMPLETE, result=EventResult.SUCCESS_REBOOT, previous_version="")
        return self.server.check(self._request(event, is_check=True))

    def report_started(self) -> None:
        """The payload is about to be fetched."""
        self._report(Event(event_type=EventType.DOWNLOAD_STARTED, result=EventResult.SUCCESS))

    def report_finished(self) -> None:
        """The payload was fetched, applied, and its signature verified."""
        self._report(Event(event_type=EventType.DOWNLOAD_FINISHED, result=EventResult.SUCCESS))

    def report_installed(self) -> None:
        """The new release boots next."""
        self._report(Event(event_type=EventType.UPDATE_COMPLETE, result=EventResult.SUCCESS))

    def report_failed(self, code: int, *, was_resumed: bool) -> None:
        """It went wrong; `code` is update_engine's number without flags."""
        flags = (_FLAG_OTHER_SERVER if self.url != OFFICIAL_SERVER else 0) | (_FLAG_RESUMED if was_resumed else 0)
        self._report(Event(event_type=EventType.UPDATE_COMPLETE, result=EventResult.ERROR, error_code=code | flags))

    def _report(self, event: Event) -> None:
        self.server.report(self._request(event, is_check=False))

    def _request(self, event: Event, *, is_check: bool) -> Request:
        return Request(
            app=self.app,
            updater=self.updater,
            install_source=self.install_source,
            has_ping=is_check,
            has_update_check=is_check,
            events=(event,),
        )
