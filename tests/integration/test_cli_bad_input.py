"""Whatever is offered for install: the right error, and the old release is untouched and boots."""

import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.commands import NEW, OLD, Bench, Result, make_bench
from tests.support.images import USR_A_NUMBER, Part, ab_parts
from tests.support.payloads import RSA_A_PUBLIC, RSA_B, RSA_B_PUBLIC, PayloadMaker, make_payload
from tests.support.servers import Received, Script, ScriptedServer, head, make_authority, redirect, send, serving, whole
from update_agent.errors import Kind
from update_agent.formats import update_metadata_pb2 as pb2
from update_agent.formats.compression import compress
from update_agent.formats.operations import Extent, Operation, OperationType

PAYLOAD = make_payload(NEW)
BLOCK = 4096
FAILED, USAGE, REFUSED, UNVERIFIED = 1, 2, 5, 6


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def assert_refused(bench: Bench, result: Result, kind: Kind, status: int) -> None:
    assert (result.kind, result.status) == (kind, status), result.err
    assert f"update-agent: {result.json['error']['message']}\n" in result.err
    assert "Traceback" not in result.err
    bench.assert_old_release_boots()
    assert bench.run("next-boot").out == "A\n"


# Damaged and lying payloads


def flipped(offset: int) -> bytes:
    payload = bytearray(PAYLOAD)
    payload[offset] ^= 1
    return bytes(payload)


def lie(change: Callable[[pb2.Manifest], None], *, major: int = 2) -> bytes:
    return make_payload(NEW, mutate_manifest=change, major=major)


def set_info(*, size: int = len(NEW), sha256: bytes = bytes(32)) -> Callable[[pb2.Manifest], None]:
    def change(manifest: pb2.Manifest) -> None:
        manifest.partitions[0].new_partition_info.size = size
        manifest.partitions[0].new_partition_info.hash = sha256

    return change


def set_operation(number: int, **fields: int | bytes) -> Callable[[pb2.Manifest], None]:
    def change(manifest: pb2.Manifest) -> None:
        for name, value in fields.items():
            setattr(manifest.partitions[0].operations[number], name, value)

    return change


def set_extent(number: int, start: int, count: int) -> Callable[[pb2.Manifest], None]:
    def change(manifest: pb2.Manifest) -> None:
        extent = manifest.partitions[0].operations[number].dst_extents[0]
        extent.start_block, extent.num_blocks = start, count

    return change


def drop_operation(manifest: pb2.Manifest) -> None:
    del manifest.partitions[0].operations[3]


def repeat_partition(manifest: pb2.Manifest) -> None:
    manifest.partitions.add().CopyFrom(manifest.partitions[0])


def many_extents(manifest: pb2.Manifest) -> None:
    extents = manifest.partitions[0].operations[0].dst_extents
    extents.extend([pb2.Extent(start_block=0, num_blocks=1)] * 100_000)


def signatures(**fields: int) -> Callable[[pb2.Manifest], None]:
    def change(manifest: pb2.Manifest) -> None:
        for name, value in fields.items():
            setattr(manifest, name, value)

    return change


def bomb(type_: OperationType) -> bytes:
    """A blob of some kilobytes that unpacks to 64 MiB, for an extent of one block."""
    operation = Operation(type=type_, dst_extents=(Extent(0, 1),))
    return PayloadMaker(usr=bytes(BLOCK), operations=[(operation, compress(type_, bytes(64 << 20), level=1))]).make()


def header(manifest_size: int, signature_size: int = 267) -> bytes:
    return b"CrAU" + struct.pack(">QQI", 2, manifest_size, signature_size) + bytes(4096)


