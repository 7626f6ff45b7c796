"""What a person asks the payload builder for; a request that exists can be carried out, its images permitting."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from update_agent.domain.encode import BLOCK_BYTES, Compression
from update_agent.domain.signing import V1_SIGNATURES_MAX, Signers
from update_agent.domain.trust import P256_SIGNATURE_BYTES, RSA_KEY_BITS, SigningKey
from update_agent.errors import ConfigurationError, Kind
from update_agent.formats.manifest import PartName
from update_agent.formats.payload import MAX_SIGNATURES
from update_agent.host.blockdev import BlockDevice, FileDevice

VERSION_CHARACTERS_MAX: Final = 128

_WORKERS_MAX: Final = 1024

_SIGNATURES_MAX: Final = {1: V1_SIGNATURES_MAX, 2: MAX_SIGNATURES}

_LEVELS: Final = {
    Compression.ZSTD: range(1, 23),
    Compression.XZ: range(9),  # 9 wants more memory from a decoder than `formats.compression` grants
    Compression.BZIP2: range(1, 10),
    Compression.NONE: range(0),
}


def _refusal(message: str, hint: str) -> ConfigurationError:
    return ConfigurationError(Kind.CONFIGURATION, message, hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One payload to build.

    Attributes:
        usr: image of the USR partition.
        kernel: kernel file that goes with it.
        pcr_policy: PCR policy archive; major version 1 only.
        version: release that the payload holds; written into major version 2 only.
        keys: private keys that sign it, in order.
        signature_sizes: bytes of each signature to leave room for, when it is signed elsewhere and `keys` is empty.
        major: version of the container, 1 or 2.
        compression: how blobs are packed.
        level: of the compression; None for its default.
        source_usr: image that a delta starts from; None for a full payload.
        output: the payload to write.
        workers: threads.
    """

    usr: Path
    version: str
    output: Path
    kernel: Path | None = None
    pcr_policy: Path | None = None
    keys: tuple[SigningKey, ...] = ()
    signature_sizes: tuple[int, ...] = ()
    major: int = 2
    compression: Compression = Compression.ZSTD
    level: int | None = None
    source_usr: Path | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            ConfigurationError: configuration.
        """
        if self.major not in {1, 2}:
            raise _refusal(f"payload: expected major version 1 or 2, got {self.major}", "choose one of them")
        text = self.version
        if not (0 < len(text) <= VERSION_CHARACTERS_MAX and text.isascii() and text.isprintable() and text.strip()):
            raise _refusal(
                f"version: expected 1 to {VERSION_CHARACTERS_MAX} printable ASCII characters, got {text[:32]!r}",
                "use the VERSION of the image's os-release",
            )
        if not 1 <= self.workers <= _WORKERS_MAX:
            raise _refusal(f"workers: expected 1 to {_WORKERS_MAX}, got {self.workers}", "use the number of cores")
        if self.level is not None and self.level not in _LEVELS[self.compression]:
            raise _refusal(
                f"compression: level {self.level} is not one of {self.compression}", "leave it out for the default"
            )
        self._check_signatures()
        if self.major == 1:
            self._check_v1()
        elif self.pcr_policy is not None:
            raise _refusal(
                "pcr-policy: expected none in major version 2, got a file", "leave it out, or build major version 1"
            )

    def _check_signatures(self) -> None:
        if bool(self.keys) == bool(self.signature_sizes):
            raise _refusal(
                "payload: expected keys to sign with, or sizes of signatures made elsewhere; got both or neither",
                "nothing installs a payload without a signature: give a key, or the sizes",
            )
        if max(len(self.keys), len(self.signature_sizes)) > _SIGNATURES_MAX[self.major]:
            raise _refusal(
                f"payload: expected at most {_SIGNATURES_MAX[self.major]} signatures in major version {self.major}, "
                "got more",
                "use fewer keys",
            )
        for size in self.signature_sizes:
            if size * 8 not in RSA_KEY_BITS and size != P256_SIGNATURE_BYTES:
                raise _refusal(
                    f"signature: expected the bytes of an RSA or P-256 signature, got {size}",
                    f"256 bytes for RSA with 2048 bits, 512 with 4096; {P256_SIGNATURE_BYTES} for P-256",
                )

    def _check_v1(self) -> None:
        if self.compression not in {Compression.BZIP2, Compression.NONE}:
            raise _refusal(
                f"compression: expected bzip2 or none in major version 1, got {self.compression}",
                "choose bzip2, or build major version 2",
            )
        if self.source_usr is not None:
            raise _refusal(
                "delta: expected major version 2, got 1", "build major version 2, or leave the source image out"
            )
        if P256_SIGNATURE_BYTES in self.signers.sizes:
            raise _refusal(
                "key: expected RSA in major version 1, got P-256", "use an RSA key, or build major version 2"
            )

    @property
    def signers(self) -> Signers:
        """Who signs it, now or later."""
        if self.keys:
            return Signers.here(self.keys, major=self.major)
        return Signers.elsewhere(self.signature_sizes, major=self.major)

    @property
    def images(self) -> tuple[tuple[PartName, Path], ...]:
        """The parts that there are, in the order of execution."""
        named = ((PartName.USR, self.usr), (PartName.KERNEL, self.kernel), (PartName.PCR_POLICY, self.pcr_policy))
        return tuple((name, path) for name, path in named if path is not None)

    def check_images(self, images: Mapping[PartName, FileDevice], old: FileDevice | None) -> None:
        """Refuse images that cannot be parts, and an output that would replace one.

        Raises:
            ConfigurationError: configuration.
        """
        for image in (*images.values(), *(() if old is None else (old,))):
            if self.output.exists() and self.output.samefile(image.path):
                raise _refusal(f"output: {self.output} is an image that is read", "choose another output")
            if not image.size_bytes:
                raise _refusal(f"{image.name}: expected content, got an empty file", "check how it was made")
        _check_whole_blocks(images[PartName.USR])
        if old is not None:
            _check_whole_blocks(old)


def _check_whole_blocks(image: BlockDevice) -> None:
    if image.size_bytes % BLOCK_BYTES:
        raise _refusal(
            f"{image.name}: expected a multiple of {BLOCK_BYTES} bytes, got {image.size_bytes}",
            f"pad the image: truncate --size=%{BLOCK_BYTES} FILE",
        )
