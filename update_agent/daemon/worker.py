"""The child process that checks and installs: reads a job, says how it goes, ends.

Run as `python -m update_agent.daemon.worker PARENT`, with a `Job` on standard input; messages come out of standard
output, one a line. Everything that parses what comes from the network is in this process: its memory goes back with it,
and what it breaks is not the daemon.

exit status: 0 the end was told, 70 a bug, 143 the daemon ended
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from update_agent.daemon.job import Job
from update_agent.daemon.message_pipe import MessagePipe
from update_agent.daemon.stopper import Stopper
from update_agent.domain.ending import Ending
from update_agent.domain.messages import Failed, Reported
from update_agent.domain.progress import CancelToken
from update_agent.errors import Kind
from update_agent.host.confinement import give_up_privileges, step_back
from update_agent.host.journal import set_up_logging
from update_agent.host.mounts import die_with_parent

_LOG: Final = logging.getLogger(__name__)

_BUG: Final = 70
_OOM_SCORE: Final = 300


class _NotBegun:
    """The end of a child that was told to stop before it knew what to do."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending

    def abandon(self) -> bool:
        """Say so."""
        self._ending.abandon(Failed(kind=Kind.INTERRUPTED, message="update: stopped on request", omaha_code=9))
        return True

    def report(self) -> bool:
        """No server is known yet."""
        self._ending.tell(Reported(was_delivered=False))
        return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the job of standard input; returns the exit status."""
    (parent,) = sys.argv[1:] if arguments is None else arguments
    die_with_parent(signal.SIGTERM)
    if os.getppid() != int(parent):
        return 128 + signal.SIGTERM  # it ended before it could be watched
    give_up_privileges()
    pipe, cancel = MessagePipe.take_stdout(), CancelToken()
    stopper = Stopper(cancel, _NotBegun(Ending(pipe.write)))
    set_up_logging(identifier="update-agentd")
    try:
        job = Job.from_bytes(sys.stdin.buffer.read())
        step_back(job.settings.install.nice, _OOM_SCORE)
        # What it imports takes a while and a lot of memory; a person may cancel meanwhile.
        from update_agent.daemon.errand import Errand

        errand = Errand(job, pipe.write, cancel, lambda: stopper.is_terminating)
        stopper.work_on(errand)
        errand.run()
    except Exception:  # noqa: BLE001  the daemon sees the status, the journal has the rest
        _LOG.exception("child process: failed in a way that nobody thought of")
        return _BUG
    finally:
        stopper.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