MALFORMED = Kind.MANIFEST_MALFORMED
LYING: dict[str, tuple[bytes, Kind, int]] = {
    "empty": (b"", Kind.PAYLOAD_TRUNCATED, FAILED),
    "cut in the header": (PAYLOAD[:10], Kind.PAYLOAD_TRUNCATED, FAILED),
    "cut in the manifest": (PAYLOAD[:500], Kind.PAYLOAD_TRUNCATED, FAILED),
    "cut in the data": (PAYLOAD[:-1000], Kind.PAYLOAD_SIZE, UNVERIFIED),
    "cut by one byte": (PAYLOAD[:-1], Kind.PAYLOAD_SIZE, UNVERIFIED),
    "something appended": (PAYLOAD + b"\0", Kind.PAYLOAD_SIZE, UNVERIFIED),
    "not a payload": (b"\x7fELF" + bytes(5000), Kind.PAYLOAD_MAGIC, FAILED),
    "a web page": (b"<!DOCTYPE html><html></html>", Kind.PAYLOAD_MAGIC, FAILED),
    "another version": (flipped(11)[:11] + b"\x09" + PAYLOAD[12:], Kind.PAYLOAD_VERSION, FAILED),
    "a manifest of 2**60 bytes": (header(1 << 60), Kind.PAYLOAD_MALFORMED, FAILED),
    "a signature of 4 GiB": (header(100, 0xFFFFFFFF), Kind.PAYLOAD_MALFORMED, FAILED),
    "a bit of the manifest": (flipped(40), Kind.SIGNATURE_INVALID, UNVERIFIED),
    "a bit of the data": (flipped(-1000), Kind.OPERATION_HASH, UNVERIFIED),
    "a bit of the signature": (flipped(-100), Kind.SIGNATURE_INVALID, UNVERIFIED),
    "no signature": (make_payload(NEW, keys=()), Kind.SIGNATURE_MISSING, UNVERIFIED),
    "no metadata signature": (make_payload(NEW, sign_metadata=False), Kind.SIGNATURE_MISSING, UNVERIFIED),
    "signed by another": (make_payload(NEW, keys=[RSA_B]), Kind.SIGNATURE_INVALID, UNVERIFIED),
    "data signed by another": (
        PayloadMaker(usr=NEW, keys=[RSA_B], metadata_keys=[RSA_A_PUBLIC.with_name("rsa-a.key.pem")]).make(),
        Kind.SIGNATURE_INVALID,
        UNVERIFIED,
    ),
    "another result": (lie(set_info()), Kind.PARTITION_HASH, UNVERIFIED),
    "a larger result": (lie(set_info(size=len(NEW) + BLOCK)), Kind.PARTITION_HASH, UNVERIFIED),
    "a smaller result": (lie(set_info(size=BLOCK)), Kind.PARTITION_HASH, UNVERIFIED),
    "a result of 2**63 bytes": (lie(set_info(size=2**63)), MALFORMED, FAILED),
    "a result of no bytes": (lie(set_info(size=0)), Kind.PARTITION_HASH, UNVERIFIED),
    "a hash of 31 bytes": (lie(set_info(sha256=bytes(31))), MALFORMED, FAILED),
    "an operation's hash of 20 bytes": (lie(set_operation(0, data_sha256_hash=bytes(20))), MALFORMED, FAILED),
    "an operation without hash": (lie(set_operation(0, data_sha256_hash=b"")), MALFORMED, FAILED),
    "another operation's hash": (lie(set_operation(0, data_sha256_hash=bytes(32))), Kind.OPERATION_HASH, UNVERIFIED),
    "an unknown operation": (lie(set_operation(0, type=99)), Kind.OPERATION_UNKNOWN, FAILED),
    "data that overlaps": (lie(set_operation(1, data_offset=0)), MALFORMED, FAILED),
    "data with a gap": (lie(set_operation(1, data_offset=1 << 30)), MALFORMED, FAILED),
    "data of 2**60 bytes": (lie(set_operation(15, data_length=1 << 60)), MALFORMED, FAILED),
    "a missing operation": (lie(drop_operation), MALFORMED, FAILED),
    "an extent beyond the result": (lie(set_extent(15, 1 << 20, 4)), MALFORMED, FAILED),
    "an extent at 2**63": (lie(set_extent(15, 1 << 63, 4)), MALFORMED, FAILED),
    "an extent of 2**63": (lie(set_extent(15, 0, 1 << 63)), MALFORMED, FAILED),
    "extents that overlap": (lie(set_extent(1, 0, 4)), MALFORMED, FAILED),
    "extents too small for the data": (lie(set_extent(1, 4, 1)), Kind.PAYLOAD_MALFORMED, FAILED),
    "a hundred thousand extents": (lie(many_extents), MALFORMED, FAILED),
    "a part twice": (lie(repeat_partition), MALFORMED, FAILED),
    "a signature at another place": (lie(signatures(signatures_offset=0)), MALFORMED, FAILED),
    "a signature of no bytes": (lie(signatures(signatures_size=0)), MALFORMED, FAILED),
    "a signature of 2**60 bytes": (lie(signatures(signatures_size=1 << 60)), MALFORMED, FAILED),
    "a longer signature": (lie(signatures(signatures_size=500)), Kind.PAYLOAD_SIZE, UNVERIFIED),
    "blocks of 3 bytes": (lie(signatures(block_size=3)), MALFORMED, FAILED),
    "a bomb of zstd": (bomb(OperationType.REPLACE_ZSTD), Kind.PAYLOAD_MALFORMED, FAILED),
    "a bomb of xz": (bomb(OperationType.REPLACE_XZ), Kind.PAYLOAD_MALFORMED, FAILED),
    "a bomb of bzip2": (bomb(OperationType.REPLACE_BZ), Kind.PAYLOAD_MALFORMED, FAILED),
    "too large for the slot": (make_payload(OLD + NEW), Kind.DEVICE_TOO_SMALL, FAILED),
}
HAS_HINT = {
    "cut in the data", "cut by one byte", "something appended", "no signature", "signed by another",
    "too large for the slot",
}  # fmt: skip


