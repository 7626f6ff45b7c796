import os
import threading
from collections.abc import Iterator

import pytest

from update_agent.daemon.message_pipe import ADVANCED_INTERVAL_SECS, MessagePipe
from update_agent.domain.messages import Advanced, Checked, Message, NothingNew, from_line


class Reader:
    """The daemon's side, and a clock that a test moves."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        self.now = 0.0
        self.pipe = MessagePipe(self.write_fd, clock=lambda: self.now)

    def messages(self) -> list[Message]:
        os.close(self.write_fd)
        with open(self.read_fd, "rb", closefd=False) as file:
            return [from_line(line) for line in file]


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    for fd in (reader.read_fd, reader.write_fd):
        try:
            os.close(fd)
        except OSError:
            continue


def point(done: int, *, phase: str = "downloading", total: int = 1000) -> Advanced:
    return Advanced(phase=phase, done_bytes=done, total_bytes=total)


def test_progress_is_told_ten_times_a_second(reader: Reader) -> None:
    for step in range(1000):
        reader.now = step / 1000
        reader.pipe.write(point(step, total=10**6))
    told = reader.messages()
    assert len(told) == 1 / ADVANCED_INTERVAL_SECS
    assert told[0] == point(0, total=10**6)


def test_progress_that_ends_a_phase_or_begins_one_is_always_told(reader: Reader) -> None:
    points = [point(1), point(2), point(1000), point(0, phase="verifying"), point(1, phase="verifying")]
    for each in points:
        reader.pipe.write(each)
    assert reader.messages() == [points[0], points[2], points[3]]


def test_other_messages_are_never_left_out(reader: Reader) -> None:
    messages: list[Message] = [Checked(), Checked(), NothingNew()]
    for message in messages:
        reader.pipe.write(message)
    assert reader.messages() == messages


def test_write_to_a_daemon_that_is_gone_is_dropped(reader: Reader) -> None:
    os.close(reader.read_fd)
    reader.pipe.write(Checked())
    os.close(reader.write_fd)
    reader.pipe.write(Checked())  # would fail on the closed descriptor


def test_write_from_several_threads_tears_no_line(reader: Reader) -> None:
    big = NothingNew(message="x" * 4000)

    def write() -> None:
        for _ in range(50):
            reader.pipe.write(big)

    threads = [threading.Thread(target=write) for _ in range(4)]
    received: list[bytes] = []

    def drain() -> None:
        while chunk := os.read(reader.read_fd, 1 << 16):
            received.append(chunk)

    drainer = threading.Thread(target=drain)
    for thread in (drainer, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    os.close(reader.write_fd)
    drainer.join()
    assert [from_line(line) for line in b"".join(received).splitlines()] == [big] * 200
