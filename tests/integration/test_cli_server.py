"""`check` and `install --server`: what the update server hears and in which order, and servers of all ages."""

import random
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.commands import NEW, OLD, Bench, Result, make_bench
from tests.support.fleets import Fleet
from tests.support.payloads import DATA, RSA_A_PUBLIC, make_payload
from tests.support.servers import Received, Script, ScriptedServer, head, ranged, send, serving, whole
from update_agent.errors import Kind
from update_agent.formats.omaha_server import (
    parse_request,
)

PAYLOAD = make_payload(NEW)
OTHER_SERVER = 1 << 28
RESUMED = 1 << 30


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def install_from(bench: Bench, server: ScriptedServer, *options: str) -> Result:
    return bench.install(
        "--server", server.url, "--json", "--attempts", "1", "--stall-timeout", "2", "--proxy", "", *options
    )


# The order of events


def test_install_reports_every_step_in_order(bench: Bench) -> None:
    fleet = Fleet()
    with serving(fleet) as server:
        result = install_from(bench, server)
    assert (result.status, result.json["version"]) == (0, "2.0.0"), result.err
    assert fleet.heard == ["check", "13/1", "GET", "14/1", "3/1"]
    assert fleet.codes == []
    assert bench.boots() == "B"


@pytest.mark.parametrize(
    ("fleet", "kind", "code", "heard"),
    [
        (
            Fleet(PAYLOAD[:-1000] + bytes(1000), announced=PAYLOAD),
            Kind.OPERATION_HASH,
            29,
            ["check", "13/1", "GET", "3/0"],
        ),
        (Fleet(announced=PAYLOAD + b"x"), Kind.PAYLOAD_SIZE, 11, ["check", "13/1", "GET", "3/0"]),
        (
            Fleet(announced=PAYLOAD[:-1] + b"x"),
            Kind.PAYLOAD_HASH,
            10,
            ["check", "13/1", "GET", "3/0"],
        ),
        (Fleet(version="3.0.0"), Kind.VERSION_MISMATCH, 12, ["check", "13/1", "GET", "3/0"]),
        (Fleet(b"<html>" * 1000), Kind.PAYLOAD_MAGIC, 21, ["check", "13/1", "GET", "3/0"]),
    ],
    ids=["data", "size", "hash", "version", "magic"],
)
def test_install_that_fails_reports_the_code_with_the_flag_of_other_servers(
    bench: Bench, fleet: Fleet, kind: Kind, code: int, heard: Sequence[str]
) -> None:
    with serving(fleet) as server:
        result = install_from(bench, server)
    assert result.kind == kind, result.err
    assert fleet.heard == heard
    assert fleet.codes == [code | OTHER_SERVER]
    bench.assert_old_release_boots()


def test_install_refused_by_policy_is_reported(bench: Bench) -> None:
    fleet = Fleet()
    with serving(fleet) as server:
        result = install_from(bench, server, "--running-version", "2.0.0")
    assert (result.status, result.kind) == (5, Kind.SAME_VERSION)
    assert (fleet.heard[-1], fleet.codes) == ("3/9", [35 | OTHER_SERVER])


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (send(head("500 Oh", Content_Length=0)), Kind.HTTP_STATUS, 2500),
        (send(head("404 Oh", Content_Length=0)), Kind.HTTP_STATUS, 2404),
        (whole(b""), Kind.OMAHA_EMPTY, 30),
        (whole(b"<x"), Kind.OMAHA_MALFORMED, 31),
        (whole((DATA / "omaha" / "nebraska-refused-paused.xml").read_bytes()), Kind.OMAHA_REFUSED, 34),
    ],
    ids=["500", "404", "empty", "malformed", "refused"],
)
def test_install_whose_check_fails_reports_why(bench: Bench, answer: Script, kind: Kind, code: int) -> None:
    fleet = Fleet()
    with serving(answer, fleet) as server:
        result = install_from(bench, server)
    assert (result.status, result.kind) == (1, kind)
    assert (fleet.heard, fleet.codes) == (["3/0"], [code | OTHER_SERVER])


def test_install_goes_on_when_nobody_takes_events(bench: Bench) -> None:
    fleet = Fleet()

    def deaf(connection: socket.socket, request: Received) -> None:
        if request.method == "POST" and b"<updatecheck" not in request.body:
            send(head("500 No", Content_Length=0))(connection, request)
        else:
            fleet(connection, request)

    with serving(deaf) as server:
        assert install_from(bench, server).status == 0
    assert bench.boots() == "B"