@pytest.mark.parametrize("name", LYING)
def test_install_of_a_wrong_payload_leaves_the_old_release(bench: Bench, name: str) -> None:
    payload, kind, status = LYING[name]
    result = bench.install("--payload", bench.put("wrong.payload", payload), "--json")
    assert_refused(bench, result, kind, status)
    if name in HAS_HINT:
        assert "\nhint: " in result.err


def test_install_of_the_right_payload_after_a_wrong_one_works(bench: Bench) -> None:
    wrong = bench.put("wrong.payload", LYING["a bit of the data"][0])
    assert bench.install("--payload", wrong).status == UNVERIFIED
    assert bench.install("--payload", bench.put("new.payload", PAYLOAD)).status == 0
    assert bench.boots() == "B"


# Keys


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("/nonexistent", Kind.KEY_MISSING),
        (str(RSA_B_PUBLIC), Kind.SIGNATURE_INVALID),
        ("empty-folder", Kind.KEY_MISSING),
        ("private", Kind.KEY_MALFORMED),
        ("garbage", Kind.KEY_MALFORMED),
        ("folder-with-garbage", Kind.KEY_MALFORMED),
    ],
)
def test_install_without_the_right_key_changes_nothing(bench: Bench, key: str, kind: Kind) -> None:
    (bench.folder / "empty-folder").mkdir()
    (bench.folder / "folder-with-garbage").mkdir()
    bench.put("private", RSA_B.read_bytes())
    for name in ("garbage", "folder-with-garbage/a.pem"):
        bench.put(name, b"garbage")
    before = bench.image.read_bytes()
    result = bench.install("--payload", bench.put("p", PAYLOAD), "--json", key=bench.folder / key)
    assert_refused(bench, result, kind, FAILED if kind is Kind.KEY_MALFORMED else UNVERIFIED)
    assert bench.image.read_bytes() == before


def test_install_without_a_key_says_which_option_is_missing(bench: Bench) -> None:
    result = bench.run("install", "--payload", bench.put("p", PAYLOAD), "--json")
    assert_refused(bench, result, Kind.KEY_MISSING, UNVERIFIED)
    assert "hint: give --public-key PEM, or a folder of such files\n" in result.err


