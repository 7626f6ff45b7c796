"""That a failure is told in the same words everywhere where somebody may look, and that it ends with its reason."""

import time

from tests.support.commands import Result
from tests.support.daemons import NodeDaemon
from tests.support.faulty_fleets import FaultyFleet
from update_agent.api.forms import ExitStatus
from update_agent.errors import Kind


def assert_told(node: NodeDaemon, result: Result, kind: Kind, code: int) -> str:
    """On D-Bus, in both interfaces; in the status, in the log and to the caller; gives the message.

    `result` is that of `update-agent install`, `code` the one that the update server gets, with its flags.
    """
    found, message, hint, at, told_code = node.properties["LastError"]
    assert (found, told_code) == (kind, code), message
    assert 0 <= time.time() - at < 60
    shown = node.status
    assert (shown["state"], shown["last_error"]["kind"], shown["last_error"]["message"]) == ("idle", kind, message)
    assert f"update-agent: {message}" in result.err
    assert hint in result.err
    assert node.log.count(f"update-agentd: {message}{f' ({hint})' if hint else ''}\n") == 1
    assert node.compat[1:] == (0.0, "UPDATE_STATUS_IDLE", "0.0.0", 0)
    assert node.is_alive()
    return str(message)


def assert_next_succeeds(node: NodeDaemon, fleet: FaultyFleet, payload: bytes) -> None:
    """The next update, of a server that does everything right."""
    fleet.heal(payload)
    result = node.install()
    assert (result.status, node.bench.boots()) == (ExitStatus.DONE, "B"), result.err
    assert node.status["last_error"] is None
