"""What the settings of a job mean for keys and transfers; in the child process only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from update_agent.config.settings import TransferSection
from update_agent.domain.trust import KeyRing
from update_agent.errors import Kind, VerificationError
from update_agent.net.settings import TransferSettings

_NO_PROXY: Final = "none"


def load_keys(places: Sequence[Path]) -> KeyRing:
    """All keys of the files and folders that exist.

    Raises:
        VerificationError: key-missing, when there is none or one cannot be read.
        FormatError: key-malformed.
    """
    usable = [place for place in places if (any(place.glob("*.pem")) if place.is_dir() else place.exists())]
    if not usable:
        raise VerificationError(
            Kind.KEY_MISSING,
            f"public keys: expected at least one in {', '.join(map(str, places)) or 'install.public_keys'}, got none",
            hint="install the public key of whoever signs your updates; without it there are none",
        )
    return KeyRing([key for place in usable for key in KeyRing.load(place).keys])


def transfer_settings(section: TransferSection, *, max_failures_per_url: int = 0) -> TransferSettings:
    """The settings of the network; `max_failures_per_url` is what the update server wants, 0 if it did not say.

    Raises:
        ConfigurationError: configuration.
    """
    defaults = TransferSettings()
    return TransferSettings(
        connect_timeout_secs=section.connect_timeout_secs,
        stall_secs=section.stall_secs,
        max_bytes=section.max_size_bytes,
        rate_limit_bytes_per_sec=section.limit_rate_bytes_per_sec or None,
        max_failures_per_url=section.max_failures_per_url or max_failures_per_url or defaults.max_failures_per_url,
        proxy="" if section.proxy == _NO_PROXY else section.proxy or None,
        ca_file=Path(section.ca) if section.ca else None,
        client_cert=Path(section.client_cert) if section.client_cert else None,
        user=section.user or None,
        password=section.password or None,
    )
