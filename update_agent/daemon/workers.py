"""What the agent needs of a child process (`update_agent.daemon.worker_process`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from update_agent.daemon.job import Job
from update_agent.domain.messages import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerExit:
    """How the child process ended.

    Attributes:
        status: exit status, or the number of the signal.
        was_signal: it was killed.
        problem: what it said that was no message; None if all was well-formed.
    """

    status: int
    was_signal: bool
    problem: str | None = None


class Worker(Protocol):
    """A child process at work."""

    def cancel(self, *, by_person: bool) -> None:
        """Ask it to end: by a person, who is told, or because the daemon ends. Killed if it does not."""


class Workers(Protocol):
    """What starts child processes."""

    def start(
        self, job: Job, *, on_message: Callable[[Message], None], on_exit: Callable[[WorkerExit], None]
    ) -> Worker:
        """Begin; `on_exit` is called once, after the last message.

        Raises:
            ServiceError: worker-died, when it cannot be started.
        """
