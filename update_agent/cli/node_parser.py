"""The verbs that are about the node only: its daemon, its configuration, its journal."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from update_agent.cli.options import Verbs, add_verb, late
from update_agent.cli.places import Runner, by_place


def add_node_verbs(verbs: Verbs) -> None:
    """Make the verbs known."""
    _add_daemon_verbs(verbs)
    _add_log(verbs)
    _add_config(verbs)
    parser = add_verb(
        verbs,
        "completion",
        text="print a script that lets a shell complete this command line",
        example="update-agent completion bash",
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    parser.set_defaults(run=late("completion", "run_completion"))


def _node_only(module: str, function: str) -> Runner:
    return by_place(image=None, daemon=late(module, function))


def _add_daemon_verbs(verbs: Verbs) -> None:
    for name, text, module, function in (
        ("is-pending", "say whether an update waits for a reboot (exit status 3: no)", "node_status", "run_is_pending"),
        ("watch", "print every change of the state until interrupted", "node_watch", "run_watch"),
        ("cancel", "stop the update that is under way", "node_boot", "run_cancel"),
        ("reset", "give a pending update up: the running slot boots next", "node_boot", "run_reset"),
        ("reload", "let the daemon read its configuration again", "node_boot", "run_reload"),
    ):  # fmt: skip
        parser = add_verb(verbs, name, text=text, example=f"update-agent {name}")
        parser.set_defaults(run=_node_only(module, function))


def _add_log(verbs: Verbs) -> None:
    parser = add_verb(
        verbs, "log", text="show what the journal has about updates", example="update-agent log --since yesterday -f"
    )
    parser.add_argument("--since", metavar="TIME", help="as journalctl has it: yesterday, or --since=-2h")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    parser.add_argument("-n", "--lines", metavar="N", help="only the newest ones")
    parser.set_defaults(run=_node_only("log", "run_log"))


def _add_config(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "channel",
        text="say which channel the node follows, or choose another",
        example="update-agent channel beta",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="channel to follow from now on")
    _add_root_option(parser)
    parser.set_defaults(run=_node_only("node_config", "run_channel"))
    parent = verbs.add_parser(
        "config",
        help="show settings, or take them over from a cloud-config",
        description="Show settings, or take them over from a cloud-config.",
        epilog="example:\n  update-agent config cat",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = parent.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    parser = add_verb(
        actions, "cat", text="show every setting with the place it came from", example="update-agent config cat"
    )
    _add_root_option(parser)
    parser.set_defaults(run=_node_only("config", "run_config_cat"))
    parser = add_verb(
        actions,
        "import-cloud-config",
        text="take over what a cloud-config says about updates and reboots",
        example="update-agent config import-cloud-config user_data",
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--stdout", action="store_true", help="print the fragment instead of writing it")
    where.add_argument("--output", metavar="FRAGMENT", type=Path, help="where to write it (below /etc/update-agent)")
    _add_root_option(parser)
    parser.set_defaults(run=_node_only("node_config", "run_config_import"))


def _add_root_option(parser: ArgumentParser) -> None:
    parser.add_argument("--root", metavar="DIR", type=Path, default=Path("/"), help="where the node's files are (/)")
