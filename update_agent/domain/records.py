"""What is in each slot, as far as the agent put it there.

The GPT says what boots; it has no room for a version. The record is kept beside the checkpoint, keyed by the unique
GUID of the partition, and says "incomplete" from before the first byte of a slot changes until all of it was verified,
so that nobody activates half a release by hand.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final
from uuid import UUID

from update_agent.domain.checkpoint import AtomicFile, seal, unseal

_SCHEMA: Final = 1
_FILE_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRecord:
    """One slot's content.

    Attributes:
        version: release, or empty if unknown.
        sha256: hash of the content in hex, or empty if unknown.
        size_bytes: length of the content.
        installed_at: RFC 3339 time in UTC.
        is_complete: all of it was written and verified.
    """

    version: str
    sha256: str
    size_bytes: int
    installed_at: str
    is_complete: bool


class SlotRecords:
    """The records of one disk, in one file."""

    def __init__(self, file: AtomicFile) -> None:
        self._file = file

    def load(self) -> Mapping[UUID, SlotRecord]:
        """By partition GUID; empty if there is no file or it is damaged: then nothing is known, and nothing lost."""
        data = self._file.read(_FILE_BYTES_MAX)
        fields = unseal(data) if data is not None else None
        if fields is None or fields.get("schema") != _SCHEMA:
            return {}
        try:
            return {UUID(guid): _parse_record(record) for guid, record in fields["slots"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return {}

    def get(self, partition: UUID) -> SlotRecord | None:
        """The record of one slot, or None if nothing is known about it."""
        return self.load().get(partition)

    def put(self, partition: UUID, record: SlotRecord) -> None:
        """Durable on return."""
        self._save({**self.load(), partition: record})

    def mark_incomplete(self, partition: UUID, version: str, now: str) -> None:
        """Durable on return: the slot is about to change."""
        record = SlotRecord(version=version, sha256="", size_bytes=0, installed_at=now, is_complete=False)
        if (known := self.get(partition)) is None or replace(known, installed_at=now) != record:
            self.put(partition, record)

    def _save(self, records: Mapping[UUID, SlotRecord]) -> None:
        slots = {str(guid): asdict(record) for guid, record in records.items()}
        self._file.replace(seal({"schema": _SCHEMA, "slots": slots}))


def _parse_record(fields: Mapping[str, Any]) -> SlotRecord:
    return SlotRecord(
        version=str(fields["version"]),
        sha256=str(fields["sha256"]),
        size_bytes=int(fields["size_bytes"]),
        installed_at=str(fields["installed_at"]),
        is_complete=bool(fields["is_complete"]),
    )
