"""`update_engine_client` against a stand-in of update_engine, and against our own service."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.commands import Result, wait_for_line
from tests.support.node_statuses import CHECKING, PENDING, at_rest, failure
from tests.support.scripted_agent import scripted_daemon
from tests.support.stand_ins import bus_without_services
from tests.support.update_engine import update_engine
from update_agent.cli.compat import FLAGS
from update_agent.errors import ConfigurationError, Kind

PROGRAM = (
    "import sys; from update_agent.cli.compat import Pace, main; "
    "sys.exit(main(pace=Pace(poll_secs=0.4, retry_secs=0.3)))"
)
GOOD = ("CHECKING_FOR_UPDATE", "UPDATE_AVAILABLE", "DOWNLOADING", "FINALIZING", "UPDATED_NEED_REBOOT")
BAD = ("CHECKING_FOR_UPDATE", "UPDATE_AVAILABLE", "DOWNLOADING", "REPORTING_ERROR_EVENT", "IDLE")
NOTHING = ("CHECKING_FOR_UPDATE", "IDLE")
IDLE_LINES = (
    "LAST_CHECKED_TIME=1790000000\nPROGRESS=0.000000\nCURRENT_OP=UPDATE_STATUS_IDLE\nNEW_VERSION=0.0.0\nNEW_SIZE=0\n"
)
LOG_LINE = re.compile(r"[IEF]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ update_engine_client\] (.*)")

Client = Callable[..., Result]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with bus_without_services(tmp_path / "bus") as address:
        yield address


def environment(address: str, **more: str) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": address, "PYTHONPATH": root, **more}


@pytest.fixture
def client(address: str) -> Client:
    def run(*arguments: str, **more: str) -> Result:
        command = [sys.executable, "-c", PROGRAM, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(address, **more), timeout=30)
        return Result(done.returncode, done.stdout, done.stderr)

    return run


def said(result: Result) -> list[str]:
    """What was logged, without the stamps; every line has one."""
    matches = [LOG_LINE.fullmatch(line) for line in result.err.splitlines()]
    return [match[1] if match else "?" for match in matches]


@pytest.mark.parametrize("flag", ["-status", "--status", "-status=true", "--status=1"])
def test_status_prints_five_lines(address: str, client: Client, flag: str) -> None:
    with update_engine(address):
        result = client(flag)
    assert (result.status, result.out) == (0, IDLE_LINES)


def test_status_of_a_download_has_six_decimals(address: str, client: Client) -> None:
    with update_engine(address, state="DOWNLOADING"):
        assert client("-status").out == (
            "LAST_CHECKED_TIME=1790000000\nPROGRESS=0.250000\nCURRENT_OP=UPDATE_STATUS_DOWNLOADING\n"
            "NEW_VERSION=4230.1.0\nNEW_SIZE=432013312\n"
        )


def test_without_a_flag_it_is_done(address: str, client: Client) -> None:
    with update_engine(address):
        result = client()
        assert (result.status, result.out, said(result)) == (0, "", ["Done."])
        assert client("-status", "-nostatus").out == ""


def test_check_for_update_returns_at_once(address: str, client: Client) -> None:
    with update_engine(address, states=GOOD):
        result = client("-check_for_update")
    assert (result.status, result.out, said(result)) == (0, "", ["Initiating update check and install."])


def operations(result: Result) -> list[str]:
    """The operations printed, each once."""
    lines = [line.partition("=")[2] for line in result.out.splitlines() if line.startswith("CURRENT_OP=")]
    return list(dict.fromkeys(lines))


def test_update_polls_until_a_reboot_is_needed(address: str, client: Client) -> None:
    with update_engine(address, states=GOOD):
        result = client("-update")
    assert result.status == 0
    assert operations(result)[-1] == "UPDATE_STATUS_UPDATED_NEED_REBOOT"
    assert said(result)[-1] == "Update succeeded -- reboot needed."
    assert len(result.out.splitlines()) % 5 == 0


def test_update_looks_for_the_first_time_after_the_interval(address: str, client: Client) -> None:
    with update_engine(address, state="UPDATED_NEED_REBOOT"):
        begin = time.monotonic()
        result = client("-update")
    assert time.monotonic() - begin >= 0.4
    assert (result.status, len(result.out.splitlines())) == (0, 5)


def test_update_of_nothing_is_no_failure(address: str, client: Client) -> None:
    with update_engine(address, states=NOTHING):
        result = client("-update")
    assert (result.status, result.out, said(result)[-1]) == (0, IDLE_LINES, "No update available")


@pytest.mark.parametrize(
    ("compat", "status", "words"),
    [("", 1, "Update failed."), ("0", 1, "Update failed."), ("1", 0, "No update available")],
)
def test_update_that_fails_is_a_failure_unless_told_otherwise(
    address: str, client: Client, compat: str, status: int, words: str
) -> None:
    with update_engine(address, states=BAD):
        result = client("-update", UPDATE_ENGINE_CLIENT_COMPAT=compat)
    assert (result.status, said(result)[-1]) == (status, words)


@pytest.mark.parametrize(("compat", "status"), [("", 1), ("1", 134)])
@pytest.mark.parametrize("flag", ["-update", "-check_for_update"])
def test_attempt_that_is_refused_fails(address: str, client: Client, flag: str, compat: str, status: int) -> None:
    with update_engine(address):
        result = client(flag, UPDATE_ENGINE_CLIENT_COMPAT=compat)
    assert (result.status, result.out) == (status, "")
    assert said(result)[-1].startswith("Error from AttemptUpdate: ")


@pytest.mark.parametrize(("state", "status"), [("IDLE", 0), ("UPDATED_NEED_REBOOT", 0), ("DOWNLOADING", 1)])
def test_reset_status_is_refused_while_busy(address: str, client: Client, state: str, status: int) -> None:
    with update_engine(address, state=state):
        assert client("-reset_status").status == status


def test_flags_are_handled_in_their_order(address: str, client: Client) -> None:
    with update_engine(address, state="UPDATED_NEED_REBOOT"):
        assert client("-watch_for_updates", "-status", "-reset_status").out == ""
        assert client("-watch_for_updates", "-update", "-status").out == IDLE_LINES


def test_watch_prints_every_signal(address: str, client: Client) -> None:
    with update_engine(address, states=GOOD):
        command = [sys.executable, "-c", PROGRAM, "-watch_for_updates"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(address)) as process:
            assert process.stderr is not None
            assert "Watching for status updates." in process.stderr.readline()
            assert client("-check_for_update").status == 0
            lines = [process.stderr.readline() for _ in range(6 * len(GOOD))]
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
    said = [match[1] for line in lines if (match := LOG_LINE.fullmatch(line.strip()))]
    assert said[12:18] == [
        "Got status update:",
        "  last_checked_time: 1790000000",
        "  progress: 0.25",
        "  current_operation: UPDATE_STATUS_DOWNLOADING",
        "  new_version: 4230.1.0",
        "  new_size: 432013312",
    ]
    assert [line.rpartition("_STATUS_")[2] for line in said if "current_operation" in line] == list(GOOD)


def test_without_a_daemon_it_tries_four_times(client: Client) -> None:
    begin = time.monotonic()
    result = client("-status")
    assert time.monotonic() - begin >= 0.9
    assert (result.status, result.out) == (1, "")
    assert len([line for line in said(result) if line.startswith("Error getting dbus proxy")]) == 4


def test_daemon_that_comes_late_is_found(address: str) -> None:
    command = [sys.executable, "-c", PROGRAM, "-status"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(address)
    ) as process:
        assert process.stderr is not None
        wait_for_line(process.stderr, "E")
        process.send_signal(signal.SIGSTOP)
        with update_engine(address):
            process.send_signal(signal.SIGCONT)
            out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, IDLE_LINES)


def test_without_a_bus_it_fails(tmp_path: Path, client: Client) -> None:
    assert client("-status", DBUS_SYSTEM_BUS_ADDRESS=f"unix:path={tmp_path}/none").status == 1


def test_reader_that_goes_ends_it_quietly(address: str) -> None:
    read, write = os.pipe()
    os.close(read)
    with update_engine(address):
        command = [sys.executable, "-c", PROGRAM, "-status"]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=environment(address))
    os.close(write)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


# Against our own service


def test_update_that_fails_says_why_where_the_daemon_tells(address: str, client: Client, tmp_path: Path) -> None:
    reporting = {"state": "reporting-error-event", "last_error": failure(Kind.HTTP_STATUS, "server: 500", "wait")}
    with scripted_daemon(address, tmp_path / "agent") as daemon:
        daemon.write(attempt_update=(CHECKING, reporting, at_rest()))
        daemon.start()
        result = client("-update")
        assert (result.status, said(result)[-1]) == (1, "Update failed: server: 500 [http-status] (wait)")
        assert client("-update", UPDATE_ENGINE_CLIENT_COMPAT="1").status == 0


def test_status_of_our_own_service_has_the_same_form(address: str, client: Client, tmp_path: Path) -> None:
    with scripted_daemon(address, tmp_path / "agent") as daemon:
        daemon.write(PENDING)
        daemon.start()
        assert "CURRENT_OP=UPDATE_STATUS_UPDATED_NEED_REBOOT\nNEW_VERSION=4230.1.0\n" in client("-status").out


# gflags


@pytest.mark.parametrize(
    ("arguments", "on"),
    [
        ([], set()),
        (["-status"], {"status"}),
        (["--status=TRUE", "--update=y", "-reset_status=no"], {"status", "update"}),
        (["-status", "--nostatus"], set()),
        (["-status", "-status=0"], set()),
        (["word", "-", "-status"], {"status"}),
        (["-update", "--", "-status", "-bad"], {"update"}),
        (["-logtostderr", "--nologtostderr", "-v=1", "--v", "-status", "-update"], {"update"}),
        (["--stderrthreshold", "2", "-status"], {"status"}),
    ],
)
def test_flags_are_read_as_gflags_reads_them(arguments: Sequence[str], on: set[str]) -> None:
    assert FLAGS.parse(arguments) == on


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-bad"], "ERROR: unknown command line flag 'bad'"),
        (["--nobad"], "ERROR: unknown command line flag 'nobad'"),
        (["-nov"], "ERROR: unknown command line flag 'nov'"),
        (["-nostatus=true"], "ERROR: unknown command line flag 'nostatus'"),
        (["-status=maybe"], "ERROR: illegal value 'maybe' specified for bool flag 'status'"),
        (["-status="], "ERROR: illegal value '' specified for bool flag 'status'"),
        (["-v"], "ERROR: flag '-v' is missing its argument"),
    ],
)
def test_flags_that_are_wrong_are_told(arguments: Sequence[str], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        FLAGS.parse(arguments)
    assert caught.value.message == words


@pytest.mark.parametrize(("arguments", "out"), [(["-bad"], ""), (["-help"], "update_engine_client: ")])
def test_wrong_flags_and_help_end_with_1_and_need_no_bus(client: Client, arguments: list[str], out: str) -> None:
    result = client(*arguments, DBUS_SYSTEM_BUS_ADDRESS="unix:path=/none")
    assert result.status == 1
    assert result.out.startswith(out)
    assert result.err == ("ERROR: unknown command line flag 'bad'\n" if arguments == ["-bad"] else "")
