"""A single bit of a payload by update_engine's own generator changes anywhere: it is refused, never activated."""

import contextlib
import os
import random
from pathlib import Path

import pytest

from tests.support.nodes import BytesSource, make_node
from tests.support.payloads import DATA
from update_agent.domain.apply import verify_blob
from update_agent.domain.pipeline import list_steps
from update_agent.domain.reader import Expectation, Proof, reading
from update_agent.domain.slots import SlotName
from update_agent.domain.trust import KeyRing
from update_agent.errors import UpdateAgentError
from update_agent.formats.payload import Header

SEED = int(os.environ.get("BIT_FLIP_SEED", "1"))
FLIPS = 2000
SIGNATURE_BYTES = 264
KEY = DATA / "payload-key.pub.pem"
KEYRING = KeyRing.load(KEY)
USR_BYTES = 4210688


def read_whole(payload: bytes, folder: Path) -> Proof:
    """Everything that an install verifies before it looks at the disk again."""
    source = BytesSource(payload, chunk_bytes=1 << 20, size_is_known=False)
    with reading(source, KEYRING, Expectation()) as reader:
        manifest = reader.begin()
        for step in list_steps(manifest):
            verify_blob(step.operation, reader.take_blob(step.operation.data_length, folder), step.name)
        return reader.finish(manifest)


def flip(payload: bytes, bit: int) -> bytes:
    changed = bytearray(payload)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def number_bytes(payload: bytes) -> range:
    """Tag and value of `Signature.version` in the one signature at the end: no key signs them."""
    start = len(payload) - SIGNATURE_BYTES + 3
    assert payload[start : start + 2] == b"\x08\x02"
    return range(start, start + 2)


def places(payload: bytes, count: int) -> list[int]:
    """Bits all over the payload, and as many in header, manifest and signature, which are a small part of it."""
    rng = random.Random(SEED)
    header = Header.from_bytes(payload)
    ends = [*range(header.data_start), *range(len(payload) - SIGNATURE_BYTES, len(payload))]
    ends = [byte for byte in ends if byte not in number_bytes(payload)]
    blobs = range(header.data_start, len(payload) - SIGNATURE_BYTES)
    return [8 * rng.choice(blobs if n % 2 else ends) + rng.randrange(8) for n in range(count)]


@pytest.mark.parametrize("name", ["usr-only.payload", "usr-and-kernel.payload"])
def test_any_single_bit_flip_is_refused(name: str, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    payload = (DATA / name).read_bytes()
    for bit in places(payload, FLIPS):
        with pytest.raises(UpdateAgentError):
            read_whole(flip(payload, bit), tmp_path)


@pytest.mark.parametrize("name", ["usr-only.payload", "usr-and-kernel.payload"])
def test_flips_of_the_number_beside_the_signature_change_nothing_that_counts(name: str, tmp_path: Path) -> None:
    """Which key made a signature is found out by trying, whatever number is written beside it."""
    payload = (DATA / name).read_bytes()
    proof = read_whole(payload, tmp_path)
    assert proof.key == KEY.name
    for bit in (8 * byte + n for byte in number_bytes(payload) for n in range(8)):
        with contextlib.suppress(UpdateAgentError):
            assert read_whole(flip(payload, bit), tmp_path) == proof


@pytest.mark.parametrize("name", ["usr-only.payload", "usr-and-kernel.payload"])
def test_single_bit_flip_in_an_install_leaves_what_ran(name: str, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    payload = (DATA / name).read_bytes()
    node = make_node(tmp_path, usr_bytes=5 << 20, content_a=b"runs")
    node.boot_folder = tmp_path
    for bit in places(payload, 12):
        with pytest.raises(UpdateAgentError):
            node.install(flip(payload, bit), keys=KEY)
        assert node.next_boot() is SlotName.A
        assert not node.slots.b.flags.is_bootable
        assert not (tmp_path / "vmlinuz-b").exists()
