"""Requests to the payload builder for tests, and a decoder of its payloads that shares no code with the installer."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.support.devices import MemoryDevice
from tests.support.payloads import RSA_A
from update_agent.domain.build import BuildReport, build_payload
from update_agent.domain.build_request import BuildRequest
from update_agent.domain.trust import SigningKey
from update_agent.formats.compression import decompress
from update_agent.formats.manifest import Extent, Manifest, Operation, OperationType, PartName
from update_agent.formats.payload import Header

BLOCK: Final = 4096
MIB: Final = 1024 * 1024


def request(tmp_path: Path, **changes: Any) -> BuildRequest:
    """A request for `usr.img` to `out.payload`, both in `tmp_path`, signed by one RSA key; `changes` win."""
    fields: dict[str, Any] = {
        "usr": tmp_path / "usr.img",
        "version": "2.0.0",
        "output": tmp_path / "out.payload",
        "keys": () if "signature_sizes" in changes else (SigningKey.load(RSA_A),),
    }
    return BuildRequest(**(fields | changes))


def build(tmp_path: Path, **changes: Any) -> BuildReport:
    """Build the request that `request` makes."""
    return build_payload(request(tmp_path, **changes), lambda _done, _total: None)


def memory(content: bytes) -> MemoryDevice:
    """An image in memory."""
    return MemoryDevice(len(content), content=content)


def split(payload: bytes) -> tuple[Header, Manifest, bytes]:
    """Header, manifest, and everything from the first blob on."""
    header = Header.from_bytes(payload)
    manifest = Manifest.from_bytes(payload[header.size_bytes : header.metadata_size], header.major)
    return header, manifest, payload[header.data_start :]


def decode(payload: bytes, name: PartName, folder: Path, *, old: bytes = b"") -> bytes:
    """Content of a part; patches are applied by the program `bspatch`, every hash is checked."""
    _, manifest, blobs = split(payload)
    part = manifest.part(name)
    assert part is not None
    assert part.new is not None
    result = bytearray(part.new.size_bytes + 2 * MIB)
    for operation in part.operations:
        blob = blobs[operation.data_offset : operation.data_offset + operation.data_length]
        if blob:
            assert hashlib.sha256(blob).digest() == operation.data_sha256
        data = _result(operation, blob, old, folder)
        (extent,) = operation.dst_extents
        assert len(data) <= extent.num_blocks * BLOCK
        result[extent.start_block * BLOCK : extent.start_block * BLOCK + len(data)] = data
    content = bytes(result[: part.new.size_bytes])
    assert hashlib.sha256(content).digest() == part.new.sha256
    return content


def _result(operation: Operation, blob: bytes, old: bytes, folder: Path) -> bytes:
    if operation.type is OperationType.ZERO:
        return bytes(operation.dst_extents[0].num_blocks * BLOCK)
    if operation.type not in {OperationType.SOURCE_COPY, OperationType.SOURCE_BSDIFF}:
        return decompress(operation.type, blob, MIB * 2)
    source = b"".join(_slice(old, extent) for extent in operation.src_extents)
    assert hashlib.sha256(source).digest() == operation.src_sha256
    if operation.type is OperationType.SOURCE_COPY:
        return source
    before, after, patch = (folder / name for name in ("bspatch.old", "bspatch.new", "bspatch.patch"))
    before.write_bytes(source[: operation.src_length])
    patch.write_bytes(blob)
    subprocess.run(["bspatch", before, after, patch], check=True, timeout=30)
    data = after.read_bytes()
    assert len(data) == operation.dst_length
    return data


def _slice(data: bytes, extent: Extent) -> bytes:
    return data[extent.start_block * BLOCK : (extent.start_block + extent.num_blocks) * BLOCK]
