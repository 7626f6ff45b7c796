import hashlib
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.deltas import DeltaScript
from tests.support.nodes import BytesSource
from tests.support.payloads import DATA, RSA_A_PUBLIC, RSA_B_PUBLIC, PayloadMaker, make_payload
from update_agent.domain.progress import CancelToken, Phase, Progress
from update_agent.domain.reader import Proof
from update_agent.domain.trust import KeyRing
from update_agent.domain.unpack import UnpackRequest, unpack
from update_agent.errors import ConfigurationError, InstallError, Kind, UpdateAgentError
from update_agent.formats import update_metadata_pb2 as pb2
from update_agent.formats.manifest import Manifest, PartName
from update_agent.formats.operations import OperationType
from update_agent.net.source import FileSource, PayloadSource

BLOCK = 4096
NEW = random.Random(1).randbytes(10 * BLOCK)
OLD = random.Random(2).randbytes(10 * BLOCK)
KERNEL = random.Random(3).randbytes(2 * BLOCK + 77)
UPSTREAM_KEY = DATA / "payload-key.pub.pem"
UPSTREAM_USR = "346ff5b4b03b85e18121dd619fa7d5aa99e745ed5bd13707ac2ce7cb3451cafd"
UPSTREAM_KERNEL = "51c3a39ce7f28675fdd0387887e5ba9633b29d245f1905588053dd00cccefc58"


@pytest.fixture
def usr(tmp_path: Path) -> Path:
    return tmp_path / "out" / "usr.img"


@pytest.fixture
def kernel(usr: Path) -> Path:
    usr.parent.mkdir()
    return usr.with_name("vmlinuz")


def run_unpack(
    source: PayloadSource | bytes,
    outputs: Mapping[PartName, Path],
    *,
    old: Mapping[PartName, Path] | None = None,
    key: Path = RSA_A_PUBLIC,
    progress: Callable[[Progress], None] = lambda _: None,
    cancel: CancelToken | None = None,
    spool_folder: Path = Path("/nonexistent"),
) -> tuple[Manifest, Proof]:
    request = UnpackRequest(
        source=BytesSource(source) if isinstance(source, bytes) else source,
        keyring=KeyRing.load(key),
        outputs=outputs,
        old_contents=old or {},
        spool_folder=spool_folder,
        workers=2,
    )
    return unpack(request, progress=progress, cancel=cancel or CancelToken())


def delta(*, in_place: bool = False) -> bytes:
    script = DeltaScript(OLD, block_size=BLOCK, in_place=in_place)
    script.copy([(4, 3)], [(0, 3)])
    script.patch([(0, 2)], [(3, 7)], NEW[: 7 * BLOCK])
    return PayloadMaker(
        usr=bytes(script.content),
        old_usr=OLD,
        operations=script.steps,
        major=1 if in_place else 2,
        minor_version=0 if in_place else 3,
    ).make()


# Payloads of update_engine's generator


@pytest.mark.parametrize("name", ["usr-and-kernel", "usr-only"])
def test_unpack_payload_of_upstream_gives_the_stated_content(usr: Path, kernel: Path, name: str) -> None:
    source = FileSource(DATA / f"{name}.payload")
    outputs = {PartName.USR: usr} | ({PartName.KERNEL: kernel} if name == "usr-and-kernel" else {})
    run_unpack(source, outputs, key=UPSTREAM_KEY)
    source.close()
    assert hashlib.sha256(usr.read_bytes()).hexdigest() == UPSTREAM_USR
    if name == "usr-and-kernel":
        assert hashlib.sha256(kernel.read_bytes()).hexdigest() == UPSTREAM_KERNEL


# What an unpacking gives


@pytest.mark.parametrize("major", [1, 2])
def test_unpack_trims_files_to_their_size_and_leaves_nothing_else(usr: Path, kernel: Path, major: int) -> None:
    manifest, proof = run_unpack(make_payload(NEW, KERNEL, major=major), {PartName.USR: usr, PartName.KERNEL: kernel})
    assert (usr.read_bytes(), kernel.read_bytes()) == (NEW, KERNEL)
    assert sorted(usr.parent.iterdir()) == [usr, kernel]
    assert (manifest.major, proof.key) == (major, "rsa-a.pub.pem")


def test_unpack_without_outputs_verifies_only(tmp_path: Path) -> None:
    payload = make_payload(NEW, KERNEL)
    _, proof = run_unpack(payload, {})
    assert proof.size_bytes == len(payload)
    assert not list(tmp_path.iterdir())


def test_unpack_one_part_drops_the_other(usr: Path, kernel: Path) -> None:
    run_unpack(make_payload(NEW, KERNEL), {PartName.KERNEL: kernel})
    assert list(usr.parent.iterdir()) == [kernel]


def test_unpack_replaces_an_existing_file_and_what_a_crash_left(usr: Path, kernel: Path) -> None:
    usr.write_bytes(b"old")
    usr.with_name("usr.img.new").write_bytes(bytes(100 * BLOCK))
    run_unpack(make_payload(NEW, KERNEL), {PartName.USR: usr})
    assert list(usr.parent.iterdir()) == [usr]
    assert usr.read_bytes() == NEW


