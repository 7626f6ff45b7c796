"""The payloads in a folder: which versions there are, and what is announced about each.

A file is read once, when it first appears or has changed; hashing a large one takes seconds, so requests that come
meanwhile are answered from what was known before.
"""

import base64
import hashlib
import logging
import os
import re
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from update_agent.errors import ConfigurationError, FormatError, Kind, UpdateAgentError
from update_agent.formats.manifest import Manifest
from update_agent.formats.payload import HEADER_MAX_BYTES, Header
from update_agent.formats.release import Version

_LOG = logging.getLogger(__name__)

SUFFIXES: Final = (".payload", ".gz")
"""Flatcar's payloads are called update.gz, though nothing in them is gzip."""

_READ_BYTES: Final = 1 << 20

Identity = tuple[int, int, int]
"""Size in bytes, modification time in nanoseconds, inode: when all are the same, so is the content."""


def identity_of(status: os.stat_result) -> Identity:
    """What tells one content of a file from another."""
    return status.st_size, status.st_mtime_ns, status.st_ino


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One payload that can be offered.

    Attributes:
        path: where it lies.
        version: signed in the manifest, or from the file name in major version 1.
        sha1: of the file, 20 bytes.
        sha256: of the file, 32 bytes.
        identity: of the content that was hashed.
    """

    path: Path
    version: Version
    sha1: bytes
    sha256: bytes
    identity: Identity

    @property
    def name(self) -> str:
        """The file name."""
        return self.path.name

    @property
    def size_bytes(self) -> int:
        """How long the payload is."""
        return self.identity[0]

    @property
    def modified_secs(self) -> int:
        """When the file was last written, in Unix time."""
        return self.identity[1] // 1_000_000_000

    @property
    def sha1_base64(self) -> str:
        """As Omaha writes it."""
        return base64.b64encode(self.sha1).decode("ascii")

    @property
    def sha256_base64(self) -> str:
        """As Omaha writes it."""
        return base64.b64encode(self.sha256).decode("ascii")


class Catalog:
    """The releases in one folder; for many threads."""

    def __init__(self, folder: Path) -> None:
        """Read `folder` for the first time.

        Raises:
            ConfigurationError: usage, when it cannot be listed.
        """
        self._folder = folder
        self._scanning = threading.Lock()
        self._known: dict[str, tuple[Identity, Release | None]] = {}
        try:
            self._scan()
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise ConfigurationError(Kind.USAGE, f"{folder}: cannot list the folder: {reason}") from error

    def newest(self) -> Release | None:
        """The release with the highest version; of two with the same one, the first by name."""
        releases = [release for _, release in self._refreshed().values() if release is not None]
        releases.sort(key=lambda release: release.name)
        return max(releases, key=lambda release: release.version, default=None)

    def find(self, name: str) -> Release | None:
        """The release in the file called `name`."""
        return self._refreshed().get(name, (None, None))[1]

    def _refreshed(self) -> dict[str, tuple[Identity, Release | None]]:
        if self._scanning.acquire(blocking=False):
            try:
                self._scan()
            except OSError as error:
                _LOG.error("%s: cannot list the folder: %s", self._folder, os.strerror(error.errno or 0).lower())
            finally:
                self._scanning.release()
        return self._known

    def _scan(self) -> None:
        known: dict[str, tuple[Identity, Release | None]] = {}
        with os.scandir(self._folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(SUFFIXES))
        for name in names:
            path = self._folder / name
            try:
                identity = identity_of(path.stat())
                before = self._known.get(name)
                known[name] = before if before is not None and before[0] == identity else (identity, _read(path))
            except OSError as error:
                _LOG.warning("%s: skipped: %s", path, os.strerror(error.errno or 0).lower())
        # Readers take the whole dictionary at once.
        self._known = known


def _read(path: Path) -> Release | None:
    """The release in `path`, or None, and a line in the log, if that is no complete payload."""
    # O_NONBLOCK: opening a FIFO would wait for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb", buffering=0) as file:
        status = os.fstat(fd)
        try:
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(Kind.PAYLOAD_MALFORMED, "payload: expected a regular file, got something else")
            version = _version(path, file)
            sha1, sha256 = _hashes(file)
        except UpdateAgentError as error:
            _LOG.warning("%s: skipped: %s%s", path, error.message, f" ({error.hint})" if error.hint else "")
            return None
        if identity_of(os.fstat(fd)) != identity_of(status):
            _LOG.warning("%s: skipped: the file is being written", path)
            return None
    _LOG.info("%s: version %s, %d bytes", path, version, status.st_size)
    return Release(path=path, version=version, sha1=sha1, sha256=sha256, identity=identity_of(status))


def _version(path: Path, file: BinaryIO) -> Version:
    header = Header.from_bytes(file.read(HEADER_MAX_BYTES))
    file.seek(header.size_bytes)
    encoded = file.read(header.manifest_size)
    if len(encoded) < header.manifest_size:
        raise _truncated()
    manifest = Manifest.from_bytes(encoded, header.major)
    signed_bytes = (manifest.signatures_offset or 0) + (manifest.signatures_size or 0)
    if os.fstat(file.fileno()).st_size < header.data_start + signed_bytes:
        raise _truncated()
    return version_in_name(path.name) if manifest.version is None else Version.parse(manifest.version)


def _truncated() -> FormatError:
    return FormatError(Kind.PAYLOAD_TRUNCATED, "payload: expected more bytes, the file ends before the payload does")


def version_in_name(name: str) -> Version:
    """The version in a file name such as NAME-4152.2.1.payload: from a hyphen before a digit up to the suffix.

    Raises:
        FormatError: version-malformed.
    """
    stem = next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)
    for match in re.finditer(r"-(?=[0-9])", stem):
        try:
            return Version.parse(stem[match.end() :])
        except FormatError:
            continue
    raise FormatError(
        Kind.VERSION_MALFORMED,
        f"payload: expected a version in the file name, got {name!r}",
        hint="a payload of major version 1 has no version inside: call the file NAME-VERSION.payload",
    )


def _hashes(file: BinaryIO) -> tuple[bytes, bytes]:
    # SHA-1 is what the protocol has; nobody relies on it.
    sha1, sha256 = hashlib.sha1(usedforsecurity=False), hashlib.sha256()
    file.seek(0)
    while chunk := file.read(_READ_BYTES):
        sha1.update(chunk)
        sha256.update(chunk)
    return sha1.digest(), sha256.digest()