def test_install_of_a_server_in_text_says_what_and_no_update_is_done(bench: Bench) -> None:
    noupdate = whole((DATA / "omaha" / "nebraska-noupdate.xml").read_bytes())
    with serving(noupdate) as server:
        options = ["--server", server.url, "--proxy", "", "--running-version", "4152.2.1"]
        assert bench.install(*options).out == "No update: 4152.2.1 is what the server wants here\n"
        assert bench.run("check", *options).out == "No update: 4152.2.1 is what the server wants here\n"
    bench.assert_old_release_boots()


def test_check_in_text_says_from_what_to_what(bench: Bench) -> None:
    with serving(Fleet()) as server:
        result = bench.run("check", "--server", server.url, "--proxy", "", "--running-version", "1.0.0")
    assert result.out == f"Update available: 1.0.0 → 2.0.0 ({len(PAYLOAD) / 1024:.1f} KiB)\n"


def test_check_says_who_asks(bench: Bench) -> None:
    with serving(Fleet()) as server:
        bench.run(
            "check", "--server", server.url, "--proxy", "", "--channel", "beta & <x>", "--board", "amd64-usr",
            "--machine-id", "0" * 31 + "7", "--app-id", "{app}",
        )  # fmt: skip
        (app,) = parse_request(server.received[0].body)
    assert (app.track, app.machine_id, app.app_id, app.version) == ("beta & <x>", "0" * 31 + "7", "{app}", "0.0.0")


def test_check_after_an_install_tells_the_recorded_release(bench: Bench) -> None:
    bench.install("--payload", bench.put("p", PAYLOAD))
    bench.run("mark-good", "B")
    with serving(Fleet()) as server:
        bench.run("check", "--server", server.url, "--proxy", "")
        (app,) = parse_request(server.received[0].body)
    assert (app.version, app.machine_id) == ("2.0.0", "0" * 31 + "1")


# Answers of servers of all kinds

ANSWERS = {
    "go-omaha-update": (0, "2.0.0"),
    "nebraska-update": (0, "2.0.0"),
    "nebraska-extra-package": (0, "2.0.0"),
    "nebraska-floors": (0, "1.1.0"),
    "nebraska-noupdate": (0, None),
    "nebraska-after-reboot": (0, None),
    "nebraska-event": (1, Kind.OMAHA_INVALID),
    "nebraska-garbage": (1, Kind.OMAHA_EMPTY),
    "nebraska-refused-in-progress": (1, Kind.OMAHA_REFUSED),
    "nebraska-refused-paused": (1, Kind.OMAHA_REFUSED),
    "nebraska-refused-rate": (1, Kind.OMAHA_REFUSED),
    "nebraska-refused-registration": (1, Kind.OMAHA_REFUSED),
    "nebraska-refused-unknown": (1, Kind.OMAHA_REFUSED),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_check_reads_what_servers_were_seen_to_answer(bench: Bench, name: str) -> None:
    status, expected = ANSWERS[name]
    with serving(whole((DATA / "omaha" / f"{name}.xml").read_bytes())) as server:
        result = bench.run("check", "--server", server.url, "--json", "--proxy", "")
    assert result.status == status, result.err
    if status:
        assert result.kind == expected
    else:
        update = result.json["update"]
        assert (None if update is None else update["version"]) == expected


def test_every_kept_answer_is_tried() -> None:
    assert set(ANSWERS) == {path.stem for path in (DATA / "omaha").glob("*.xml") if "request" not in path.stem}


# Payload servers


BIG = random.Random(9).randbytes(20 << 20)
SLOT = random.Random(10).randbytes(24 << 20)


def cut(payload: bytes, at: int) -> Script:
    """Sends so much, says that there is more, and goes away."""
    return send(head(Content_Length=len(payload), ETag='"1"'), payload[:at])


@pytest.fixture
def big_bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path, content=SLOT)


@pytest.fixture(scope="module")
def big_payload() -> bytes:
    return make_payload(BIG, op_bytes=1 << 20)


def install_url(bench: Bench, *urls: str, attempts: int = 1) -> Result:
    options = [part for url in urls for part in ("--payload", url)]
    return bench.install(*options, "--attempts", str(attempts), "--json", "--proxy", "")


def test_install_goes_on_in_the_next_run_where_the_server_broke_off(big_bench: Bench, big_payload: bytes) -> None:
    at = 18 << 20
    with serving(cut(big_payload, at)) as server:
        assert install_url(big_bench, server.url).kind == Kind.TRANSFER
    assert "interrupted_at_bytes" in big_bench.run("--json").out
    done = big_bench.run("--json").json["interrupted_at_bytes"]
    assert 8 << 20 <= done <= at
    assert big_bench.run().out.startswith(f"Install unfinished after {done / (1 << 20):.1f} MiB; running ")
    with serving(ranged(big_payload, ETag='"1"')) as server:
        result = install_url(big_bench, server.url)
        starts = [request.range_start for request in server.received]
    assert result.json["resumed_at_bytes"] == done
    assert max(starts) >= done
    assert big_bench.content("B")[: len(BIG)] == BIG
    assert big_bench.boots() == "B"


