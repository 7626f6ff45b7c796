"""Logging as the journal reads it."""

import json
import logging
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from update_agent.domain.journal_events import JournalEvent, log_event
from update_agent.host.journal import JournalHandler, encode_fields, is_journal, priority

LOG = logging.getLogger("tests.journal")


def parse(entry: bytes) -> dict[str, bytes]:
    """An entry as systemd's documentation says it is read."""
    fields: dict[str, bytes] = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", entry)
            value, entry = entry[8 : 8 + length], entry[8 + length :]
            assert entry[:1] == b"\n"
            entry = entry[1:]
        fields[name.decode()] = value
    return fields


class Journald:
    """The receiving end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(5)

    def receive(self) -> dict[str, bytes]:
        data, fds, _, _ = socket.recv_fds(self._socket, 1 << 20, 1)
        if not fds:
            return parse(data)
        assert data == b""
        with os.fdopen(fds[0], "rb") as file:
            return parse(os.pread(file.fileno(), 1 << 24, 0))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    server = Journald(tmp_path / "socket")
    yield server
    server.close()


@pytest.fixture
def stderr() -> Iterator[tuple[int, int]]:
    """Reading and writing end of a pipe."""
    ends = os.pipe2(os.O_NONBLOCK)
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.fixture
def handler(journald: Journald, stderr: tuple[int, int]) -> Iterator[JournalHandler]:
    handler = JournalHandler(identifier="update-agentd", socket_path=journald.path, fallback_fd=stderr[1])
    LOG.addHandler(handler)
    LOG.setLevel(logging.DEBUG)
    LOG.propagate = False
    yield handler
    LOG.removeHandler(handler)
    LOG.propagate = True
    handler.close()


def test_record_becomes_an_entry_with_its_place_in_the_code(journald: Journald, handler: JournalHandler) -> None:
    LOG.warning("slot %s", "B")
    fields = journald.receive()
    assert fields.pop("CODE_FILE").endswith(b"test_journal.py")
    assert int(fields.pop("CODE_LINE")) > 0
    assert fields == {
        "MESSAGE": b"slot B",
        "PRIORITY": b"4",
        "SYSLOG_IDENTIFIER": b"update-agentd",
        "LOGGER": b"tests.journal",
        "CODE_FUNC": b"test_record_becomes_an_entry_with_its_place_in_the_code",
    }


def test_event_carries_its_message_id_and_fields(journald: Journald, handler: JournalHandler) -> None:
    log_event(LOG, logging.INFO, JournalEvent.BOOT_GOOD, "good", SLOT="B")
    fields = journald.receive()
    assert (fields["MESSAGE_ID"], fields["SLOT"]) == (JournalEvent.BOOT_GOOD.encode(), b"B")
    assert fields["CODE_FUNC"] == b"test_event_carries_its_message_id_and_fields"


@pytest.mark.parametrize("text", ["a\nPRIORITY=0\nMESSAGE=forged", "ends\n", "\n", "nul \0 \x1b[2J", "ä\U0001f680", ""])
def test_text_with_anything_in_it_stays_one_field(journald: Journald, handler: JournalHandler, text: str) -> None:
    LOG.info("%s", text)
    fields = journald.receive()
    assert (fields["MESSAGE"], fields["PRIORITY"]) == (text.encode(), b"6")


def test_text_that_is_no_unicode_is_escaped(journald: Journald, handler: JournalHandler) -> None:
    # Not through the logger: what pytest captures of it, xdist could not send to its main process.
    handler.emit(logging.LogRecord("test", logging.INFO, __file__, 1, "%s", ("\udcff",), None))
    assert journald.receive()["MESSAGE"] == rb"\udcff"


def test_field_of_a_wrong_name_is_left_out_and_none_replaces_the_message() -> None:
    fields = {"SLOT": "B", "slot": "x", "_PID": "1", "A=B": "x", "1A": "x", "A" * 65: "x", "": "x", "A\nB": "x"}
    assert parse(encode_fields(fields)) == {"SLOT": b"B"}


def test_fields_of_the_caller_cannot_replace_the_message(journald: Journald, handler: JournalHandler) -> None:
    LOG.info("true", extra={"journal": {"MESSAGE": "forged", "PRIORITY": "0"}})
    fields = journald.receive()
    assert (fields["MESSAGE"], fields["PRIORITY"]) == (b"true", b"6")


def test_traceback_is_part_of_the_message(journald: Journald, handler: JournalHandler) -> None:
    try:
        raise KeyError("x")
    except KeyError:
        LOG.exception("stopped")
    message = journald.receive()["MESSAGE"].decode()
    assert message.startswith("stopped\nTraceback (most recent call last):")
    assert message.endswith("KeyError: 'x'")


def test_exc_info_without_an_exception_adds_nothing(journald: Journald, handler: JournalHandler) -> None:
    handler.emit(logging.LogRecord("x", logging.INFO, "f", 1, "fine", (), (None, None, None)))
    assert journald.receive()["MESSAGE"] == b"fine"


def test_entry_too_large_for_a_datagram_goes_as_a_file(journald: Journald, handler: JournalHandler) -> None:
    handler._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    LOG.info("%s", "x" * 200_000)
    assert journald.receive()["MESSAGE"] == b"x" * 200_000


def test_message_without_end_is_cut(journald: Journald, handler: JournalHandler) -> None:
    LOG.info("%s", "x" * 10_000_000)
    assert len(journald.receive()["MESSAGE"]) == 256 * 1024


def test_journal_that_is_gone_leaves_stderr_with_the_priority(
    journald: Journald, handler: JournalHandler, stderr: tuple[int, int]
) -> None:
    journald.close()
    LOG.error("first\nsecond")
    assert os.read(stderr[0], 4096) == b"<3>update-agentd: first\n<3>update-agentd: second\n"


def test_empty_message_to_stderr_is_still_a_line(
    journald: Journald, handler: JournalHandler, stderr: tuple[int, int]
) -> None:
    journald.close()
    LOG.error("")
    assert os.read(stderr[0], 4096) == b"<3>update-agentd: \n"


def test_full_journal_is_not_waited_for(handler: JournalHandler, stderr: tuple[int, int]) -> None:
    for number in range(2000):  # far more than a socket's queue
        LOG.info("entry %d", number)
        if number % 100 == 0 and number > 500:
            break
    assert b"<6>update-agentd: entry " in os.read(stderr[0], 4096)


def test_full_journal_and_full_stderr_lose_the_message_and_nothing_else(
    journald: Journald, handler: JournalHandler, stderr: tuple[int, int]
) -> None:
    journald.close()
    for _ in range(1000):
        LOG.info("%s", "x" * 8000)
    data = os.read(stderr[0], 1 << 20)
    assert len(data) <= 65536
    assert all(len(line) <= 4096 for line in data.split(b"\n"))


def test_stderr_that_is_closed_loses_the_message_and_nothing_else(journald: Journald, tmp_path: Path) -> None:
    broken = JournalHandler(identifier="x", socket_path=tmp_path / "none", fallback_fd=987)
    broken.emit(logging.LogRecord("x", logging.INFO, "f", 1, "text", (), None))
    broken.close()


def test_record_with_wrong_arguments_is_reported_and_does_not_raise(
    handler: JournalHandler, capsys: pytest.CaptureFixture[str]
) -> None:
    handler.emit(logging.LogRecord("x", logging.INFO, "f", 1, "%d", ("no number",), None))
    assert "--- Logging error ---" in capsys.readouterr().err


@pytest.mark.parametrize(("level", "number"), [(50, 2), (40, 3), (30, 4), (20, 6), (10, 7), (0, 7), (45, 3)])
def test_priority_of_a_level(level: int, number: int) -> None:
    assert priority(level) == number


def test_stderr_is_the_journal_only_if_it_is_that_stream(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as one, (tmp_path / "b").open("w") as other:
        status = os.fstat(one.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_journal(one.fileno(), environ)
        assert not is_journal(other.fileno(), environ)
        assert not is_journal(one.fileno(), {})
        assert not is_journal(one.fileno(), {"JOURNAL_STREAM": "nonsense"})
    assert not is_journal(987, environ)


PROGRAM = """
import json, logging, os, sys
from pathlib import Path
from update_agent.host.journal import set_up_logging
set_up_logging(identifier="agent", verbose=json.loads(sys.argv[1]), socket_path=Path(sys.argv[2]))
set_up_logging(identifier="agent", verbose=json.loads(sys.argv[1]), socket_path=Path(sys.argv[2]))
logging.getLogger("update_agent.x").debug("debug")
logging.getLogger("update_agent.x").info("info")
logging.getLogger("urllib3.connectionpool").info("GET /?secret=1")
logging.getLogger("urllib3.connectionpool").warning("retry")
"""


@pytest.mark.parametrize(("verbose", "debug"), [(False, ""), (True, "agent: debug\n")])
def test_set_up_outside_of_the_journal_writes_plain_lines(tmp_path: Path, verbose: bool, debug: str) -> None:
    command = [sys.executable, "-c", PROGRAM, json.dumps(verbose), str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == f"{debug}agent: info\nagent: retry\n"


def test_set_up_with_stderr_in_the_journal_writes_entries_only(journald: Journald, tmp_path: Path) -> None:
    with (tmp_path / "stream").open("wb") as stream:
        status = os.fstat(stream.fileno())
        environ = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        command = [sys.executable, "-c", PROGRAM, "false", str(journald.path)]
        subprocess.run(command, stderr=stream, env=environ, timeout=60, check=True)
    assert (tmp_path / "stream").read_bytes() == b""
    assert [journald.receive()["MESSAGE"] for _ in range(2)] == [b"info", b"retry"]
