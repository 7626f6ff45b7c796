"""The limits and identities of everything that goes over HTTP."""

from dataclasses import dataclass, field
from pathlib import Path

from update_agent.errors import ConfigurationError, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSettings:
    """How patient, how fast, how much, and as whom.

    Attributes:
        connect_timeout_secs: per address, TCP and TLS handshake each.
        stall_bytes_per_sec: less than this over `stall_secs` ends an attempt.
        stall_secs: also the longest wait for the headers of an answer.
        max_redirects: how many are followed for one request.
        max_failures_per_url: failures in a row, without a new byte in between, until the next URL is used.
        retry_delay_secs: before the first repetition; doubles with each failure.
        retry_delay_max_secs: the longest delay.
        max_bytes: the longest payload.
        rate_limit_bytes_per_sec: None for as fast as it goes.
        proxy: URL of a proxy for everything, "" for none, None for what the environment says.
        ca_file: file or folder with the trusted certificates, None for those of the system.
        client_cert: PEM file with certificate and key for the server to check.
        user: sent over https to the host of the URL only, never to where it redirects.
        password: belongs to `user`.

    Raises:
        ConfigurationError: configuration, when a value makes no sense.
    """

    connect_timeout_secs: float = 30.0
    stall_bytes_per_sec: float = 10.0
    stall_secs: float = 90.0
    max_redirects: int = 10
    max_failures_per_url: int = 10
    retry_delay_secs: float = 1.0
    retry_delay_max_secs: float = 30.0
    max_bytes: int = 16 << 30
    rate_limit_bytes_per_sec: int | None = None
    proxy: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    client_cert: Path | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        positive = ("connect_timeout_secs", "stall_secs", "max_failures_per_url", "max_bytes")
        natural = ("stall_bytes_per_sec", "max_redirects", "retry_delay_secs", "retry_delay_max_secs")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigurationError(Kind.CONFIGURATION, f"{name}: expected more than 0, got {getattr(self, name)}")
        for name in natural:
            if not getattr(self, name) >= 0:
                raise ConfigurationError(Kind.CONFIGURATION, f"{name}: expected 0 or more, got {getattr(self, name)}")
        rate = self.rate_limit_bytes_per_sec
        if rate is not None and rate < 1024:
            raise ConfigurationError(
                Kind.CONFIGURATION, f"rate_limit_bytes_per_sec: expected at least 1024, got {rate}"
            )
