"""`watch`: a line per change, across restarts of the daemon, until interrupted."""

import json
import time
from argparse import Namespace
from typing import Final

from update_agent.api.forms import ExitStatus
from update_agent.api.node import NodeStatus
from update_agent.cli.client import Agent, AgentGoneError, connect_agent
from update_agent.cli.console import Console
from update_agent.cli.render_node import format_time, headline

_HEARTBEAT_SECS: Final = 60.0


def run_watch(args: Namespace, console: Console) -> ExitStatus:
    """Print until nobody reads it, or a person has enough."""
    agent = connect_agent(args)
    printer = _Printer(console)
    try:
        while console.has_reader:
            try:
                printer.print_changes(agent)
            except AgentGoneError:
                console.say("update-agentd has gone; waiting for its return")
                agent.wait_for_return(None)
                console.say("update-agentd is back")
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    return ExitStatus.DONE


class _Printer:
    """Prints what differs from what it has printed before."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: object = None
        self._line = ""

    def print_changes(self, agent: Agent) -> None:
        """Until nobody reads it."""
        for status in agent.changes(_HEARTBEAT_SECS):
            gist = _gist(status)
            if gist != self._last:
                self._last = gist
                self._show(status)
            if not self._console.has_reader:
                return

    def _show(self, status: NodeStatus) -> None:
        line = headline(status)
        if self._console.is_json:
            self._console.answer(json.dumps(status.to_json()))
        elif line != self._line:
            self._line = line
            self._console.answer(f"{format_time(int(time.time()))}  {line}")


def _gist(status: NodeStatus) -> object:
    """What makes a line of its own when it changes: everything but times, and the progress in steps of 10 %."""
    total = status.progress_total_bytes
    tenth = 10 * status.progress_done_bytes // total if total else 0
    return (
        status.state,
        status.phase,
        tenth,
        status.offered_version,
        status.pending_version,
        status.pending_slot,
        status.last_error,
        status.health,
        status.channel,
    )
