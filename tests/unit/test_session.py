import contextlib
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.payloads import DATA
from update_agent.domain.session import OFFICIAL_SERVER, SilentSession, UpdateSession
from update_agent.errors import FormatError, Kind, TransferError
from update_agent.formats.omaha import NoUpdate
from update_agent.formats.omaha_request import AppInfo, Event, EventResult, EventType, InstallSource, Request

APP = AppInfo(app_id="{app}", version="1.0.0", track="stable", boot_id="{boot}", machine="x86_64", machine_id="m")
OTHER_SERVER = 1 << 28
TEST_IMAGE = 1 << 29
RESUMED = 1 << 30
NO_UPDATE = (
    b'<response protocol="3.0"><app appid="{app}" status="ok">'
    b'<updatecheck status="noupdate"></updatecheck></app></response>'
)


class RecordingServer:
    """Keeps what it is told; has no update."""

    def __init__(self, *, takes_events: bool = True) -> None:
        self.requests: list[Request] = []
        self.takes_events = takes_events
        self.body = NO_UPDATE
        self.error: TransferError | None = None

    def exchange(self, request: Request) -> bytes:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return self.body

    def report(self, request: Request) -> bool:
        self.requests.append(request)
        return self.takes_events

    @property
    def event(self) -> Event:
        ((event,),) = (request.events for request in self.requests)
        return event


def make_session(server: RecordingServer, url: str = "http://127.0.0.1/v1/update", **more: Any) -> UpdateSession:
    return UpdateSession(
        server=server, url=url, app=APP, updater="update_agent-1", install_source=InstallSource.ON_DEMAND, **more
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


@pytest.mark.parametrize(
    ("previous_version", "has_fallen_back", "element"),
    [
        (None, False, 'eventtype="3" eventresult="2" previousversion="0.0.0.0"'),
        ("", False, 'eventtype="3" eventresult="2" previousversion=""'),
        ("1.0.0", False, 'eventtype="3" eventresult="2" previousversion="1.0.0"'),
        ("1.0.0", True, 'eventtype="3" eventresult="0" errorcode="44"'),
        (None, True, 'eventtype="3" eventresult="0" errorcode="44"'),
    ],
    ids=["first", "nothing", "updated", "fell back", "fell back first"],
)
def test_check_tells_how_the_last_boot_went(previous_version: str | None, has_fallen_back: bool, element: str) -> None:
    server = RecordingServer()
    make_session(server, previous_version=previous_version, has_fallen_back=has_fallen_back).check()
    (request,) = server.requests
    assert f"<event {element}></event>\n".encode() in request.to_bytes()


def test_check_is_byte_for_byte_what_update_engine_sends() -> None:
    app = AppInfo(
        app_id="{e96281a6-d1af-4bde-9a0a-97b76e56dc57}",
        version="4081.2.0",
        track="beta & <x>'\u00e9",
        boot_id="{f1a82e97-8c5d-4cd2-8632-dda1f839387a}",
        machine="x86_64",
        oem="azure",
        oem_version="1.2.3",
        aleph_version="4081.2.0",
        machine_id="0123456789abcdef0123456789abcdef",
        machine_alias="my alias",
        board="amd64-usr",
    )
    server = RecordingServer()
    session = make_session(server, previous_version=None)
    dataclasses.replace(session, app=app, updater="update_engine-0.4.10").check()
    (request,) = server.requests
    assert request.to_bytes() == (DATA / "omaha" / "request-update-engine.xml").read_bytes()


@pytest.mark.parametrize("body", [NO_UPDATE, b"<html>"], ids=["good", "bad"])
def test_check_keeps_every_answer(body: bytes) -> None:
    server, kept = RecordingServer(), list[bytes]()
    server.body = body
    with contextlib.suppress(FormatError):
        make_session(server, keep_response=kept.append).check()
    assert kept == [body]


def test_check_that_fails_tells_why_and_keeps_nothing() -> None:
    server, kept = RecordingServer(), list[bytes]()
    server.error = TransferError(Kind.OMAHA_TRANSFER, "down")
    with pytest.raises(TransferError, match="down"):
        make_session(server, keep_response=kept.append).check()
    assert kept == []


@pytest.mark.parametrize(
    ("report", "element"),
    [
        (UpdateSession.report_started, 'eventtype="13" eventresult="1"'),
        (UpdateSession.report_finished, 'eventtype="14" eventresult="1"'),
        (UpdateSession.report_installed, 'eventtype="3" eventresult="1"'),
    ],
    ids=["started", "finished", "installed"],
)
def test_report_of_progress_is_an_event_without_ping_or_check(
    report: Callable[[UpdateSession], None], element: str
) -> None:
    server = RecordingServer()
    report(make_session(server))
    (request,) = server.requests
    assert request.to_bytes().count(b"<event ") == 1
    assert f"<event {element}></event>\n".encode() in request.to_bytes()
    assert (request.has_ping, request.has_update_check) == (False, False)


@pytest.mark.parametrize(
    ("url", "was_resumed", "is_test_image", "flags"),
    [
        (OFFICIAL_SERVER, False, False, 0),
        (OFFICIAL_SERVER, True, False, RESUMED),
        (OFFICIAL_SERVER, False, True, TEST_IMAGE),
        (OFFICIAL_SERVER.rstrip("/"), False, False, OTHER_SERVER),
        ("http://127.0.0.1/", True, True, OTHER_SERVER | RESUMED | TEST_IMAGE),
    ],
)
def test_report_failed_adds_flags_to_the_code(url: str, was_resumed: bool, is_test_image: bool, flags: int) -> None:
    server = RecordingServer()
    session = make_session(server, url, is_test_image=is_test_image)
    assert session.report_failed(29, was_resumed=was_resumed)
    assert server.event == Event(event_type=EventType.UPDATE_COMPLETE, result=EventResult.ERROR, error_code=29 | flags)
    assert session.flagged(29, was_resumed=was_resumed) == 29 | flags


def test_report_failed_writes_the_numbers_that_update_engine_writes() -> None:
    server = RecordingServer()
    for code in (34, 21, 2500):
        make_session(server).report_failed(code, was_resumed=False)
    numbers = [re.findall(rb'errorcode="(-?[0-9]+)"', request.to_bytes()) for request in server.requests]
    assert numbers == [[b"268435490"], [b"268435477"], [b"268437956"]]


@pytest.mark.parametrize(("code", "result"), [(35, 9), (36, 9), (40, 9), (34, 0), (37, 0), (41, 0), (44, 0)])
def test_report_failed_by_policy_says_deferred(code: int, result: int) -> None:
    server = RecordingServer()
    make_session(server).report_failed(code, was_resumed=False)
    assert server.event.result == result


def test_report_to_a_server_that_does_not_listen_changes_nothing() -> None:
    server = RecordingServer(takes_events=False)
    make_session(server).report_installed()
    assert not make_session(server).report_failed(9, was_resumed=False)
    assert len(server.requests) == 2


def test_silent_session_tells_nobody() -> None:
    session = SilentSession()
    session.report_started()
    session.report_finished()
    session.report_installed()
    assert not session.report_failed(9, was_resumed=True)
    assert session.flagged(9, was_resumed=True) == 9
