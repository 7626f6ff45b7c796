"""A payload as a stream: cut into its pieces and hashed on the way, in bounded memory.

    header, manifest | metadata signature | blobs | payload signature
    signed             not signed           signed  not signed

The whole-file hash covers all four (the update server announces it), the signed hash only what the key has signed.
"""

from collections.abc import Iterator
from pathlib import Path

from update_agent.errors import FormatError, Kind, VerificationError
from update_agent.host.sha256 import RunningHash, new_hash
from update_agent.host.spool import MEMORY_BLOB_BYTES_MAX, Blob, MemoryBlob, SpooledBlob


class PayloadHashes:
    """The two hashes over what was consumed; the second only if somebody wants it."""

    def __init__(
        self, *, signed: RunningHash | None = None, whole: RunningHash | None = None, track_whole: bool
    ) -> None:
        self._signed = signed or new_hash()
        self._whole = whole
        # Until the first unsigned byte both hashes are the same; one of them is work enough.
        self._whole_follows = track_whole and whole is None

    def take_signed(self, data: bytes) -> None:
        """Bytes that the signature covers."""
        self._signed.update(data)
        if self._whole is not None:
            self._whole.update(data)

    def take_unsigned(self, data: bytes) -> None:
        """Bytes of the file that the signature does not cover."""
        if self._whole_follows:
            self._whole, self._whole_follows = self._signed.copy(), False
        if self._whole is not None:
            self._whole.update(data)

    @property
    def signed_digest(self) -> bytes:
        """What the payload signature signs, once all blobs went through."""
        return self._signed.digest()

    @property
    def whole_digest(self) -> bytes | None:
        """SHA-256 of the file so far, or None if it is not tracked."""
        if self._whole_follows:
            return self._signed.digest()
        return None if self._whole is None else self._whole.digest()

    def states(self) -> tuple[bytes, bytes | None] | None:
        """(signed, whole) to save, or None where the machine cannot save a hash."""
        signed = self._signed.state()
        if signed is None:
            return None
        if self._whole_follows:
            return signed, signed
        return signed, None if self._whole is None else self._whole.state()


class PayloadStream:
    """Takes exact lengths from an iterator of chunks; every byte goes through the hashes once."""

    def __init__(self, chunks: Iterator[bytes], hashes: PayloadHashes, *, position: int = 0) -> None:
        self._chunks = chunks
        self._hashes = hashes
        self._chunk = b""
        self._used = 0
        self._position = position

    @property
    def position(self) -> int:
        """Bytes of the file consumed so far, counted from its start."""
        return self._position

    def take(self, length: int) -> bytes:
        """Exactly `length` bytes, hashed as signed.

        The caller bounds `length`.

        Raises:
            FormatError: payload-truncated.
        """
        data = self.take_unhashed(length)
        self._hashes.take_signed(data)
        return data

    def take_unsigned(self, length: int) -> bytes:
        """Exactly `length` bytes that the signature does not cover."""
        data = self.take_unhashed(length)
        self._hashes.take_unsigned(data)
        return data

    def take_unhashed(self, length: int) -> bytes:
        """Exactly `length` bytes; the caller hashes them when it knows what they are."""
        pieces = []
        missing = length
        while missing:
            if not self._refill():
                raise FormatError(
                    Kind.PAYLOAD_TRUNCATED,
                    f"payload: expected at least {self._position + length} bytes, "
                    f"got {self._position + length - missing}",
                    hint="the download was cut short, or the file is not complete",
                )
            pieces.append(self._chunk[self._used : self._used + missing])
            self._used += len(pieces[-1])
            missing -= len(pieces[-1])
        self._position += length
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def take_blob(self, length: int, spool_folder: Path) -> Blob:
        """The next `length` bytes as a blob, in memory if it is small."""
        if length <= MEMORY_BLOB_BYTES_MAX:
            return MemoryBlob(self.take(length))
        blob = SpooledBlob(spool_folder)
        try:
            for start in range(0, length, MEMORY_BLOB_BYTES_MAX):
                blob.append(self.take(min(MEMORY_BLOB_BYTES_MAX, length - start)))
        except BaseException:
            blob.close()
            raise
        return blob

    def expect_end(self) -> None:
        """Refuse bytes after the end.

        Raises:
            VerificationError: payload-size.
        """
        if self._refill():
            raise VerificationError(
                Kind.PAYLOAD_SIZE, f"payload: expected {self._position} bytes, got more", hint="get the file again"
            )

    def _refill(self) -> bool:
        if self._used == len(self._chunk):
            self._chunk, self._used = next(self._chunks, b""), 0
        return self._used < len(self._chunk)
