"""A single bit of a payload by update_engine's own generator changes anywhere: it is refused, never activated."""

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


def places(payload: bytes, count: int) -> list[int]:
    """Bits all over the payload, and as many in header, manifest and signature, which are a small part of it."""
    rng = random.Random(SEED)
    header = Header.from_bytes(payload)
    ends = [*range(header.data_start), *range(len(payload) - SIGNATURE_BYTES, len(payload))]
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
def test_every_flip_in_the_list_of_signatures_is_refused(name: str, tmp_path: Path) -> None:
    """No key signs these bytes; what is beside the signature itself has only one right form."""
    payload = (DATA / name).read_bytes()
    assert read_whole(payload, tmp_path).key == KEY.name
    start = len(payload) - SIGNATURE_BYTES
    for bit in range(8 * start, 8 * (start + 8)):
        with pytest.raises(UpdateAgentError):
            read_whole(flip(payload, bit), tmp_path)


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
