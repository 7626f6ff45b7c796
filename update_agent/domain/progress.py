"""How far a long job is, and how to stop it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from update_agent.errors import InterruptedByUserError, Kind


class Phase(StrEnum):
    """What is being done; an install goes through all but the first, in this order."""

    BUILDING = "building"
    CHECKING = "checking"
    COPYING = "copying"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    FINALIZING = "finalizing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A point on the way; within a phase `done_bytes` only rises."""

    phase: Phase
    done_bytes: int
    total_bytes: int


ProgressSink = Callable[[Progress], None]
"""Takes progress; called often, so it must be quick and must not raise."""


def ignore_progress(_: Progress) -> None:
    """Take progress and do nothing with it."""


class CombinedProgress:
    """Makes one rising count of a phase that goes over several devices, each of which counts from 0."""

    def __init__(self, sink: ProgressSink, total_bytes: int) -> None:
        self._sink = sink
        self._total_bytes = total_bytes
        self._before_bytes = 0

    def __call__(self, progress: Progress) -> None:
        """Take the progress of the device that is worked on now."""
        done = self._before_bytes + progress.done_bytes
        self._sink(Progress(phase=progress.phase, done_bytes=done, total_bytes=self._total_bytes))
        if progress.done_bytes == progress.total_bytes:
            self._before_bytes = done


class CancelToken:
    """Set from any thread or signal handler, looked at between steps."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the job to stop at the next safe point."""
        self._event.set()

    def raise_if_cancelled(self) -> None:
        """Stop here if somebody asked.

        Raises:
            InterruptedByUserError: interrupted.
        """
        if self._event.is_set():
            raise InterruptedByUserError(
                Kind.INTERRUPTED, "install: stopped on request", hint="run the same command again to go on from here"
            )
