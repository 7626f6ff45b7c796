"""Small payloads of every kind, each with the machine that it can be installed on."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.boot_folder import BootFolder
from tests.support.deltas import DeltaScript
from tests.support.devices import MemoryDevice
from tests.support.images import Geometry, ab_parts, boot_attributes, make_image
from tests.support.nodes import Node
from tests.support.payloads import P256, P256_PUBLIC, RSA_A, RSA_A_PUBLIC, PayloadMaker
from update_agent.domain.slots import SlotName
from update_agent.formats.operations import SPARSE_HOLE, OperationType

BLOCK_BYTES: Final = 1024
USR_BYTES: Final = 32 * BLOCK_BYTES


def _content(seed: int, blocks: int) -> bytes:
    """Blocks that compress to about half of their size."""
    rng = random.Random(seed)
    return b"".join(rng.randbytes(BLOCK_BYTES // 2).ljust(BLOCK_BYTES, b".") for _ in range(blocks))


OLD: Final = _content(1, 32)
OLD_KERNEL: Final = _content(2, 3)[:-100]
LITTER: Final = b"\xee" * USR_BYTES
"""What slot B holds before; a forgotten ZERO would show. It counts as good, though second to A."""

# A table of the usual length takes most of the time of an install so small.
_IMAGE: Final = bytes(
    make_image(
        ab_parts(a=boot_attributes(2, 0, 1), b=boot_attributes(1, 0, 1), sectors=USR_BYTES // 512),
        Geometry(entry_count=12),
    )
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A valid payload.

    Attributes:
        payload: all of it.
        usr: what slot B has to hold afterwards, from its first byte on.
        kernel: likewise the kernel file, if the payload has one.
        sign: private key, and the public one that the machine trusts.
    """

    payload: bytes
    usr: bytes
    kernel: bytes | None
    sign: tuple[Path, Path] = field(default=(RSA_A, RSA_A_PUBLIC))

    def node(self, folder: Path) -> Node:
        """A machine that runs `OLD` from slot A."""
        device = MemoryDevice.of(_IMAGE, name="disk")
        files = {"vmlinuz-a": OLD_KERNEL}
        node = Node(device=device, files=files, folder=folder, kernels=BootFolder(files=files))
        slots = node.slots
        device.write_at(slots.by_name(SlotName.A).start_bytes, OLD)
        device.write_at(slots.by_name(SlotName.B).start_bytes, LITTER)
        return node


def _sample(maker: PayloadMaker, *, sign: tuple[Path, Path] = (RSA_A, RSA_A_PUBLIC)) -> Sample:
    maker.keys = (sign[0],)
    maker.block_size = BLOCK_BYTES
    return Sample(payload=maker.make(), usr=maker.usr, kernel=maker.kernel, sign=sign)


def _v2_script() -> DeltaScript:
    script = DeltaScript(OLD, block_size=BLOCK_BYTES)
    script.copy([(0, 4), (20, 2)], [(10, 3), (0, 3)])
    script.patch([(22, 4)], [(3, 3)], OLD[100:3000] + b"tail", src_length=4 * BLOCK_BYTES - 100)
    script.clear(OperationType.ZERO, [(6, 2), (29, 3)])
    script.clear(OperationType.DISCARD, [(8, 2)])
    for number, type_ in enumerate(
        (OperationType.REPLACE_XZ, OperationType.REPLACE_BZ, OperationType.REPLACE_ZSTD, OperationType.REPLACE)
    ):
        script.replace(type_, [(13 + 4 * number, 4)], _content(number, 4))
    return script


def _v1_script() -> DeltaScript:
    script = DeltaScript(OLD, block_size=BLOCK_BYTES, in_place=True)
    script.copy([(0, 3)], [(1, 3)])  # overwrites its own source
    script.copy([(9, 2), (SPARSE_HOLE, 1)], [(20, 3)])
    script.patch([(4, 4)], [(24, 3), (SPARSE_HOLE, 1)], OLD[4096:7000] + b"new")
    script.patch([(10, 4)], [(11, 3)], _content(7, 2) + b"overlap")
    script.replace(OperationType.REPLACE_BZ, [(28, 4)], _content(8, 4))
    script.replace(OperationType.REPLACE, [(16, 2)], _content(9, 2))
    return script


def _delta(script: DeltaScript, *, in_place: bool) -> PayloadMaker:
    return PayloadMaker(
        usr=bytes(script.content),
        major=1 if in_place else 2,
        operations=script.steps,
        old_usr=OLD,
        minor_version=0 if in_place else 3,
    )


SAMPLES: Final = (
    _sample(PayloadMaker(usr=_content(3, 30)[:-7], op_bytes=8192), sign=(P256, P256_PUBLIC)),
    _sample(
        PayloadMaker(
            usr=_content(4, 8) + bytes(8 * BLOCK_BYTES) + _content(5, 8),
            kernel=_content(6, 4)[:-9],
            types=(OperationType.REPLACE_XZ, OperationType.REPLACE_BZ, OperationType.ZERO, OperationType.REPLACE),
            op_bytes=4096,
        )
    ),
    _sample(_delta(_v2_script(), in_place=False), sign=(P256, P256_PUBLIC)),
    _sample(
        PayloadMaker(
            usr=_content(10, 12), kernel=_content(11, 3), pcr_policy=b"policy", ignored=b"?", major=1, op_bytes=4096
        )
    ),
    _sample(_delta(_v1_script(), in_place=True)),
)
