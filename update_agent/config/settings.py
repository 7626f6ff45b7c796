"""Every setting, with its default, its unit, its range and what it is for; the manual is made from this.

A setting is `section.key` in a fragment file. What a value may be is said here once: `Settings.of` checks it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum, unique
from types import MappingProxyType
from typing import Any, Final

from update_agent.config.defaults import DEFAULT_APP_ID, DEFAULT_SERVER
from update_agent.config.schema import (
    ABSOLUTE_PATH,
    HOST_PORT,
    PROXY_URL,
    RATE,
    SERVER_URL,
    URL,
    Rule,
    Setting,
    describe,
    unknown_key,
)
from update_agent.domain.health import HealthMode


@unique
class PostInstall(StrEnum):
    """What becomes of the `postinst` of a new release."""

    IF_PRESENT = "if-present"
    REQUIRED = "required"
    NEVER = "never"


@unique
class Strategy(StrEnum):
    """Who decides when the machine reboots into an update."""

    OFF = "off"
    REBOOT = "reboot"
    ETCD_LOCK = "etcd-lock"
    FLEET_LOCK = "fleet-lock"


def setting(
    default: Any,
    text: str,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
    secret: bool = False,
    rule: Rule | None = None,
) -> Any:
    """A field that says what it is for."""
    metadata = {"text": text, "minimum": minimum, "maximum": maximum, "secret": secret, "rule": rule}
    return field(default=default, metadata=metadata, repr=not secret)


_DAY: Final = 24 * 60 * 60
_WEEK: Final = 7 * _DAY
_TIB: Final = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Whom to ask, and as what."""

    url: str = setting(DEFAULT_SERVER, "update server (Omaha protocol); 'disabled' asks nobody", rule=SERVER_URL)
    app_id: str = setting(DEFAULT_APP_ID, "application to ask for")
    channel: str = setting("stable", "what to follow; the server knows it as group or track")
    board: str = setting("", "such as amd64-usr; empty takes it from the machine")
    machine_alias: str = setting("", "a name for this node that the server shows")
    running_version: str = setting("", "release that runs; empty takes it from the running system")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSettings:
    """When to ask."""

    automatic: bool = setting(True, "ask by itself; otherwise only when told to")
    first_delay_secs: int = setting(420, "from the start of the service to the first check", minimum=0, maximum=_WEEK)
    interval_secs: int = setting(2700, "between checks", minimum=10, maximum=_WEEK)
    jitter_secs: int = setting(
        600, "width of the random shift of each check, half before and half after", minimum=0, maximum=_WEEK
    )
    interval_max_secs: int = setting(
        14400, "the longest interval that the server or its errors can make", minimum=10, maximum=_WEEK
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallSettings:
    """What may be installed, and how."""

    automatic: bool = setting(True, "install what a check by itself finds; otherwise only say so")
    allow_downgrade: bool = setting(False, "also an older release")
    allow_same_version: bool = setting(False, "also the release that runs")
    public_keys: tuple[str, ...] = setting(
        (
            "/etc/update-agent/keys",
            "/usr/share/update-agent/keys",
            "/usr/share/update_engine/update-payload-key.pub.pem",
        ),
        "files and folders with trusted keys; those that exist all count, and without any nothing is installed",
        rule=ABSOLUTE_PATH,
    )
    boot_dir: str = setting(
        "", "where vmlinuz-a and vmlinuz-b are; empty finds /boot/coreos or /boot/flatcar", rule=ABSOLUTE_PATH
    )
    skip_kernel: bool = setting(False, "do not install a payload's kernel: the boot loader takes it from elsewhere")
    workers: int = setting(0, "threads that decompress and write; 0 for one per core", minimum=0, maximum=1024)
    nice: int = setting(10, "how far the install steps back for other programs", minimum=0, maximum=19)
    postinstall: PostInstall = setting(
        PostInstall.IF_PRESENT, "run the postinst of the new release: if-present, required or never"
    )
    postinstall_timeout_secs: int = setting(1800, "until the postinst is ended", minimum=1, maximum=_DAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSection:
    """How data is fetched."""

    connect_timeout_secs: int = setting(30, "per address", minimum=1, maximum=_DAY)
    stall_secs: int = setting(
        90, "a transfer below 10 bytes per second for so long is given up", minimum=1, maximum=_DAY
    )
    limit_rate_bytes_per_sec: int = setting(0, "0 for as fast as it goes", minimum=0, maximum=_TIB, rule=RATE)
    max_size_bytes: int = setting(16 << 30, "refuse a larger payload", minimum=1, maximum=_TIB)
    max_failures_per_url: int = setting(
        0,
        "attempts without a new byte until a URL is given up; 0 takes what the server says, else 10",
        minimum=0,
        maximum=1024,
    )
    proxy: str = setting(
        "", "URL of a proxy for everything, 'none' for none; empty takes the environment's", secret=True, rule=PROXY_URL
    )
    ca: str = setting("", "file or folder with certificates to trust instead of the system's", rule=ABSOLUTE_PATH)
    client_cert: str = setting(
        "",
        "PEM file with certificate and key; empty takes the credential update-agent.client-cert if there is one",
        rule=ABSOLUTE_PATH,
    )
    user: str = setting(
        "", "for payloads over https; empty takes the credential update-agent.download-user if there is one"
    )
    password: str = setting("", "belongs to user; better the credential update-agent.download-password", secret=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """When a boot counts as good, and what happens when it does not."""

    mode: HealthMode = setting(
        HealthMode.CHECKS,
        "checks, timer (a boot is good after timer_secs, as update_engine has it), or off (somebody else marks it)",
    )
    settle_secs: int = setting(30, "for so long all checks must hold", minimum=0, maximum=_DAY)
    interval_secs: int = setting(10, "between two rounds of checks", minimum=1, maximum=_DAY)
    check_timeout_secs: int = setting(60, "until one check is ended and counts as failed", minimum=1, maximum=_DAY)
    deadline_secs: int = setting(900, "from the start of the boot until it counts as bad", minimum=10, maximum=_WEEK)
    timer_secs: int = setting(45, "with mode timer: from the start of the service", minimum=0, maximum=_DAY)
    fall_back: bool = setting(True, "reboot into the other slot when the boot is bad and the other slot is good")
    folders: tuple[str, ...] = setting(
        ("/usr/lib/update-agent/health.d", "/run/update-agent/health.d", "/etc/update-agent/health.d"),
        "executables in them are the checks; a later folder's file replaces one of the same name",
        rule=ABSOLUTE_PATH,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """Where metrics are shown, in the text format of Prometheus."""

    socket: str = setting(
        "/run/update-agent/metrics.sock", "Unix socket that answers HTTP; empty for none", rule=ABSOLUTE_PATH
    )
    listen: str = setting("", "HOST:PORT that answers HTTP; empty for none", rule=HOST_PORT)
    textfile: str = setting("", "file for node_exporter's textfile collector; empty for none", rule=ABSOLUTE_PATH)


@dataclass(frozen=True, slots=True, kw_only=True)
class RebootSettings:
    """When to reboot into an update.

    The agent does not act on them yet: locksmithd, FLUO or kured do, or a person. They are read so that one set of
    files configures both.
    """

    strategy: Strategy = setting(Strategy.OFF, "off, reboot, etcd-lock or fleet-lock")
    group: str = setting("", "nodes that share a semaphore; empty for the default one")
    window_start: str = setting("", "such as 'Thu 04:00'")
    window_length: str = setting("", "such as 1h30m")
    etcd_endpoints: tuple[str, ...] = setting((), "URLs of the etcd servers", rule=URL)
    etcd_ca: str = setting("", "certificates to trust", rule=ABSOLUTE_PATH)
    etcd_cert: str = setting("", "certificate to identify with", rule=ABSOLUTE_PATH)
    etcd_key: str = setting("", "its key", rule=ABSOLUTE_PATH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of them, valid."""

    server: ServerSettings = field(default_factory=ServerSettings)
    check: CheckSettings = field(default_factory=CheckSettings)
    install: InstallSettings = field(default_factory=InstallSettings)
    transfer: TransferSection = field(default_factory=TransferSection)
    health: HealthSettings = field(default_factory=HealthSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    reboot: RebootSettings = field(default_factory=RebootSettings)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Settings":
        """Settings from `section.key` → value as TOML or JSON has it; what is not named has its default.

        Raises:
            ConfigurationError: configuration, naming the key.
        """
        sections: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            if key not in SETTINGS:
                raise unknown_key(key, SETTINGS)
            section, _, name = key.partition(".")
            sections.setdefault(section, {})[name] = SETTINGS[key].check(value)
        return cls(**{each.name: each.type(**sections.get(each.name, {})) for each in fields(cls)})  # type: ignore[operator]

    def to_values(self) -> dict[str, Any]:
        """The reverse of `of`, with every key, as JSON has values; for the child process. Holds secrets."""
        return {key: each.to_plain(self.get(key)) for key, each in SETTINGS.items()}

    def get(self, key: str) -> Any:
        """The value of `section.key`, which exists."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)


SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType(dict(describe(Settings)))
"""Every setting, in the order of the sections, by `section.key`."""
