"""`check` and `install` through the daemon."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from update_agent.api.forms import SCHEMA, ExitStatus
from update_agent.api.node import NodeStatus
from update_agent.cli.client import Agent, connect_agent
from update_agent.cli.console import Console, format_bytes
from update_agent.cli.follow import Ending, follow
from update_agent.cli.render_node import update_text, version
from update_agent.domain.machine import State
from update_agent.errors import ConfigurationError, InterruptedByUserError, Kind

_DETACHED_HINT: Final = "to follow it: update-agent watch; to stop it: update-agent cancel"


def run_check(args: Namespace, console: Console) -> ExitStatus:
    """Let the daemon ask the server, and print what is offered."""
    agent = connect_agent(args)
    before = agent.status()
    ending = Ending(before)
    if before.state != State.CHECKING_FOR_UPDATE:
        agent.check()
    after = follow(agent, console, ending)
    ending.raise_error(after)
    if console.is_json:
        offer = {"version": after.offered_version, "size_bytes": after.offered_size_bytes or None}
        console.answer_json({"schema": SCHEMA, "update": offer if after.offered_version else None})
    elif after.offered_version:
        size = f" ({format_bytes(after.offered_size_bytes)})" if after.offered_size_bytes else ""
        console.answer(f"Update available: {version(after.running_version)} → {after.offered_version}{size}")
    else:
        console.answer(_no_update(after))
    return ExitStatus.DONE


def run_install(args: Namespace, console: Console) -> ExitStatus:
    """Let the daemon install, follow it to its end, and reboot if that was asked for."""
    if args.no_wait and args.reboot:
        raise ConfigurationError(
            Kind.USAGE, "install: expected one of --no-wait and --reboot, got both", hint="a reboot has to wait"
        )
    options = _options(args)
    agent = connect_agent(args)
    before = agent.status()
    if args.no_wait:
        agent.install(options)
        return _show_begun(console)
    try:
        after = _install(agent, console, before, options)
    except KeyboardInterrupt:
        raise InterruptedByUserError(
            Kind.INTERRUPTED, "interrupted; the update goes on in the daemon", hint=_DETACHED_HINT
        ) from None
    _show_installed(before, after, console)
    if args.reboot and after.is_reboot_pending:
        # Only this option pays for the import.
        from update_agent.host.logind import reboot

        console.say("rebooting")
        reboot(address=args.bus)
    return ExitStatus.DONE


def _options(args: Namespace) -> dict[str, str | bool]:
    """What `Install` is told beyond its defaults."""
    options: dict[str, str | bool] = {}
    if args.payload:
        if len(args.payload) > 1:
            raise ConfigurationError(Kind.USAGE, "install: expected one --payload for the daemon")
        options["payload"] = _absolute(args.payload[0])
    if args.target:
        options["target"] = str(args.target)
    flags = {
        "allow_downgrade": args.allow_downgrade,
        "allow_same_version": args.allow_same_version,
        "allow_bad": args.allow_bad_release,
    }
    return {**options, **{name: True for name, is_given in flags.items() if is_given}}


def _absolute(payload: str) -> str:
    """The daemon works in another folder."""
    return payload if payload.startswith(("http://", "https://")) else str(Path(payload).absolute())


def _install(agent: Agent, console: Console, before: NodeStatus, options: Mapping[str, str | bool]) -> NodeStatus:
    status, ending = before, Ending(before)
    if status.state == State.CHECKING_FOR_UPDATE:
        console.say("the daemon asks the update server already; waiting for the answer")
        status = follow(agent, console, lambda status: status.state != State.CHECKING_FOR_UPDATE)
    if status.is_resting or options:
        # With options, an update under way is not the one that was asked for: the daemon refuses.
        ending = Ending(status)
        agent.install(options)
    else:
        console.say("an update is under way already; following it")

    def go_on(returned: NodeStatus) -> None:
        """After a restart the daemon would go on by itself in its own time."""
        nonlocal ending
        if returned.is_resting and not _has_result(status, returned):
            ending = Ending(returned)
            agent.install(options)

    after = follow(agent, console, lambda status: ending(status), go_on)
    ending.raise_error(after)
    return after


def _has_result(before: NodeStatus, after: NodeStatus) -> bool:
    is_new_error = after.last_error is not None and after.last_error != before.last_error
    return is_new_error or (after.pending_version, after.pending_at) != (before.pending_version, before.pending_at)


def _show_begun(console: Console) -> ExitStatus:
    if console.is_json:
        console.answer_json({"schema": SCHEMA, "result": "begun"})
    else:
        console.answer("Begun; to follow it: update-agent watch")
    return ExitStatus.DONE


def _show_installed(before: NodeStatus, after: NodeStatus, console: Console) -> None:
    was_pending = (before.pending_slot, before.pending_version, before.pending_at)
    is_new = (after.pending_slot, after.pending_version, after.pending_at) != was_pending
    if console.is_json:
        result = "no-update" if not after.is_reboot_pending else "installed" if is_new else "already-installed"
        console.answer_json(
            {
                "schema": SCHEMA,
                "result": result,
                "slot": after.pending_slot or None,
                "version": after.pending_version or None,
                "previous_version": after.running_version or None,
            }
        )
    elif not after.is_reboot_pending:
        console.answer(_no_update(after))
    else:
        new, old = version(after.pending_version), version(after.running_version)
        if is_new:
            console.answer(f"Installed {new} in slot {after.pending_slot}, it boots next (running: {old})")
        else:
            console.answer(f"{new} is in slot {after.pending_slot} already, it boots next (running: {old})")


def _no_update(status: NodeStatus) -> str:
    if status.is_reboot_pending:
        return f"No other update: {update_text(status)} waits for its reboot"
    return f"No update: {version(status.running_version)} is what the server wants here"
