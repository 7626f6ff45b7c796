"""The whole command line, without what carries it out: a verb's module is imported when it was chosen."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Final

from update_agent import __version__
from update_agent.cli.node_parser import add_node_verbs
from update_agent.cli.options import (
    Verbs,
    add_common_options,
    add_key_option,
    add_server_options,
    add_transfer_options,
    add_verb,
    add_workers_option,
    late,
    slot_name,
)
from update_agent.cli.payload_parser import add_payload_verbs
from update_agent.cli.places import Place, PlaceOptions, by_place

_DESCRIPTION: Final = """\
Update a node, or a disk, with two slots, USR-A and USR-B, and always keep one that boots.
Without --image, verbs ask the daemon of this node (update-agentd.service)."""
_EPILOG: Final = """\
examples:
  update-agent
  update-agent install --reboot
  update-agent --image disk.img status
  update-agent --image disk.img install --payload update.payload --public-key keys/
  update-agent payload build --usr usr.img --version 2.0.0 --key signing.pem --output update.payload

exit status:
  0 done or yes, or there was nothing to do    1 failed
  2 wrong use                                  3 no (is-pending, next-boot)
  4 daemon not reachable                       5 refused
  6 verification failed                        130 interrupted
"""


_SLOT_VERBS: Final = (
    ("activate", "make a slot boot next, with one try", "update-agent activate B"),
    ("mark-good", "record that a slot has booted well", "update-agent mark-good A"),
    ("mark-bad", "never boot a slot again", "update-agent mark-bad B"),
)


def build_parser() -> ArgumentParser:
    """The whole command line."""
    parser = ArgumentParser(
        prog="update-agent",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"update-agent {__version__}")
    add_common_options(parser, is_verb=False)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    _add_look(verbs)
    _add_update(verbs)
    _add_boot_flags(verbs)
    add_node_verbs(verbs)
    add_payload_verbs(verbs)
    parser.set_defaults(run=by_place(image=late("status", "run_status"), daemon=late("node_status", "run_status")))
    return parser


def _add_look(verbs: Verbs) -> None:
    """Make the verbs known."""
    for name, text, example in (
        ("status", "say what runs, what boots next, and what is under way", "update-agent status --json"),
        ("slots", "list both slots with their partitions and content", "update-agent slots"),
    ):
        run = by_place(image=late("status", f"run_{name}"), daemon=late("node_status", f"run_{name}"))
        add_verb(verbs, name, text=text, example=example).set_defaults(run=run)


def _add_update(verbs: Verbs) -> None:
    """Make the verbs known."""
    parser = add_verb(
        verbs,
        "check",
        text="ask the update server for a newer release",
        example="update-agent check\n  update-agent --image disk.img check --server http://127.0.0.1:8000/v1/update",
    )
    image = PlaceOptions(parser, Place.IMAGE, "options with --image")
    image.add_argument("--server", metavar="URL", help="update server (Omaha protocol)")
    add_server_options(parser)
    add_transfer_options(parser)
    parser.set_defaults(run=by_place(image=late("server", "run_check"), daemon=late("node_update", "run_check")))
    _add_install(verbs)


def _add_install(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "install",
        text="write a release to the slot that does not run and make it boot next",
        example="update-agent install --reboot\n"
        "  update-agent --image disk.img install --payload update.payload --public-key keys/",
    )
    parser.add_argument(
        "--payload",
        metavar="FILE|URL",
        action="append",
        help="payload to install; with --image, several URLs are places with the same bytes",
    )
    parser.add_argument("--target", metavar="A|B", type=slot_name, help="slot to write (the one that does not run)")
    parser.add_argument("--allow-downgrade", action="store_true", help="also an older release")
    parser.add_argument("--allow-same-version", action="store_true", help="also the release that runs")
    daemon = PlaceOptions(parser, Place.DAEMON, "options without --image")
    daemon.add_argument("--allow-bad-release", action="store_true", help="also a release that fell back before")
    daemon.add_argument("--no-wait", action="store_true", help="begin, and do not wait for the end")
    daemon.add_argument("--reboot", action="store_true", help="and reboot into it when it is installed")
    image = PlaceOptions(parser, Place.IMAGE, "options with --image")
    image.add_argument("--server", metavar="URL", help="ask this update server what to install")
    add_key_option(image)
    image.add_argument("--boot-dir", metavar="DIR", type=Path, help="where vmlinuz-a and vmlinuz-b are kept")
    image.add_argument("--skip-kernel", action="store_true", help="do not install the payload's kernel")
    add_workers_option(image)
    add_server_options(parser)
    add_transfer_options(parser)
    parser.set_defaults(run=by_place(image=late("install", "run_install"), daemon=late("node_update", "run_install")))


def _add_boot_flags(verbs: Verbs) -> None:
    """Make the verbs known."""
    for name, text, example in _SLOT_VERBS:
        parser = add_verb(verbs, name, text=text, example=example)
        default = "the one that does not run" if name != "mark-good" else "the one that runs"
        parser.add_argument("slot", metavar="A|B", type=slot_name, nargs="?", help=f"which slot ({default})")
        if name != "mark-bad":
            image = PlaceOptions(parser, Place.IMAGE, "options with --image")
            image.add_argument("--force", action="store_true", help="also when the slot holds half a release")
        parser.set_defaults(
            run=by_place(image=late("boot", "run_slot_verb"), daemon=late("node_boot", "run_slot_verb"))
        )
    add_verb(
        verbs,
        "rollback",
        text="go back to the slot that does not run, if it has booted well before",
        example="update-agent rollback",
    ).set_defaults(run=by_place(image=late("boot", "run_rollback"), daemon=late("node_boot", "run_rollback")))
    parser = add_verb(
        verbs,
        "next-boot",
        text="say which slot the boot loader of --image would choose (exit status 3: none)",
        example="update-agent --image disk.img next-boot --consume",
    )
    parser.add_argument("--consume", action="store_true", help="and count the try down, as the boot loader does")
    parser.set_defaults(run=by_place(image=late("boot", "run_next_boot"), daemon=None))
    add_verb(
        verbs,
        "repair",
        text="rewrite a damaged copy of the partition table of --image from the good one",
        example="update-agent --image disk.img repair",
    ).set_defaults(run=by_place(image=late("boot", "run_repair"), daemon=None))
