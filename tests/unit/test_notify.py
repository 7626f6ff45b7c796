"""What the service manager hears."""

import os
import re
import socket
from pathlib import Path

import pytest

from update_agent.host.notify import Notifier, watchdog_interval_secs


def listener(address: str) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(address)
    receiver.settimeout(5)
    return receiver


def test_messages_reach_a_path(tmp_path: Path) -> None:
    with listener(str(tmp_path / "notify")) as receiver:
        notifier = Notifier(str(tmp_path / "notify"))
        notifier.ready()
        notifier.watchdog()
        notifier.stopping()
        assert [receiver.recv(4096) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_message_reaches_an_abstract_name_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"update-agent-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with listener(f"\0{name}") as receiver:
        Notifier().ready()
        assert receiver.recv(4096) == b"READY=1"


def test_status_is_one_bounded_line(tmp_path: Path) -> None:
    with listener(str(tmp_path / "notify")) as receiver:
        notifier = Notifier(str(tmp_path / "notify"))
        notifier.status("waiting:\nREADY=1\t\udcff")
        notifier.status("x" * 5000)
        assert receiver.recv(4096) == rb"STATUS=waiting: READY=1 \udcff"
        assert receiver.recv(8192) == b"STATUS=" + b"x" * 2048


def test_reloading_tells_the_time_as_well(tmp_path: Path) -> None:
    with listener(str(tmp_path / "notify")) as receiver:
        Notifier(str(tmp_path / "notify")).reloading()
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", receiver.recv(4096))


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative", "/nowhere/notify", "@nobody", "/" + "x" * 300])
def test_nobody_to_hear_is_no_failure(address: str) -> None:
    Notifier(address).ready()


@pytest.mark.parametrize(
    ("environ", "secs"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "٣"}, None),
    ],
)
def test_watchdog_interval(environ: dict[str, str], secs: float | None) -> None:
    assert watchdog_interval_secs(environ) == secs
