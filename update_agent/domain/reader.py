"""Reading a payload so that nothing of it is believed before its time.

    1. The header is read and its sizes are bounded.
    2. Version 2: the metadata signature is verified over header and manifest, before the manifest is parsed.
    3. The manifest is parsed; sizes must add up to the size of the file, where that is known.
    4. Each blob is compared with its hash in the manifest, by whoever takes it.
    5. The payload signature is verified over all signed bytes; the file must end there, and its SHA-256 must be the
       announced one, if one was announced.

A version 1 manifest is unsigned until step 5, so what it says is checked, bounded and written only to a slot that
cannot boot.
"""

import contextlib
import hashlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from update_agent.domain.checkpoint import Checkpoint
from update_agent.domain.stream import PayloadHashes, PayloadStream
from update_agent.domain.trust import KeyRing
from update_agent.errors import FormatError, Kind, VerificationError
from update_agent.formats.manifest import Manifest
from update_agent.formats.payload import HEADER_MAX_BYTES, Header, signatures_from_bytes, v1_signatures_from_bytes
from update_agent.host.sha256 import resume_hash
from update_agent.host.spool import Blob
from update_agent.net.source import PayloadSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the update server announced; None where it said nothing.

    Attributes:
        sha256: hash of the whole file, 32 bytes.
        size_bytes: length of the file.
        version: release that the payload is said to hold.
    """

    sha256: bytes | None = None
    size_bytes: int | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What held when the payload had been read to its end.

    Attributes:
        key: name of the trusted key whose payload signature holds.
        size_bytes: length of the file.
        signed_sha256: hash of the signed bytes.
    """

    key: str
    size_bytes: int
    signed_sha256: bytes


