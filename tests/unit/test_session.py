from collections.abc import Callable

import pytest

from update_agent.domain.session import OFFICIAL_SERVER, UpdateSession
from update_agent.errors import Kind, TransferError
from update_agent.formats.omaha import NoUpdate, Update
from update_agent.formats.omaha_request import AppInfo, Event, EventResult, EventType, InstallSource, Request

APP = AppInfo(app_id="{app}", version="1.0.0", track="stable", boot_id="{boot}", machine="x86_64", machine_id="m")
OTHER_SERVER = 1 << 28
RESUMED = 1 << 30


class RecordingServer:
    """Keeps what it is told; has no update."""

    def __init__(self, *, takes_events: bool = True) -> None:
        self.requests: list[Request] = []
        self.takes_events = takes_events
        self.error: TransferError | None = None

    def check(self, request: Request) -> NoUpdate | Update:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return NoUpdate(poll_interval_secs=None)

    def report(self, request: Request) -> bool:
        self.requests.append(request)
        return self.takes_events

    @property
    def event(self) -> Event:
        ((event,),) = (request.events for request in self.requests)
        return event


def make_session(server: RecordingServer, url: str = "http://127.0.0.1/v1/update") -> UpdateSession:
    return UpdateSession(
        server=server, url=url, app=APP, updater="update_agent-1", install_source=InstallSource.ON_DEMAND
    )


def test_check_asks_pings_and_says_how_the_last_boot_went() -> None:
    server = RecordingServer()
    assert make_session(server).check() == NoUpdate(poll_interval_secs=None)
    (request,) = server.requests
    assert (request.has_ping, request.has_update_check) == (True, True)
    assert (request.app, request.updater, request.install_source) == (APP, "update_agent-1", InstallSource.ON_DEMAND)
    assert server.event == Event(
        event_type=EventType.UPDATE_COMPLETE, result=EventResult.SUCCESS_REBOOT, previous_version=""
    )


def test_check_that_fails_tells_why() -> None:
    server = RecordingServer()
    server.error = TransferError(Kind.OMAHA_TRANSFER, "down")
    with pytest.raises(TransferError, match="down"):
        make_session(server).check()


@pytest.mark.parametrize(
    ("report", "event_type"),
    [
        (UpdateSession.report_started, EventType.DOWNLOAD_STARTED),
        (UpdateSession.report_finished, EventType.DOWNLOAD_FINISHED),
        (UpdateSession.report_installed, EventType.UPDATE_COMPLETE),
    ],
)
def test_report_of_progress_is_an_event_without_ping_or_check(
    report: Callable[[UpdateSession], None], event_type: EventType
) -> None:
    server = RecordingServer()
    report(make_session(server))
    assert server.event == Event(event_type=event_type, result=EventResult.SUCCESS)
    (request,) = server.requests
    assert (request.has_ping, request.has_update_check) == (False, False)


@pytest.mark.parametrize(
    ("url", "was_resumed", "flags"),
    [
        (OFFICIAL_SERVER, False, 0),
        (OFFICIAL_SERVER, True, RESUMED),
        ("http://127.0.0.1/", False, OTHER_SERVER),
        ("http://127.0.0.1/", True, OTHER_SERVER | RESUMED),
    ],
)
def test_report_failed_adds_flags_to_the_code(url: str, was_resumed: bool, flags: int) -> None:
    server = RecordingServer()
    make_session(server, url).report_failed(29, was_resumed=was_resumed)
    assert server.event == Event(event_type=EventType.UPDATE_COMPLETE, result=EventResult.ERROR, error_code=29 | flags)


def test_report_to_a_server_that_does_not_listen_changes_nothing() -> None:
    server = RecordingServer(takes_events=False)
    make_session(server).report_installed()
    assert len(server.requests) == 1