def test_install_goes_on_although_the_server_ignores_ranges(big_bench: Bench, big_payload: bytes) -> None:
    with serving(cut(big_payload, 18 << 20)) as server:
        install_url(big_bench, server.url)
    with serving(whole(big_payload)) as server:
        result = install_url(big_bench, server.url)
    assert result.json["resumed_at_bytes"] > 0
    assert big_bench.content("B")[: len(BIG)] == BIG


def test_install_of_another_payload_starts_anew(big_bench: Bench, big_payload: bytes) -> None:
    with serving(cut(big_payload, 18 << 20)) as server:
        install_url(big_bench, server.url)
    other = make_payload(SLOT, op_bytes=1 << 20, version="2.1.0")
    with serving(ranged(other)) as server:
        result = install_url(big_bench, server.url)
    assert (result.json["resumed_at_bytes"], result.json["version"]) == (0, "2.1.0")
    assert big_bench.content("B") == SLOT


def test_install_of_a_payload_replaced_in_the_middle_fails_and_then_starts_anew(
    big_bench: Bench, big_payload: bytes
) -> None:
    other = make_payload(SLOT[: len(BIG)], op_bytes=1 << 20, version="2.1.0")
    with serving(cut(big_payload, 18 << 20), ranged(other, ETag='"2"')) as server:
        result = install_url(big_bench, server.url, attempts=2)
        assert (result.status, result.kind) == (6, Kind.PAYLOAD_CHANGED)
        assert big_bench.boots() == "A"
        result = install_url(big_bench, server.url, attempts=2)
    assert result.json["version"] == "2.1.0"
    assert big_bench.content("B")[: len(BIG)] == SLOT[: len(BIG)]


def test_install_takes_the_second_url_when_the_first_one_is_dead(bench: Bench) -> None:
    with serving(send()) as dead, serving(ranged(PAYLOAD)) as server:
        result = install_url(bench, dead.url, server.url)
        assert dead.received
    assert result.status == 0, result.err
    assert bench.content("B")[: len(NEW)] == NEW


def test_install_takes_the_second_url_in_the_middle(big_bench: Bench, big_payload: bytes) -> None:
    with serving(cut(big_payload, 10 << 20), send()) as dying, serving(ranged(big_payload)) as server:
        result = install_url(big_bench, dying.url, server.url)
        assert server.received[0].range_start == 10 << 20
    assert result.status == 0, result.err
    assert big_bench.content("B")[: len(BIG)] == BIG


def test_install_that_was_interrupted_and_fails_again_says_so_to_the_update_server(
    big_bench: Bench, big_payload: bytes
) -> None:
    fleet = Fleet(big_payload)
    whole_fleet = fleet.payload
    with serving(fleet) as server:
        fleet.payload = big_payload[: 18 << 20]

        def cut_short(connection: socket.socket, request: Received) -> None:
            if request.method == "GET":
                cut(big_payload, 18 << 20)(connection, request)
            else:
                fleet(connection, request)

        with serving(cut_short) as broken:
            assert install_from(big_bench, broken).kind == Kind.TRANSFER
            assert install_from(big_bench, broken).kind == Kind.TRANSFER
        assert fleet.codes == [9 | OTHER_SERVER, 9 | OTHER_SERVER | RESUMED]
        fleet.payload = whole_fleet
        result = install_from(big_bench, server)
    assert result.json["resumed_at_bytes"] > 0
    assert fleet.heard[-2:] == ["14/1", "3/1"]


def test_install_with_a_proxy_that_is_dead_says_proxy(bench: Bench) -> None:
    result = bench.install(
        "--payload", "http://127.0.0.1:1/p", "--proxy", "http://127.0.0.1:1", "--attempts", "1", "--json"
    )
    assert result.kind == Kind.TRANSFER
    assert "proxy: " in result.err
    assert bench.content("A") == OLD


def test_install_key_option_is_the_same_for_servers(bench: Bench) -> None:
    with serving(Fleet()) as server:
        result = bench.run("install", "--server", server.url, "--json")
        assert (result.kind, server.received) == (Kind.KEY_MISSING, [])
        assert bench.run("install", "--server", server.url, "--public-key", RSA_A_PUBLIC).out.startswith("Installed")
