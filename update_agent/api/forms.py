"""How an error leaves the program: exit status, name on D-Bus, JSON, update_engine's code."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Any, Final

from update_agent.errors import Kind, UpdateAgentError
from update_agent.formats import dbus_errors

SCHEMA: Final = 1
"""Of every JSON document; raised only when a name had to change."""


@unique
class ExitStatus(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO = 3
    UNREACHABLE = 4
    REFUSED = 5
    UNVERIFIED = 6
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorForm:
    """How one kind of error leaves the program.

    Attributes:
        exit_status: of a command.
        omaha_code: update_engine's ActionExitCode, reported to the update server.
    """

    exit_status: ExitStatus
    omaha_code: int


def _forms(exit_status: ExitStatus, codes: Mapping[Kind, int]) -> dict[Kind, ErrorForm]:
    return {kind: ErrorForm(exit_status=exit_status, omaha_code=code) for kind, code in codes.items()}


ERROR_FORMS: Final[Mapping[Kind, ErrorForm]] = (
    _forms(ExitStatus.USAGE, {Kind.USAGE: 1, Kind.CONFIGURATION: 1, Kind.KERNEL_TARGET_MISSING: 8})
    | _forms(
        ExitStatus.FAILED,
        {
            Kind.GPT_INVALID: 7,
            Kind.PAYLOAD_MAGIC: 21,
            Kind.PAYLOAD_VERSION: 21,
            Kind.PAYLOAD_MALFORMED: 28,
            Kind.PAYLOAD_TRUNCATED: 11,
            Kind.MANIFEST_MALFORMED: 23,
            Kind.OPERATION_UNKNOWN: 28,
            Kind.KEY_MALFORMED: 18,
            Kind.VERSION_MALFORMED: 34,
            Kind.OMAHA_EMPTY: 30,
            Kind.OMAHA_MALFORMED: 31,
            Kind.OMAHA_INVALID: 34,
            Kind.MESSAGE_MALFORMED: 1,
            Kind.TRANSFER: 9,
            Kind.TRANSFER_STALLED: 9,
            Kind.TRANSFER_TOO_LARGE: 11,
            Kind.HTTP_STATUS: 9,
            Kind.REDIRECT_REFUSED: 9,
            Kind.OMAHA_TRANSFER: 2,
            Kind.OMAHA_REFUSED: 34,
            Kind.DEVICE_OPEN: 7,
            Kind.DEVICE_IO: 14,
            Kind.DEVICE_TOO_SMALL: 28,
            Kind.NO_SPACE: 14,
            Kind.STATE_FILE: 20,
            Kind.OPERATION_FAILED: 28,
            Kind.SLOT_MISSING: 3,
            Kind.SOURCE_MISSING: 4,
            Kind.POSTINSTALL_MISSING: 5,
            Kind.POSTINSTALL_FAILED: 5,
            Kind.POSTINSTALL_TIMEOUT: 5,
            Kind.POSTINSTALL_FIRMWARE_B: 19,
            Kind.BOOT_DISK_UNKNOWN: 3,
            Kind.UPDATE_FELL_BACK: 44,
            Kind.BUS: 1,
            Kind.WORKER_DIED: 1,
            Kind.UNHEALTHY: 1,
            Kind.COMMAND_FAILED: 1,
        },
    )
    | _forms(
        ExitStatus.UNVERIFIED,
        {
            Kind.KEY_MISSING: 18,
            Kind.SIGNATURE_MISSING: 17,
            Kind.SIGNATURE_INVALID: 18,
            Kind.PAYLOAD_HASH: 10,
            Kind.PAYLOAD_SIZE: 11,
            Kind.PAYLOAD_CHANGED: 10,
            Kind.OPERATION_HASH: 29,
            Kind.OPERATION_HASH_MISSING: 38,
            Kind.SOURCE_HASH: 20,
            Kind.PARTITION_HASH: 15,
            Kind.KERNEL_HASH: 16,
            Kind.PCR_POLICY_HASH: 42,
            Kind.VERSION_MISMATCH: 12,
        },
    )
    | _forms(
        ExitStatus.REFUSED,
        {
            Kind.TARGET_BOOTED: 3,
            Kind.TARGET_BUSY: 7,
            Kind.DOWNGRADE: 35,
            Kind.SAME_VERSION: 35,
            Kind.SLOT_INCOMPLETE: 1,
            Kind.SLOT_UNPROVEN: 1,
            Kind.NOTHING_BOOTABLE: 1,
            Kind.BUSY: 1,
            Kind.BACKOFF: 40,
            Kind.BAD_RELEASE: 35,
            Kind.WRONG_STATE: 1,
            Kind.NOT_AUTHORIZED: 1,
        },
    )
    | _forms(ExitStatus.UNREACHABLE, {Kind.SERVICE_UNREACHABLE: 1})
    | _forms(ExitStatus.INTERRUPTED, {Kind.INTERRUPTED: 9})
)
"""Every kind has a form; a test proves it."""


def dbus_error_name(kind: Kind) -> str:
    """The kind as the name of a D-Bus error: `payload-hash` is `org.updateagent1.Error.PayloadHash`."""
    return dbus_errors.dbus_error_name(kind)


def error_to_json(error: UpdateAgentError) -> dict[str, Any]:
    """The error as a JSON document."""
    return {
        "schema": SCHEMA,
        "error": {
            "kind": str(error.kind),
            "message": error.message,
            "hint": error.hint,
            "retryable": error.is_retryable,
            "omaha_code": ERROR_FORMS[error.kind].omaha_code,
        },
    }
