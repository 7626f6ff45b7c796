"""Every error raised on purpose.

    UpdateAgentError
    ├── ConfigurationError   what a person wrote in an option, a file or the environment
    ├── FormatError          bytes or text that do not follow their format
    ├── VerificationError    well-formed, but not what was signed or announced
    ├── TransferError        the network or the server
    ├── DeviceError          the disk, the kernel, the file system
    ├── InstallError         an operation that cannot be carried out here
    ├── RefusedError         possible, but the policy says no
    ├── ServiceError         the daemon, its bus, its child process or a hook
    └── InterruptedByUserError

The class says whose fault it is, the kind says what happened. Kinds are stable: they appear in JSON, on
D-Bus and in logs, and `update_agent.api.forms` maps each to an exit status and to update_engine's error code.
"""

from enum import StrEnum, unique
from typing import Final


@unique
class Kind(StrEnum):
    """What happened, as a stable word."""

    # configuration
    USAGE = "usage"
    CONFIGURATION = "configuration"
    # format
    GPT_INVALID = "gpt-invalid"
    PAYLOAD_MAGIC = "payload-magic"
    PAYLOAD_VERSION = "payload-version"
    PAYLOAD_MALFORMED = "payload-malformed"
    PAYLOAD_TRUNCATED = "payload-truncated"
    MANIFEST_MALFORMED = "manifest-malformed"
    OPERATION_UNKNOWN = "operation-unknown"
    KEY_MALFORMED = "key-malformed"
    VERSION_MALFORMED = "version-malformed"
    OMAHA_EMPTY = "omaha-empty"
    OMAHA_MALFORMED = "omaha-malformed"
    OMAHA_INVALID = "omaha-invalid"
    MESSAGE_MALFORMED = "message-malformed"
    # verification
    KEY_MISSING = "key-missing"
    SIGNATURE_MISSING = "signature-missing"
    SIGNATURE_INVALID = "signature-invalid"
    PAYLOAD_HASH = "payload-hash"
    PAYLOAD_SIZE = "payload-size"
    PAYLOAD_CHANGED = "payload-changed"
    OPERATION_HASH = "operation-hash"
    OPERATION_HASH_MISSING = "operation-hash-missing"
    SOURCE_HASH = "source-hash"
    PARTITION_HASH = "partition-hash"
    KERNEL_HASH = "kernel-hash"
    PCR_POLICY_HASH = "pcr-policy-hash"
    VERSION_MISMATCH = "version-mismatch"
    # transfer
    TRANSFER = "transfer"
    TRANSFER_STALLED = "transfer-stalled"
    TRANSFER_TOO_LARGE = "transfer-too-large"
    HTTP_STATUS = "http-status"
    REDIRECT_REFUSED = "redirect-refused"
    OMAHA_TRANSFER = "omaha-transfer"
    OMAHA_REFUSED = "omaha-refused"
    # device
    DEVICE_OPEN = "device-open"
    DEVICE_IO = "device-io"
    DEVICE_TOO_SMALL = "device-too-small"
    NO_SPACE = "no-space"
    STATE_FILE = "state-file"
    # install
    OPERATION_FAILED = "operation-failed"
    SLOT_MISSING = "slot-missing"
    SOURCE_MISSING = "source-missing"
    KERNEL_TARGET_MISSING = "kernel-target-missing"
    POSTINSTALL_MISSING = "postinstall-missing"
    POSTINSTALL_FAILED = "postinstall-failed"
    POSTINSTALL_TIMEOUT = "postinstall-timeout"
    POSTINSTALL_FIRMWARE_B = "postinstall-firmware-b"
    BOOT_DISK_UNKNOWN = "boot-disk-unknown"
    UPDATE_FELL_BACK = "update-fell-back"
    # refused
    TARGET_BOOTED = "target-booted"
    TARGET_BUSY = "target-busy"
    DOWNGRADE = "downgrade"
    SAME_VERSION = "same-version"
    SLOT_INCOMPLETE = "slot-incomplete"
    SLOT_UNPROVEN = "slot-unproven"
    NOTHING_BOOTABLE = "nothing-bootable"
    BUSY = "busy"
    BACKOFF = "backoff"
    BAD_RELEASE = "bad-release"
    WRONG_STATE = "wrong-state"
    NOT_AUTHORIZED = "not-authorized"
    # service
    SERVICE_UNREACHABLE = "service-unreachable"
    BUS = "bus"
    WORKER_DIED = "worker-died"
    UNHEALTHY = "unhealthy"
    COMMAND_FAILED = "command-failed"
    # a person
    INTERRUPTED = "interrupted"


RETRYABLE: Final = frozenset(
    {
        Kind.TRANSFER,
        Kind.TRANSFER_STALLED,
        Kind.HTTP_STATUS,
        Kind.PAYLOAD_TRUNCATED,
        Kind.PAYLOAD_CHANGED,
        Kind.OMAHA_TRANSFER,
        Kind.OMAHA_REFUSED,
        Kind.TARGET_BUSY,
        Kind.BUSY,
        Kind.BACKOFF,
        Kind.SERVICE_UNREACHABLE,
        Kind.BUS,
        Kind.WORKER_DIED,
        Kind.INTERRUPTED,
    }
)
"""The same call may succeed later without anybody changing anything."""


class UpdateAgentError(Exception):
    """The root of the tree; only its children are raised.

    Attributes:
        kind: what happened, stable.
        message: one sentence in lower case, thing first, then expected and got.
        hint: what a person can do about it, or None.
    """

    def __init__(self, kind: Kind, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint

    @property
    def is_retryable(self) -> bool:
        """Whether the same call may succeed later by itself."""
        return self.kind in RETRYABLE


class ConfigurationError(UpdateAgentError):
    """An option, a configuration file or the environment is wrong."""


class FormatError(UpdateAgentError):
    """Bytes or text from outside do not follow their format."""


class VerificationError(UpdateAgentError):
    """Well-formed data is not what was signed, announced or written."""


class TransferError(UpdateAgentError):
    """The network or the server failed."""


class DeviceError(UpdateAgentError):
    """The disk, the kernel or the file system failed."""


class InstallError(UpdateAgentError):
    """An operation cannot be carried out on this disk."""


class RefusedError(UpdateAgentError):
    """Possible, but the policy says no."""


class ServiceError(UpdateAgentError):
    """The daemon, its bus, its child process or a hook failed."""


class InterruptedByUserError(UpdateAgentError):
    """A person or the service manager asked to stop."""
