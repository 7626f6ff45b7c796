"""How far an install has come, in a form that survives a crash and cannot lie.

A checkpoint is written only after what it names has been flushed to the target. It carries its own SHA-256, so a torn
or edited file counts as none; and it names the payload by the hash of its metadata, so it is never used for another.
Nothing in it replaces a verification: the signature is checked over all bytes and the target is read back whole.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol, Self
from uuid import UUID

_LOG: Final = logging.getLogger(__name__)
_SCHEMA: Final = 1
_FILE_BYTES_MAX: Final = 64 * 1024


class AtomicFile(Protocol):
    """What `update_agent.host.files.StateFile` does."""

    def read(self, limit_bytes: int) -> bytes | None:
        """At most `limit_bytes` of the content, or None if there is no such file."""

    def replace(self, data: bytes) -> None:
        """Durable on return, old or new in between."""

    def remove(self) -> None:
        """Gone on return."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A point from which an install can go on.

    Attributes:
        target: unique GUID of the target partition.
        metadata_sha256: hash of the payload's header and manifest.
        metadata_bytes: how many bytes of the file come before the first blob.
        version: what is being installed, for messages; empty if unknown.
        next_operation: index of the first operation that is not known to be on the disk, over all parts.
        data_offset: bytes of blobs consumed by the operations before it.
        signed_state: running hash of the signed bytes consumed so far.
        whole_state: running hash of all bytes of the file so far, or None if it was not asked for.
    """

    target: UUID
    metadata_sha256: bytes
    metadata_bytes: int
    version: str
    next_operation: int
    data_offset: int
    signed_state: bytes
    whole_state: bytes | None

    def to_bytes(self) -> bytes:
        """JSON with a checksum."""
        fields = asdict(self) | {"schema": _SCHEMA, "target": str(self.target)}
        for name in ("metadata_sha256", "signed_state", "whole_state"):
            fields[name] = fields[name].hex() if fields[name] is not None else None
        return seal(fields)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self | None:
        """The checkpoint, or None for anything that `to_bytes` did not write."""
        fields = unseal(data)
        if fields is None or fields.pop("schema", None) != _SCHEMA:
            return None
        # The checksum holds, so the fields are what to_bytes wrote; a file of a later version fails here.
        try:
            whole = fields["whole_state"]
            checkpoint = cls(
                target=UUID(fields["target"]),
                metadata_sha256=bytes.fromhex(fields["metadata_sha256"]),
                metadata_bytes=int(fields["metadata_bytes"]),
                version=str(fields["version"]),
                next_operation=int(fields["next_operation"]),
                data_offset=int(fields["data_offset"]),
                signed_state=bytes.fromhex(fields["signed_state"]),
                whole_state=None if whole is None else bytes.fromhex(whole),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return None
        counts = (checkpoint.metadata_bytes, checkpoint.next_operation, checkpoint.data_offset)
        return None if min(counts) < 0 else checkpoint


class CheckpointStore:
    """The one checkpoint of a disk."""

    def __init__(self, file: AtomicFile) -> None:
        self._file = file

    def load(self) -> Checkpoint | None:
        """The last one saved; None if there is none or it is damaged, which costs a fresh start and no more."""
        data = self._file.read(_FILE_BYTES_MAX)
        if data is None:
            return None
        checkpoint = Checkpoint.from_bytes(data)
        if checkpoint is None:
            _LOG.warning("the checkpoint of the last install is damaged; the download starts anew")
        return checkpoint

    def save(self, checkpoint: Checkpoint) -> None:
        """Durable on return."""
        self._file.replace(checkpoint.to_bytes())

    def clear(self) -> None:
        """No checkpoint, durable on return."""
        self._file.remove()


def seal(fields: dict[str, Any]) -> bytes:
    """JSON text, one line, followed by its SHA-256 in hex on a second line."""
    text = json.dumps(fields, sort_keys=True).encode()
    return text + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n"


def unseal(data: bytes) -> dict[str, Any] | None:
    """The fields of `seal`, or None if a byte is missing or differs."""
    text, _, checksum = data.partition(b"\n")
    if checksum != hashlib.sha256(text).hexdigest().encode() + b"\n":
        return None
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None
