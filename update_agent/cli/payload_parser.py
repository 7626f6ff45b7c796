"""The command line of `payload`."""

from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import Final

from update_agent.cli.options import Verbs, add_key_option, add_verb, add_workers_option, late, release

COMPRESSIONS: Final = ("zstd", "xz", "bzip2", "none")
"""The words of `domain.encode.Compression`, without importing the builder."""


def add_payload_verbs(verbs: Verbs) -> None:
    """Make the verbs known."""
    parent = verbs.add_parser(
        "payload",
        help="build, sign, inspect and unpack payloads",
        description="Build, sign, inspect and unpack payloads.",
        epilog="example:\n  update-agent payload inspect update.payload",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = parent.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    _add_build(actions)
    _add_readers(actions)
    _add_offline_signing(actions)


def _add_build(actions: Verbs) -> None:
    parser = add_verb(
        actions,
        "build",
        text="make a signed payload from an image",
        example="update-agent payload build --usr usr.img --version 2.0.0 --key signing.pem --output update.payload",
    )
    parser.add_argument("--usr", metavar="IMG", type=Path, required=True, help="image of the USR partition")
    parser.add_argument("--kernel", metavar="FILE", type=Path, help="kernel that goes with it")
    parser.add_argument("--pcr-policy", metavar="ZIP", type=Path, help="PCR policy that goes with it (format 1)")
    parser.add_argument("--version", metavar="V", type=release, required=True, help="release that the image is")
    parser.add_argument(
        "--key", metavar="PEM", type=Path, action="append", default=[], help="private key to sign with; may repeat"
    )
    parser.add_argument(
        "--signature-size",
        metavar="BYTES",
        type=int,
        action="append",
        default=[],
        help="leave room for a signature made elsewhere (256 for RSA-2048); may repeat",
    )
    parser.add_argument("--format", type=int, choices=(2, 1), default=2, help="major version (2; 1 is Flatcar's)")
    parser.add_argument("--compression", choices=COMPRESSIONS, help="zstd, or bzip2 in format 1")
    parser.add_argument("--level", metavar="N", type=int, help="of the compression (its best reasonable one)")
    parser.add_argument("--source-usr", metavar="OLD", type=Path, help="make a delta from this image")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="payload to write")
    add_workers_option(parser)
    parser.set_defaults(run=late("payload", "run_build"))


def _add_readers(actions: Verbs) -> None:
    parser = add_verb(
        actions,
        "inspect",
        text="show what a payload says about itself; nothing is verified",
        example="update-agent payload inspect update.payload",
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.set_defaults(run=late("payload", "run_inspect"))
    parser = add_verb(
        actions,
        "verify",
        text="check signatures, hashes and sizes of a payload (exit status 6: they do not hold)",
        example="update-agent payload verify update.payload --public-key keys/",
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    add_key_option(parser)
    add_workers_option(parser)
    parser.set_defaults(run=late("payload", "run_verify"))
    parser = add_verb(
        actions,
        "extract",
        text="verify a payload and unpack it into files",
        example="update-agent payload extract update.payload --public-key keys/ --usr usr.img --kernel vmlinuz",
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    add_key_option(parser)
    parser.add_argument("--usr", metavar="OUT", type=Path, help="where the USR image goes")
    parser.add_argument("--kernel", metavar="OUT", type=Path, help="where the kernel goes")
    parser.add_argument("--source-usr", metavar="OLD", type=Path, help="image that a delta starts from")
    parser.add_argument("--source-kernel", metavar="OLD", type=Path, help="kernel that a delta starts from")
    add_workers_option(parser)
    parser.set_defaults(run=late("payload", "run_extract"))


def _add_offline_signing(actions: Verbs) -> None:
    parser = add_verb(
        actions,
        "digest",
        text="print what is to be signed elsewhere, as SHA-256 in hex",
        example="update-agent payload digest update.payload --json",
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.set_defaults(run=late("payload", "run_digest"))
    parser = add_verb(
        actions,
        "attach-signature",
        text="put signatures made elsewhere into a payload that was built with --signature-size",
        example="update-agent payload attach-signature update.payload --metadata-signature m.sig "
        "--payload-signature p.sig --output signed.payload",
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    for name in ("metadata", "payload"):
        parser.add_argument(
            f"--{name}-signature",
            metavar="FILE",
            type=Path,
            action="append",
            default=[],
            help=f"raw signature of the {name} digest; once for each --signature-size, in that order",
        )
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="signed payload to write")
    parser.set_defaults(run=late("payload", "run_attach"))