# Disks and folders


@pytest.mark.parametrize("labels", [("USR-A",), ("USR-A", "USR-X"), ("USR-A", "USR-A"), ("USR-A", "USR-B", "USR-C")])
def test_install_on_a_disk_without_exactly_two_slots_is_refused(tmp_path: Path, labels: Sequence[str]) -> None:
    parts = [*ab_parts(sectors=len(OLD) // 512)[:2]]
    parts += [Part(number=10 + number, label=label, sectors=8) for number, label in enumerate(labels[1:])]
    bench = make_bench(tmp_path, parts)
    before = bench.image.read_bytes()
    result = bench.install("--payload", bench.put("p", PAYLOAD), "--json")
    assert (result.kind, result.status) == (Kind.SLOT_MISSING, FAILED)
    assert "hint: the disk needs exactly two partitions" in result.err
    assert bench.image.read_bytes() == before
    assert parts[1].number == USR_A_NUMBER


def test_install_with_a_state_folder_that_is_a_file_is_refused(bench: Bench) -> None:
    result = bench.install("--payload", bench.put("p", PAYLOAD), "--state-dir", bench.put("file", b""), "--json")
    assert_refused(bench, result, Kind.STATE_FILE, FAILED)


@pytest.mark.parametrize("name", ["slots.json", "checkpoint.json"])
def test_install_with_a_full_state_folder_fails_and_the_old_release_boots(bench: Bench, name: str) -> None:
    bench.state.mkdir()
    (bench.state / f"{name}.new").symlink_to("/dev/full")
    result = bench.install("--payload", bench.put("p", PAYLOAD), "--json")
    assert_refused(bench, result, Kind.NO_SPACE, FAILED)
    assert "hint: free some space and try again\n" in result.err
    assert bench.install("--payload", bench.folder / "p").status == 0


def test_install_of_a_kernel_into_no_folder_is_refused(bench: Bench) -> None:
    payload = bench.put("p", make_payload(NEW, OLD[:9000]))
    result = bench.install("--payload", payload, "--boot-dir", bench.folder / "none", "--json")
    assert_refused(bench, result, Kind.DEVICE_IO, FAILED)


# Servers


def stall(connection: socket.socket, _request: Received) -> None:
    connection.sendall(head(Content_Length=len(PAYLOAD)) + PAYLOAD[:1000])
    deadline = time.monotonic() + 10
    connection.settimeout(10)
    while time.monotonic() < deadline and connection.recv(100):
        pass


def endless_chunks(connection: socket.socket, _request: Received) -> None:
    connection.sendall(head(Transfer_Encoding="chunked"))
    connection.sendall(b"%x\r\n%b\r\n" % (len(PAYLOAD), PAYLOAD))
    while True:
        connection.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


BAD_SERVERS: dict[str, tuple[Script, Kind, int]] = {
    "not found": (send(head("404 Not Found", Content_Length=0)), Kind.HTTP_STATUS, FAILED),
    "in trouble": (send(head("503 Busy", Content_Length=0)), Kind.HTTP_STATUS, FAILED),
    "a web page": (whole(b"<html>login</html>", Content_Type="text/html"), Kind.TRANSFER, FAILED),
    "not HTTP": (send(b"SSH-2.0-OpenSSH\r\n"), Kind.TRANSFER, FAILED),
    "silent": (send(), Kind.TRANSFER, FAILED),
    "cut": (send(head(Content_Length=len(PAYLOAD)), PAYLOAD[:9000]), Kind.TRANSFER, FAILED),
    "compressed": (whole(PAYLOAD, Content_Encoding="gzip"), Kind.TRANSFER, FAILED),
    "too large": (whole(bytes(3 << 20)), Kind.TRANSFER_TOO_LARGE, FAILED),
    "said to be too large": (send(head(Content_Length=1 << 60)), Kind.TRANSFER_TOO_LARGE, FAILED),
    "endless chunks": (endless_chunks, Kind.PAYLOAD_SIZE, UNVERIFIED),
    "stalled": (stall, Kind.TRANSFER_STALLED, FAILED),
    "in a circle": (redirect("/payload"), Kind.REDIRECT_REFUSED, FAILED),
    "sending to a file": (redirect("file:///etc/passwd"), Kind.REDIRECT_REFUSED, FAILED),
}


def install_from(bench: Bench, server: ScriptedServer, *options: str | Path) -> Result:
    return bench.install(
        "--payload", server.url, "--attempts", "1", "--stall-timeout", "1", "--max-size", "2000000", "--proxy", "",
        "--json", *options,
    )  # fmt: skip


@pytest.mark.parametrize("name", BAD_SERVERS)
def test_install_from_a_bad_server_ends_and_leaves_the_old_release(bench: Bench, name: str) -> None:
    script, kind, status = BAD_SERVERS[name]
    with serving(script) as server:
        result = install_from(bench, server)
    assert_refused(bench, result, kind, status)


def test_install_of_a_payload_without_length_ends_at_the_limit(bench: Bench) -> None:
    with serving(send(head(), PAYLOAD)) as server:
        result = install_from(bench, server, "--max-size", "100000")
    assert_refused(bench, result, Kind.TRANSFER_TOO_LARGE, FAILED)


def test_install_redirected_from_https_to_http_is_refused(bench: Bench) -> None:
    authority = make_authority(bench.folder)
    with (
        serving(whole(PAYLOAD)) as plain,
        serving(redirect(plain.url), tls=authority.server_context()) as server,
    ):
        result = install_from(bench, server, "--ca", authority.ca_file)
        assert not plain.received
    assert_refused(bench, result, Kind.REDIRECT_REFUSED, FAILED)
    assert "\nhint: " in result.err


def test_install_over_https_with_the_right_authority_works_and_without_it_does_not(bench: Bench) -> None:
    authority = make_authority(bench.folder)
    with serving(whole(PAYLOAD), tls=authority.server_context()) as server:
        result = install_from(bench, server)
        assert_refused(bench, result, Kind.TRANSFER, FAILED)
        assert "certificate not accepted" in result.err
        assert install_from(bench, server, "--ca", authority.ca_file).status == 0


# Update servers

ENTITIES = b"""<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>
<response protocol="3.0"><app appid="&b;" status="ok"/></response>"""
BAD_ANSWERS: dict[str, tuple[Script, Kind]] = {
    "entities": (whole(ENTITIES), Kind.OMAHA_MALFORMED),
    "a web page": (whole(b"<!DOCTYPE html><html><p>hello<br></html>"), Kind.OMAHA_MALFORMED),
    "other XML": (whole(b"<html><p>hello</p></html>"), Kind.OMAHA_MALFORMED),
    "nothing": (whole(b""), Kind.OMAHA_EMPTY),
    "broken off": (whole(b"<response protocol='3.0'><app"), Kind.OMAHA_MALFORMED),
    "too much": (whole(b"<!-- -->" * (1 << 18)), Kind.TRANSFER_TOO_LARGE),
    "in trouble": (send(head("500 Oh", Content_Length=0)), Kind.HTTP_STATUS),
    "silent": (send(), Kind.OMAHA_TRANSFER),
}


@pytest.mark.parametrize("verb", ["check", "install"])
@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_update_server_that_makes_no_sense_is_an_error(bench: Bench, verb: str, name: str) -> None:
    script, kind = BAD_ANSWERS[name]
    keys = ["--public-key", str(RSA_A_PUBLIC)] if verb == "install" else []
    before = bench.image.read_bytes()
    with serving(script) as server:
        result = bench.run(verb, "--server", server.url, "--json", "--stall-timeout", "1", "--proxy", "", *keys)
    assert_refused(bench, result, kind, FAILED)
    assert bench.image.read_bytes() == before
