"""What the journal can be searched for: every event has a fixed MESSAGE_ID, which is never used for another.

The catalog that explains them to a person is `systemd/update-agent.catalog`; a test keeps both in step.
"""

import logging
from enum import StrEnum, unique


@unique
class JournalEvent(StrEnum):
    """An event and its MESSAGE_ID."""

    CHECK_FAILED = "a5b77d53b6044132a895116a509e5de2"
    """The update server could not be asked, or did not answer as it should."""
    UPDATE_OFFERED = "a4f27b2aba7b4ae29782d44367e2db3e"
    """A release was offered and is being installed."""
    UPDATE_NOT_TAKEN = "ea5b17fc42d04c56b0b90b9fbf26c12f"
    """A release was offered and may not be installed."""
    UPDATE_INSTALLED = "430ffb89f931466fbed25879cc9f4887"
    """A release boots next."""
    UPDATE_FAILED = "4d4d4fa0948547319443eee882c88c71"
    """An update went wrong; the running release is untouched."""
    UPDATE_CANCELLED = "9e4ab9afef1e40e8beaabf2d881a127f"
    """A person stopped an update."""
    UPDATE_FELL_BACK = "97578e193bd248c989109583ac3442ae"
    """A release was booted and did not stay."""
    UPDATE_BOOTED = "72cbe9cd60064816bd6bbf3e8accaafd"
    """The first boot of a new release."""
    UPDATE_RESET = "157818e841ae4760b0ec5ad7e92ae035"
    """A pending update was given up."""
    SLOT_MARKED = "f2e808c487234e5fa1f8f2f83f186eff"
    """A person changed the flags of a slot, or rolled back."""
    BOOT_GOOD = "b274ae7161c246768e04b874becf62e1"
    """The boot counts as good, the slot was marked successful."""
    BOOT_NOT_GOOD_YET = "e52ee515439e4afaa8e75606c9f73818"
    """A health check does not hold."""
    BOOT_BAD = "f2d253500b7b40528dfa53811e22c5a5"
    """The deadline passed and the boot does not count as good."""
    BOOT_FALLING_BACK = "b2cd1368ee084e0e908a59419d45424c"
    """The machine reboots into the other slot because the boot is bad."""
    STATE_DAMAGED = "623d292e1a5340bb9cb4a7cd34264394"
    """The state file could not be read and was set aside."""
    STATE_NOT_SAVED = "9f94af954b2a4b639d489233c6806a35"
    """The state file could not be written."""
    CONFIGURATION_PROBLEM = "74fd268ab33f44d78bd2af893dcb28d2"
    """Something in the configuration is not used."""
    CONFIGURATION_RELOADED = "07ea794a8dfe4783a9298234660f3334"
    """The configuration was read again."""
    BUS_LOST = "3f1e5fe844fe4e46b78a3389efc73163"
    """The bus went away; the agent goes on without it."""
    BUS_BACK = "94de7ebcaa8448778541b62db0797569"
    """The bus is there again."""
    WORKER_DIED = "da2786ad467d40eeae5b7a38e7a27f56"
    """The child process ended without saying why."""
    POSTINSTALL_OUTPUT = "1754dcbaf13a4fba849ef5095269db92"
    """A line that the post-install of a release printed."""
    ACCESS_DENIED = "818c0e6bfc5e4c4a9b07b9fe672266be"
    """A caller asked for something it may not do."""


def log_event(
    logger: logging.Logger, level: int, event: JournalEvent, message: str, *args: object, **fields: str
) -> None:
    """Log a sentence that reads alone; `fields` ride beside it into the journal, with upper-case names."""
    logger.log(level, message, *args, extra={"journal": {"MESSAGE_ID": str(event), **fields}}, stacklevel=2)
