"""What the agent needs from the process around it, and what it offers to whoever talks to it.

The loop is GLib's in the service and a simulated one in tests; the commands are what the D-Bus objects call. All of it
happens in one thread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from update_agent.api.node import NodeStatus
from update_agent.domain.slots import SlotName


class Timer(Protocol):
    """Something that will happen."""

    def cancel(self) -> None:
        """Let it not happen; fine if it has."""


class Loop(Protocol):
    """When things happen."""

    def call_later(self, secs: float, function: Callable[[], None]) -> Timer:
        """Call once, after `secs`; time in suspend does not count."""

    def unix_now(self) -> float:
        """Seconds since 1970, by the wall clock."""

    def monotonic(self) -> float:
        """Seconds, never going back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompatStatus:
    """The five values of update_engine's interface, signature `xdssx`."""

    last_checked_time: int
    progress: float
    current_operation: str
    new_version: str
    new_size: int

    def to_args(self) -> tuple[int, float, str, str, int]:
        """In the order of the signature."""
        return (self.last_checked_time, self.progress, self.current_operation, self.new_version, self.new_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallOptions:
    """What a person may ask for beyond an ordinary update.

    Attributes:
        payload: file or URL to install in place of what the server offers; empty asks the server.
        ignore_backoff: also before its back-off has ended.
        allow_bad: also a release that fell back before.
        allow_downgrade, allow_same_version: as the settings of that name.
        target: A or B, empty for the one that does not run.
    """

    payload: str = ""
    ignore_backoff: bool = True
    allow_bad: bool = False
    allow_downgrade: bool = False
    allow_same_version: bool = False
    target: str = ""


class Listener(Protocol):
    """Is told what changed; must be quick and must not raise."""

    def status_changed(self, status: NodeStatus) -> None:
        """After every transition, and at most a few times a second while an install goes on."""

    def compat_signal(self, status: CompatStatus) -> None:
        """When update_engine would emit StatusUpdate."""


class Commands(Protocol):
    """What callers may ask of the agent. All raise `UpdateAgentError` and return at once."""

    def status(self) -> NodeStatus:
        """As last told to the listeners; costs nothing."""

    def compat_status(self) -> CompatStatus:
        """Likewise."""

    def listen(self, listener: Listener) -> None:
        """Tell the listener from now on."""

    def check(self) -> None:
        """Ask the server and install nothing; the status tells when it is done. Refused (wrong-state) while busy."""

    def install(self, options: InstallOptions) -> None:
        """Begin an update. Refused (wrong-state) while busy."""

    def attempt_update(self) -> None:
        """update_engine's AttemptUpdate: as `install`, and silently nothing unless idle."""

    def cancel(self) -> bool:
        """Stop what is under way, if anything is: False if not."""

    def reset(self) -> None:
        """Give a pending update up: the running slot boots next. Refused (wrong-state) while busy."""

    def rollback(self) -> None:
        """Let the other slot boot next if it has booted well before. Refused while busy."""

    def mark_slot(self, slot: SlotName | None, mark: str) -> None:
        """`good`, `bad` or `active`; None for the running slot (good), else the other one. Refused while busy."""

    def reload(self) -> None:
        """Read the configuration again."""
