"""An install that is killed again and again completes, and fetches little twice."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.commands import Bench, make_bench, run_cli, run_program, started, wait_for_line
from tests.support.payloads import RSA_A, RSA_A_PUBLIC
from update_agent.domain.pipeline import CHECKPOINT_INTERVAL_BYTES

MIB = 1 << 20
KILLS = 20
_STARTING_SECS = 20


@dataclass(frozen=True)
class Server:
    """`update-agent-fleet serve`, running."""

    url: str
    log: Path

    @property
    def sent_bytes(self) -> int:
        """Bodies of payloads, as far as they were written into sockets."""
        sent = re.findall(r'"GET /payloads/\S+ HTTP/1\.1" 20[06] (\d+)$', self.log.read_text(), re.MULTILINE)
        return sum(map(int, sent))


ALL_FETCHED = "downloading: 100 %"
"""What follows - flush, signature, the rest of the reading back, the flags - takes long enough to be hit by a kill."""


@contextlib.contextmanager
def fleet(payloads: Path, log: Path) -> Iterator[Server]:
    line = [sys.executable, "-m", "update_agent.fleet", "serve", "--payloads", str(payloads)]
    line += ["--listen", "127.0.0.1:0", "--access-log", str(log)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(wait_for_line(process.stdout, "listening on ").split()[-1], log)
        finally:
            process.terminate()


def publish(bench: Bench, content: bytes, *options: str, name: str = "new.payload") -> Path:
    folder = bench.folder / "payloads"
    folder.mkdir()
    usr = bench.put("usr.img", content)
    result = run_cli(
        "payload", "build", "--usr", usr, "--version", "2.0.0", "--key", RSA_A, "--output", folder / name, *options
    )
    assert result.status == 0, result.err
    usr.unlink()
    return folder / name


def install_line(bench: Bench, url: str, *options: str) -> list[str]:
    return [
        "--image", str(bench.image), "install", "--public-key", str(RSA_A_PUBLIC), "--payload", url, "--proxy", "",
        "--json", *options,
    ]  # fmt: skip


def run_and_kill(line: list[str], *, after: str, delay_secs: float) -> None:
    """Start, wait for a line of progress and then a while, kill; it must have been running."""
    with started(*line, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        wait_for_line(process.stderr, after)
        drain = threading.Thread(target=process.stderr.read)  # or a full pipe would stop it before we do
        drain.start()
        time.sleep(delay_secs)
        os.kill(process.pid, signal.SIGKILL)
        returncode = process.wait(_STARTING_SECS)
        drain.join(_STARTING_SECS)
    assert returncode == -signal.SIGKILL


@pytest.mark.slow
def test_install_killed_twenty_times_completes_and_fetches_little_twice(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    new = rng.randbytes(128 * MIB)
    bench = make_bench(tmp_path, content=bytes(128 * MIB))
    payload = publish(bench, new, "--compression", "zstd", "--level", "1")
    size = payload.stat().st_size
    assert size >= 64 * MIB
    with fleet(payload.parent, tmp_path / "access.log") as server:
        url = f"{server.url}payloads/{payload.name}"
        slow = install_line(bench, url, "--limit-rate", str(12 * MIB))
        progress = []
        for _ in range(KILLS - 1):
            run_and_kill(slow, after="downloading: ", delay_secs=rng.uniform(0, 0.9))
            assert bench.run("next-boot").out == "A\n"
            progress.append(bench.run("--json").json["interrupted_at_bytes"] or 0)
        run_and_kill(install_line(bench, url), after=ALL_FETCHED, delay_secs=0)
        result = run_program(*install_line(bench, url))
        assert result.status == 0, result.err
        sent = server.sent_bytes
    assert progress == sorted(progress)
    assert progress[-1] > 0
    assert result.json["resumed_at_bytes"] >= size - CHECKPOINT_INTERVAL_BYTES
    assert bench.content("B")[: len(new)] == new
    assert bench.boots() == "B"
    bench.assert_sound()
    print(f"payload {size / MIB:.1f} MiB, sent {sent / MIB:.1f} MiB, checkpoints {progress}")
    assert sent <= size + KILLS * CHECKPOINT_INTERVAL_BYTES


def test_install_of_version_1_killed_in_the_middle_and_at_the_end_completes(tmp_path: Path) -> None:
    new = random.Random(3).randbytes(40 * MIB)
    bench = make_bench(tmp_path, content=bytes(48 * MIB))
    payload = publish(bench, new, "--format", "1", "--compression", "none", name="new-2.0.0.payload")
    with fleet(payload.parent, tmp_path / "access.log") as server:
        line = install_line(bench, f"{server.url}payloads/{payload.name}")
        for after in ("downloading: 50 %", "downloading: 80 %", ALL_FETCHED):
            run_and_kill([*line, "--limit-rate", str(40 * MIB)], after=after, delay_secs=0)
            assert bench.boots() == "A"
            bench.assert_sound()
        result = run_program(*line)
        assert result.status == 0, result.err
        assert server.sent_bytes <= payload.stat().st_size + 3 * CHECKPOINT_INTERVAL_BYTES
    assert result.json["resumed_at_bytes"] >= payload.stat().st_size - CHECKPOINT_INTERVAL_BYTES
    assert bench.content("B")[: len(new)] == new
    assert bench.boots() == "B"


def test_install_from_the_update_server_killed_in_the_middle_completes(tmp_path: Path) -> None:
    new = random.Random(4).randbytes(24 * MIB)
    bench = make_bench(tmp_path, content=bytes(24 * MIB))
    payload = publish(bench, new, "--compression", "none")
    with fleet(payload.parent, tmp_path / "access.log") as server:
        line = install_line(bench, "")
        at = line.index("--payload")
        line[at : at + 2] = ["--server", f"{server.url}v1/update"]
        run_and_kill([*line, "--limit-rate", str(20 * MIB)], after="downloading: 60 %", delay_secs=0)
        result = run_program(*line)
        assert result.status == 0, result.err
    assert result.json["resumed_at_bytes"] >= 8 * MIB
    assert bench.content("B")[: len(new)] == new


def test_install_from_a_file_killed_in_the_middle_completes(tmp_path: Path) -> None:
    new = random.Random(5).randbytes(64 * MIB)
    bench = make_bench(tmp_path, content=bytes(64 * MIB))
    payload = publish(bench, new, "--compression", "none")
    line = install_line(bench, str(payload))
    run_and_kill(line, after="downloading: 50 %", delay_secs=0)
    assert bench.run().out.startswith("Install unfinished")
    result = run_program(*line)
    assert result.status == 0, result.err
    assert bench.content("B")[: len(new)] == new
    assert bench.boots() == "B"
