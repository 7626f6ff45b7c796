"""One conversation with the update server about one update: ask, then tell how it went.

    every check            3/2 with what ran before the last update, or 3/0 with code 44 after a boot that fell back
    before the payload     13/1
    payload verified       14/1
    release boots next     3/1
    failed                 3/0 with a code; 3/9 when the release was offered and is not taken now

Only the answer to a check matters. Everything else is told as well as possible, once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from update_agent.formats.omaha import NoUpdate, Update, parse_response
from update_agent.formats.omaha_request import AppInfo, Event, EventResult, EventType, InstallSource, Request

OFFICIAL_SERVER: Final = "https://public.update.flatcar-linux.net/v1/update/"
"""Error codes of nodes that ask another server carry a flag, so that its operator can tell them apart."""

ROLLBACK_CODE: Final = 44
"""The release of the last update was booted and did not stay."""

_FLAG_OTHER_SERVER: Final = 1 << 28
_FLAG_TEST_IMAGE: Final = 1 << 29
_FLAG_RESUMED: Final = 1 << 30

_DEFERRED_CODES: Final = frozenset({35, 36, 40})
"""Not taken by policy, or not yet."""

_UNKNOWN_VERSION: Final = "0.0.0.0"  # noqa: S104  no address


class UpdateServer(Protocol):
    """What `update_agent.net.omaha_client.OmahaClient` does."""

    def exchange(self, request: Request) -> bytes:
        """Send a request and give the body of the answer."""

    def report(self, request: Request) -> bool:
        """Send events; best effort."""


def _ignore_response(_: bytes) -> None:
    """Keep nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSession:
    """Speaks for one node; every request repeats who it is.

    Attributes:
        server: the update server.
        url: where it is, for the flags of error codes.
        app: what the node says about itself.
        updater: name and version of the program.
        install_source: who asked for the update.
        previous_version: what ran before the update that this boot brought, to be told with the check; "" when there is
            nothing to tell, None when no update was ever seen.
        has_fallen_back: tell instead that the last update was booted and did not stay.
        is_test_image: error codes carry a flag.
        keep_response: gets the body of every answer to a check, good or bad.
    """

    server: UpdateServer
    url: str
    app: AppInfo
    updater: str
    install_source: InstallSource
    previous_version: str | None = ""
    has_fallen_back: bool = False
    is_test_image: bool = False
    keep_response: Callable[[bytes], None] = _ignore_response

    def check(self) -> NoUpdate | Update:
        """Ask for an update, say that the node is alive and how the last boot went.

        Raises:
            TransferError: omaha-transfer, http-status, redirect-refused, transfer-too-large, omaha-refused.
            FormatError: omaha-empty, omaha-malformed, omaha-invalid.
        """
        body = self.server.exchange(self._request(self._boot_event(), is_check=True))
        self.keep_response(body)
        return parse_response(body)

    def report_started(self) -> None:
        """The payload is about to be fetched."""
        self._report(Event(event_type=EventType.DOWNLOAD_STARTED, result=EventResult.SUCCESS))

    def report_finished(self) -> None:
        """The payload was fetched, applied, and its signature verified."""
        self._report(Event(event_type=EventType.DOWNLOAD_FINISHED, result=EventResult.SUCCESS))

    def report_installed(self) -> None:
        """The new release boots next."""
        self._report(Event(event_type=EventType.UPDATE_COMPLETE, result=EventResult.SUCCESS))

    def report_failed(self, code: int, *, was_resumed: bool) -> bool:
        """It went wrong, or is not done now; `code` is update_engine's number without flags. False if nobody heard."""
        result = EventResult.DEFERRED if code in _DEFERRED_CODES else EventResult.ERROR
        flagged = self.flagged(code, was_resumed=was_resumed)
        return self._report(Event(event_type=EventType.UPDATE_COMPLETE, result=result, error_code=flagged))

    def flagged(self, code: int, *, was_resumed: bool) -> int:
        """The code as the server is told."""
        flags = _FLAG_OTHER_SERVER if self.url != OFFICIAL_SERVER else 0
        flags |= _FLAG_TEST_IMAGE if self.is_test_image else 0
        flags |= _FLAG_RESUMED if was_resumed else 0
        return code | flags

    def _boot_event(self) -> Event:
        kind = EventType.UPDATE_COMPLETE
        if self.has_fallen_back:
            return Event(event_type=kind, result=EventResult.ERROR, error_code=ROLLBACK_CODE)
        previous = _UNKNOWN_VERSION if self.previous_version is None else self.previous_version
        return Event(event_type=kind, result=EventResult.SUCCESS_REBOOT, previous_version=previous)

    def _report(self, event: Event) -> bool:
        return self.server.report(self._request(event, is_check=False))

    def _request(self, event: Event, *, is_check: bool) -> Request:
        return Request(
            app=self.app,
            updater=self.updater,
            install_source=self.install_source,
            has_ping=is_check,
            has_update_check=is_check,
            events=(event,),
        )


class SilentSession:
    """Tells nobody: for a payload that no server offered."""

    def report_started(self) -> None:
        """Nothing."""

    def report_finished(self) -> None:
        """Nothing."""

    def report_installed(self) -> None:
        """Nothing."""

    def report_failed(self, _code: int, *, was_resumed: bool) -> bool:
        """Nothing; nobody heard."""
        return False

    def flagged(self, code: int, *, was_resumed: bool) -> int:
        """The code alone."""
        return code