class PayloadReader:
    """One pass over one payload: `begin`, perhaps `resume`, take all blobs, `finish`; always `close`."""

    def __init__(self, source: PayloadSource, keyring: KeyRing, expectation: Expectation) -> None:
        self._source = source
        self._keyring = keyring
        self._expectation = expectation
        self._hashes = PayloadHashes(track_whole=expectation.sha256 is not None)
        self._chunks: Iterator[bytes] = iter(())
        self._stream = PayloadStream(self._chunks, self._hashes)
        self._is_cut = False
        self._data_start = 0
        self._metadata_sha256 = b""

    @property
    def metadata_sha256(self) -> bytes:
        """Hash of header and manifest; known after `begin`."""
        return self._metadata_sha256

    @property
    def metadata_bytes(self) -> int:
        """How many bytes come before the first blob; known after `begin`."""
        return self._data_start

    @property
    def data_offset(self) -> int:
        """Bytes of blobs consumed so far."""
        return self._stream.position - self._data_start

    def begin(self, metadata_bytes: int | None = None) -> Manifest:
        """Steps 1 to 3.

        Args:
            metadata_bytes: how much comes before the first blob, if an earlier attempt has noted it: then no more is
                fetched, for what follows was fetched before. Call `resume` next.

        Raises:
            FormatError: the payload is none.
            VerificationError: signature-missing, signature-invalid, payload-size.
            TransferError: from the source.
        """
        if metadata_bytes is not None:
            try:
                return self._begin(metadata_bytes)
            except FormatError as error:
                if error.kind is not Kind.PAYLOAD_TRUNCATED:
                    raise
                # Another payload is there now, and its metadata is longer.
                self._hashes = PayloadHashes(track_whole=self._expectation.sha256 is not None)
        return self._begin(None)

    def _begin(self, end: int | None) -> Manifest:
        self._open(0, end)
        head = self._stream.take_unhashed(HEADER_MAX_BYTES)
        header = Header.from_bytes(head)  # step 1
        if header.metadata_size < len(head):
            raise FormatError(
                Kind.PAYLOAD_MALFORMED, f"payload: expected a manifest, got {header.manifest_size} bytes of one"
            )
        self._data_start = header.data_start
        metadata = head + self._stream.take_unhashed(header.metadata_size - len(head))
        self._hashes.take_signed(metadata)
        self._metadata_sha256 = hashlib.sha256(metadata).digest()
        if header.major > 1:  # step 2
            signature = self._stream.take_unsigned(header.metadata_signature_size)
            signatures = signatures_from_bytes(signature)
            self._keyring.verify(self._metadata_sha256, signatures, major=header.major, what="metadata")
        manifest = Manifest.from_bytes(metadata[header.size_bytes :], header.major)  # step 3
        self._check_size(manifest)
        return manifest

    def _check_size(self, manifest: Manifest) -> None:
        if manifest.signatures_offset is None or manifest.signatures_size is None:
            raise VerificationError(Kind.SIGNATURE_MISSING, "payload: expected a signature, the manifest names none")
        size = self._data_start + manifest.blob_bytes + manifest.signatures_size
        for said in (self._expectation.size_bytes, self._source.size_bytes):
            if said is not None and said != size:
                raise VerificationError(
                    Kind.PAYLOAD_SIZE,
                    f"payload: expected {size} bytes by its manifest, got {said}",
                    hint="the file is incomplete or has something appended; get it again",
                )

    def resume(self, checkpoint: Checkpoint | None) -> bool:
        """Go on at the checkpoint, if it is one of this payload, else at the first blob.

        Returns:
            Whether it is, and the hash can be taken up here.
        """
        if checkpoint is not None and self._take_up(checkpoint):
            self._open(self._data_start + checkpoint.data_offset)
            return True
        if self._is_cut:
            self._open(self._data_start)
        return False

    def _take_up(self, checkpoint: Checkpoint) -> bool:
        if checkpoint.metadata_sha256 != self._metadata_sha256:
            return False
        wants_whole = self._expectation.sha256 is not None
        if wants_whole and checkpoint.whole_state is None:
            return False
        signed = resume_hash(checkpoint.signed_state)
        whole = resume_hash(checkpoint.whole_state) if checkpoint.whole_state is not None and wants_whole else None
        if signed is None or (wants_whole and whole is None):
            return False
        self._hashes = PayloadHashes(signed=signed, whole=whole, track_whole=wants_whole)
        return True

    def take_blob(self, length: int, spool_folder: Path) -> Blob:
        """The next blob; step 4 is the caller's (`apply.verify_blob`)."""
        return self._stream.take_blob(length, spool_folder)

    def hash_states(self) -> tuple[bytes, bytes | None] | None:
        """(signed, whole) hash states for a checkpoint, or None where the machine cannot save them."""
        return self._hashes.states()

    def finish(self, manifest: Manifest) -> Proof:
        """Step 5, after the last blob.

        Raises:
            VerificationError: payload-size, payload-hash, signature-missing, signature-invalid.
        """
        signed_sha256 = self._hashes.signed_digest
        signature = self._stream.take_unsigned(manifest.signatures_size or 0)
        self._stream.expect_end()
        expected = self._expectation.sha256
        if expected is not None and self._hashes.whole_digest != expected:
            raise VerificationError(
                Kind.PAYLOAD_HASH,
                f"payload: expected SHA-256 {expected.hex()}, got {(self._hashes.whole_digest or b'').hex()}",
                hint="the update server announced another file than it serves",
            )
        parse = v1_signatures_from_bytes if manifest.major == 1 else signatures_from_bytes
        key = self._keyring.verify(signed_sha256, parse(signature), major=manifest.major, what="payload")
        return Proof(key=key, size_bytes=self._stream.position, signed_sha256=signed_sha256)

    def close(self) -> None:
        """End the transfer, if one is under way."""
        if isinstance(self._chunks, Generator):
            self._chunks.close()

    def _open(self, position: int, end: int | None = None) -> None:
        self.close()
        self._is_cut = end is not None
        self._chunks = self._source.open(position, end)
        self._stream = PayloadStream(self._chunks, self._hashes, position=position)


@contextlib.contextmanager
def reading(source: PayloadSource, keyring: KeyRing, expectation: Expectation) -> Iterator[PayloadReader]:
    """A reader whose transfer ends with the block."""
    reader = PayloadReader(source, keyring, expectation)
    try:
        yield reader
    finally:
        reader.close()
