"""Servers that answer garbage, lie, never end or are not there, and what the real daemon says of them."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import NEW
from tests.support.daemons import OTHER_SERVER, NodeDaemon, node_daemon
from tests.support.dbus import needs_dbus
from tests.support.faulty_fleets import FaultyFleet
from tests.support.payloads import make_payload
from tests.support.servers import Received, Script, head, send, serving, whole
from tests.support.told import assert_next_succeeds, assert_told
from update_agent.errors import Kind

pytestmark = needs_dbus

PAYLOAD = make_payload(NEW)


@pytest.fixture
def fleet() -> FaultyFleet:
    return FaultyFleet(PAYLOAD)


@pytest.fixture
def node(tmp_path: Path, fleet: FaultyFleet) -> Iterator[NodeDaemon]:
    with node_daemon(tmp_path) as node, serving(fleet) as server:
        node.configure(server.url)
        yield node


def never_answer(connection: socket.socket, _: Received) -> None:
    connection.recv(1)


def stop_halfway(connection: socket.socket, _: Received) -> None:
    connection.sendall(head(Content_Length=len(PAYLOAD)) + PAYLOAD[: len(PAYLOAD) // 2])
    connection.recv(1)


def drip(connection: socket.socket, _: Received) -> None:
    """A body without end, a byte now and then."""
    connection.sendall(head(Content_Length=len(PAYLOAD)) + PAYLOAD[:1000])
    with contextlib.suppress(TimeoutError):
        connection.settimeout(0.3)
        while True:
            try:
                if not connection.recv(1):
                    return
            except TimeoutError:
                connection.sendall(b"\0")


def pour(connection: socket.socket, _: Received) -> None:
    """A body without end, as fast as it goes, that begins well."""
    connection.sendall(head() + PAYLOAD[:100_000])
    while True:
        connection.sendall(bytes(65536))


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (whole(b"<html><body>Log in to the network</body></html>"), Kind.OMAHA_MALFORMED, 31),
        (whole(bytes(1024)), Kind.OMAHA_MALFORMED, 31),
        (send(b"SSH-2.0-OpenSSH_9.2\r\n"), Kind.OMAHA_TRANSFER, 2),
        (send(head(Content_Length=1000), b"<response"), Kind.OMAHA_TRANSFER, 2),
        (never_answer, Kind.OMAHA_TRANSFER, 2),
        (whole(bytes(2 << 20)), Kind.TRANSFER_TOO_LARGE, 11),
    ],
    ids=["web page", "zeros", "no HTTP", "closes early", "never answers", "too much"],
)
def test_check_that_is_answered_with_garbage_is_told_and_reported(
    node: NodeDaemon, fleet: FaultyFleet, answer: Script, kind: Kind, code: int
) -> None:
    node.configure(transfer_stall_secs=1)
    fleet.check = answer
    result = node.start().install()
    assert_told(node, result, kind, code | OTHER_SERVER)
    assert (fleet.heard, fleet.codes) == (["check", "3/0"], [code | OTHER_SERVER])
    assert_next_succeeds(node, fleet, PAYLOAD)


@pytest.mark.parametrize(
    ("serve", "kind", "code"),
    [
        (send(head(Content_Length=len(PAYLOAD)), PAYLOAD[:1000]), Kind.TRANSFER, 9),
        (stop_halfway, Kind.TRANSFER_STALLED, 9),
        (drip, Kind.TRANSFER_STALLED, 9),
        (pour, Kind.OPERATION_HASH, 29),
        (never_answer, Kind.TRANSFER_STALLED, 9),
        (send(head("302 Found", Location="ftp://127.0.0.1/", Content_Length=0)), Kind.REDIRECT_REFUSED, 9),
        (whole(bytes(len(PAYLOAD))), Kind.PAYLOAD_MAGIC, 21),
    ],
    ids=["closes early", "stops", "drips", "pours", "never answers", "sends away", "zeros"],
)
def test_payload_that_does_not_come_as_announced_is_told_and_reported(
    node: NodeDaemon, fleet: FaultyFleet, serve: Script, kind: Kind, code: int
) -> None:
    node.configure(transfer_stall_secs=1)
    fleet.serve = serve
    result = node.start().install()
    assert_told(node, result, kind, code | OTHER_SERVER)
    assert (fleet.heard, fleet.codes) == (["check", "13/1", "GET", "3/0"], [code | OTHER_SERVER])
    assert node.bench.boots() == "A"
    assert_next_succeeds(node, fleet, PAYLOAD)


def test_server_that_is_not_there_is_told(node: NodeDaemon, fleet: FaultyFleet) -> None:
    url = node.settings["server.url"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        node.configure(f"http://127.0.0.1:{listener.getsockname()[1]}/")
    result = node.start().install()
    assert_told(node, result, Kind.OMAHA_TRANSFER, 2 | OTHER_SERVER)
    node.configure(url)
    node.cli("reload")
    assert_next_succeeds(node, fleet, PAYLOAD)