def test_unpack_does_not_write_through_a_link_that_lies_beside_the_output(
    usr: Path, kernel: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    usr.with_name("usr.img.new").symlink_to(precious)
    run_unpack(make_payload(NEW), {PartName.USR: usr})
    assert (precious.read_bytes(), usr.read_bytes()) == (b"precious", NEW)


def test_unpack_tells_progress_of_both_phases(usr: Path, kernel: Path) -> None:
    told: list[Progress] = []
    run_unpack(make_payload(NEW), {PartName.USR: usr}, progress=told.append)
    assert {point.phase for point in told} == {Phase.DOWNLOADING, Phase.VERIFYING}


def test_unpack_large_operation_is_spooled(usr: Path, kernel: Path, tmp_path: Path) -> None:
    content = random.Random(4).randbytes(5 << 20)
    payload = make_payload(content, op_bytes=len(content), types=[OperationType.REPLACE])
    run_unpack(payload, {PartName.USR: usr}, spool_folder=tmp_path)
    assert usr.read_bytes() == content


# Deltas


def test_unpack_delta_starts_from_the_old_content(usr: Path, kernel: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.img"
    old.write_bytes(OLD)
    run_unpack(delta(), {PartName.USR: usr}, old={PartName.USR: old})
    assert usr.read_bytes() == OLD[4 * BLOCK : 7 * BLOCK] + NEW[: 7 * BLOCK]
    assert old.read_bytes() == OLD


def test_unpack_delta_over_its_own_old_content_works(usr: Path, kernel: Path) -> None:
    usr.write_bytes(OLD)
    run_unpack(delta(), {PartName.USR: usr}, old={PartName.USR: usr})
    assert usr.read_bytes() == OLD[4 * BLOCK : 7 * BLOCK] + NEW[: 7 * BLOCK]


# What leaves no trace


def refused(
    payload: bytes, outputs: dict[PartName, Path], kind: Kind, *, old: Path | None = None, key: Path = RSA_A_PUBLIC
) -> UpdateAgentError:
    """The error; an existing output is as it was, and nothing lies beside it."""
    (folder,) = {path.parent for path in outputs.values()}
    outputs[PartName.USR].write_bytes(b"precious")
    before = sorted(folder.iterdir())
    with pytest.raises(UpdateAgentError) as caught:
        run_unpack(payload, outputs, old={PartName.USR: old} if old else None, key=key)
    assert caught.value.kind is kind
    assert sorted(folder.iterdir()) == before
    assert outputs[PartName.USR].read_bytes() == b"precious"
    return caught.value


def lie_about_the_result(manifest: pb2.Manifest) -> None:
    manifest.partitions[0].new_partition_info.hash = bytes(32)


def flip(blobs: bytearray) -> None:
    blobs[-1] ^= 1


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (make_payload(NEW, mutate_manifest=lie_about_the_result), Kind.PARTITION_HASH),
        (make_payload(NEW, mutate_blobs=flip), Kind.OPERATION_HASH),
        (make_payload(NEW)[:-1], Kind.PAYLOAD_SIZE),
        (make_payload(NEW)[:-30] + bytes(20) + make_payload(NEW)[-10:], Kind.SIGNATURE_INVALID),
        (make_payload(NEW, keys=[]), Kind.SIGNATURE_MISSING),
        (b"CrAU", Kind.PAYLOAD_TRUNCATED),
    ],
    ids=["result", "blob", "size", "signature", "unsigned", "header"],
)
def test_unpack_wrong_payload_changes_nothing(usr: Path, kernel: Path, payload: bytes, kind: Kind) -> None:
    refused(payload, {PartName.USR: usr}, kind)


def test_unpack_with_one_wrong_part_gives_neither(usr: Path, kernel: Path) -> None:
    def lie(manifest: pb2.Manifest) -> None:
        manifest.partitions[1].new_partition_info.hash = bytes(32)

    payload = make_payload(NEW, KERNEL, mutate_manifest=lie)
    refused(payload, {PartName.USR: usr, PartName.KERNEL: kernel}, Kind.KERNEL_HASH)


def test_unpack_with_another_key_changes_nothing(usr: Path, kernel: Path) -> None:
    refused(make_payload(NEW), {PartName.USR: usr}, Kind.SIGNATURE_INVALID, key=RSA_B_PUBLIC)


def test_unpack_part_that_is_not_there_is_refused_as_usage(usr: Path, kernel: Path) -> None:
    outputs = {PartName.USR: usr, PartName.KERNEL: kernel}
    assert isinstance(refused(make_payload(NEW), outputs, Kind.USAGE), ConfigurationError)


def test_unpack_delta_without_old_content_says_what_to_give(usr: Path, kernel: Path) -> None:
    error = refused(delta(), {PartName.USR: usr}, Kind.SOURCE_MISSING)
    assert error.hint == "give --source-usr FILE"


def test_unpack_delta_from_another_release_is_refused(usr: Path, kernel: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(NEW)
    refused(delta(), {PartName.USR: usr}, Kind.SOURCE_HASH, old=other)


def test_unpack_delta_from_a_file_that_is_not_there_is_refused(usr: Path, kernel: Path, tmp_path: Path) -> None:
    refused(delta(), {PartName.USR: usr}, Kind.DEVICE_OPEN, old=tmp_path / "none")


def test_unpack_in_place_delta_is_refused(usr: Path, kernel: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.img"
    old.write_bytes(OLD)
    error = refused(delta(in_place=True), {PartName.USR: usr}, Kind.OPERATION_FAILED, old=old)
    assert isinstance(error, InstallError)
    assert old.read_bytes() == OLD


def test_unpack_into_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UpdateAgentError) as caught:
        run_unpack(make_payload(NEW), {PartName.USR: tmp_path / "none" / "usr.img"})
    assert caught.value.kind is Kind.DEVICE_IO


def test_unpack_cancelled_leaves_nothing(usr: Path, kernel: Path) -> None:
    cancel = CancelToken()
    with pytest.raises(UpdateAgentError) as caught:
        run_unpack(make_payload(NEW), {PartName.USR: usr}, cancel=cancel, progress=lambda _progress: cancel.cancel())
    assert caught.value.kind is Kind.INTERRUPTED
    assert not list(usr.parent.iterdir())
