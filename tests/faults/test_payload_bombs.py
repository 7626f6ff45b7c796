"""Small inputs that ask for much: refused in bounded memory and time.

Each runs in a process of its own, which reports how far its memory grew; a peak cannot be seen any other way.
"""

import bz2
import lzma
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from update_agent.formats.operations import OperationType

ROOT = Path(__file__).parent.parent.parent
MIB = 1024 * 1024
LIMIT_BYTES = 2 * MIB

MEASURE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from update_agent.errors import FormatError
from update_agent.formats import compression, manifest
from update_agent.formats.operations import OperationType

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

data = sys.stdin.buffer.read()
before, start = peak(), time.process_time()
try:
    ACTION
except FormatError as error:
    print(error.kind, peak() - before, time.process_time() - start, error.message, sep="\\n")
"""

ONE_SHOT = "compression.decompress(OperationType({type_}), data, {limit})"
STREAM = """
    for piece in compression.decompress_chunks(
        OperationType({type_}), (data[at : at + 4096] for at in range(0, len(data), 4096)), {limit}, 65536
    ):
        pass
"""

pytestmark = pytest.mark.skipif(
    not re.search("VmHWM", Path("/proc/self/status").read_text()), reason="the kernel does not report peak memory"
)


def measure(action: str, data: bytes) -> tuple[str, float, float, str]:
    """Kind of the error, growth in MiB, CPU seconds, message."""
    script = MEASURE.replace("ACTION", action.strip())
    # Measuring coverage would be most of what is measured.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-c", script, str(ROOT)]
    done = subprocess.run(command, input=data, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout, "accepted"
    kind, kib, secs, message = done.stdout.decode().splitlines()
    return kind, int(kib) / 1024, float(secs), message


# --------------------------------------------------------------------------------------- 10 GiB of zeros, made cheaply


def zstd_bomb(*, is_size_known: bool) -> bytes:
    """RFC 8878, 3.1.1: a window of 8 MiB, then blocks that repeat one byte 128 Ki times."""
    blocks = 10 * 1024 * 8
    size = blocks * 128 * 1024
    head = b"\xc0\x68" + size.to_bytes(8, "little") if is_size_known else b"\x00\x68"
    block = (128 * 1024 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (128 * 1024 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd" + head + block * (blocks - 1) + last


def xz_bomb() -> bytes:
    """The .xz file format, 2 to 4: the one block of 32 MiB of zeros 320 times, and an index that says so."""
    data = lzma.compress(bytes(32 * MIB), format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, preset=6)
    index_bytes = (int.from_bytes(data[-8:-4], "little") + 1) * 4
    head, block, index = data[:12], data[12 : -12 - index_bytes], data[-12 - index_bytes : -12]
    record = index[2:-4].rstrip(b"\0")
    new = b"\x00" + bytes([320 & 0x7F | 0x80, 320 >> 7]) + record * 320
    new += bytes(-len(new) % 4)
    new += zlib.crc32(new).to_bytes(4, "little")
    tail = (len(new) // 4 - 1).to_bytes(4, "little") + data[-4:-2]
    return head + block * 320 + new + zlib.crc32(tail).to_bytes(4, "little") + tail + b"YZ"


def bz2_bomb() -> bytes:
    """The one block of 40 MiB of zeros 256 times; blocks follow each other bit by bit, then an end mark and a CRC."""
    data = bz2.compress(bytes(40 * MIB))
    bits = f"{int.from_bytes(data, 'big'):0{len(data) * 8}b}"
    end_mark = f"{0x177245385090:048b}"
    end = bits.rindex(end_mark)
    head, block = bits[:32], bits[32:end]
    block_crc, crc = int(block[48:80], 2), 0
    for _ in range(256):
        crc = ((crc << 1 | crc >> 31) & 0xFFFFFFFF) ^ block_crc
    whole = head + block * 256 + end_mark + f"{crc:032b}"
    whole += "0" * (-len(whole) % 8)
    return int(whole, 2).to_bytes(len(whole) // 8, "big")


BOMBS = {
    "zstd-known": (OperationType.REPLACE_ZSTD, zstd_bomb(is_size_known=True)),
    "zstd-unknown": (OperationType.REPLACE_ZSTD, zstd_bomb(is_size_known=False)),
    "xz": (OperationType.REPLACE_XZ, xz_bomb()),
    "bz2": (OperationType.REPLACE_BZ, bz2_bomb()),
}


def test_bombs_are_small() -> None:
    assert max(len(blob) for _, blob in BOMBS.values()) < 2 * MIB


@pytest.mark.parametrize("action", [ONE_SHOT, STREAM], ids=["one-shot", "stream"])
@pytest.mark.parametrize("name", sorted(BOMBS))
def test_bomb_stops_at_the_limit_in_little_memory(name: str, action: str) -> None:
    type_, blob = BOMBS[name]
    kind, mib, secs, message = measure(action.format(type_=int(type_), limit=LIMIT_BYTES), blob)
    print(f"{name}: {mib:.1f} MiB, {secs:.2f} s")
    assert kind == "payload-malformed"
    assert message.endswith(f"expected at most {LIMIT_BYTES} bytes of content, got more")
    # bzip2 keeps 4 MiB for a block, xz and zstd 8 MiB for what may be repeated; two copies of the content.
    assert mib < 24
    assert secs < 2


@pytest.mark.parametrize(
    "action",
    [
        "compression.decompress(OperationType(8), data, 100)",
        "list(compression.decompress_chunks(OperationType(8), [data], 100))",
    ],
)
def test_xz_that_wants_a_dictionary_of_1_gib_gets_none(action: str) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 64 * 1024}]
    blob = bytearray(lzma.compress(b"x", format=lzma.FORMAT_XZ, filters=filters, check=lzma.CHECK_NONE))
    # The .xz file format, 3.1 and 5.3.1: block header, filter LZMA2 (0x21), one byte for the size of the dictionary.
    header_bytes = (blob[12] + 1) * 4
    at = blob.index(b"\x21\x01", 12) + 2
    blob[at] = 36
    blob[12 + header_bytes - 4 : 12 + header_bytes] = zlib.crc32(blob[12 : 12 + header_bytes - 4]).to_bytes(4, "little")
    kind, mib, _, message = measure(action, bytes(blob))
    assert (kind, message) == ("payload-malformed", "REPLACE_XZ data: Memory usage limit exceeded")
    assert mib < 8


# ------------------------------------------------------------------------------------------------ manifests of nothing


def field(number: int, content: bytes) -> bytes:
    """A field of protobuf that holds `content`."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    """The wire form of a number."""
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def fill(size: int, piece: bytes, *around: int) -> bytes:
    """`piece` as often as fits into `size` bytes, inside of the fields `around`, outermost first."""
    content = piece * ((size - 10 * len(around)) // len(piece))
    for number in reversed(around):
        content = field(number, content)
    return content


V1, V2 = 4 * MIB, 16 * MIB
EMPTY_OPERATION = field(1, b"")
EXTENT = field(6, b"\x08\x00\x10\x01")
FULL = field(1, b"\x08\x00" + EXTENT * 4)
MANIFESTS: Sequence[tuple[str, int, bytes]] = [
    ("empty operations", 1, fill(V1, EMPTY_OPERATION)),
    ("empty extents", 1, fill(V1, field(4, b""), 1)),
    ("as many operations as are allowed", 1, EMPTY_OPERATION * 131072),
    ("as many extents as are allowed", 1, field(1, field(6, b"") * 524288)),
    ("empty partitions", 2, fill(V2, field(13, b""))),
    ("empty operations of a partition", 2, fill(V2, field(8, b""), 13)),
    ("operations without data, with extents", 2, field(13, field(1, b"usr") + field(8, FULL[2:]) * 131072)),
    ("unknown fields", 2, fill(V2, b"\x80\x7d\x00")),
    ("one version", 2, fill(V2, b"1", 13, 17)),
    ("numbers that do not end", 2, fill(V2, b"\x80")),
]


@pytest.mark.parametrize(("what", "major", "data"), MANIFESTS, ids=[f"v{major} {what}" for what, major, _ in MANIFESTS])
def test_manifest_full_of_nothing_is_refused_in_little_memory_and_time(what: str, major: int, data: bytes) -> None:
    kind, mib, secs, message = measure(f"manifest.Manifest.from_bytes(data, {major})", data)
    print(f"v{major} {what}: {len(data) / MIB:.1f} MiB, grew {mib:.1f} MiB, {secs:.2f} s: {message[:70]}")
    assert kind in ("manifest-malformed", "operation-unknown")
    # Empty messages are refused for their number, before there is one.
    assert message.endswith("got more") or not what.startswith("empty")
    assert mib < 160
    assert secs < 10
