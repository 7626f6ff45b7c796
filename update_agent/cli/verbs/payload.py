"""`payload build|inspect|verify|extract|digest|attach-signature`: for those who make and publish releases."""

from argparse import ArgumentParser, Namespace, _SubParsersAction
from pathlib import Path
from typing import Any

from update_agent.api import SCHEMA, ExitStatus
from update_agent.cli.console import Console, format_bytes
from update_agent.cli.options import add_key_option, add_verb, add_workers_option
from update_agent.domain.apply import is_delta
from update_agent.domain.build import build_payload
from update_agent.domain.build_request import BuildRequest
from update_agent.domain.encode import Compression
from update_agent.domain.progress import CancelToken, Phase, Progress
from update_agent.domain.signing import attach_signatures, payload_digests
from update_agent.domain.trust import KeyRing, SigningKey
from update_agent.domain.unpack import UnpackRequest, unpack
from update_agent.errors import ConfigurationError, Kind, VerificationError
from update_agent.formats.manifest import Manifest, PartName
from update_agent.formats.payload import HEADER_MAX_BYTES, Header
from update_agent.host.blockdev import FileDevice
from update_agent.net.source import FileSource


def add_parsers(verbs: "_SubParsersAction[ArgumentParser]") -> None:
    """Make the verbs known."""
    parent = verbs.add_parser("payload", help="build, sign, inspect and unpack payloads", allow_abbrev=False)
    actions = parent.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    _add_build(actions)
    _add_readers(actions)
    _add_offline_signing(actions)


def _add_build(actions: "_SubParsersAction[ArgumentParser]") -> None:
    parser = add_verb(
        actions,
        "build",
        text="make a signed payload from an image",
        example="update-agent payload build --usr usr.img --version 2.0.0 --key signing.pem --output update.payload",
    )
    parser.add_argument("--usr", metavar="IMG", type=Path, required=True, help="image of the USR partition")
    parser.add_argument("--kernel", metavar="FILE", type=Path, help="kernel that goes with it")
    parser.add_argument("--pcr-policy", metavar="ZIP", type=Path, help="PCR policy that goes with it (format 1)")
    parser.add_argument("--version", metavar="V", required=True, help="release that the image is")
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
    parser.add_argument(
        "--compression", type=Compression, choices=tuple(Compression), help="zstd, or bzip2 in format 1"
    )
    parser.add_argument("--level", metavar="N", type=int, help="of the compression (its best reasonable one)")
    parser.add_argument("--source-usr", metavar="OLD", type=Path, help="make a delta from this image")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="payload to write")
    add_workers_option(parser)
    parser.set_defaults(run=run_build)


def _add_readers(actions: "_SubParsersAction[ArgumentParser]") -> None:
    parser = add_verb(
        actions,
        "inspect",
        text="show what a payload says about itself; nothing is verified",
        example="update-agent payload inspect update.payload",
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.set_defaults(run=run_inspect)
    parser = add_verb(
        actions,
        "verify",
        text="check signatures, hashes and sizes of a payload (exit status 6: they do not hold)",
        example="update-agent payload verify update.payload --public-key keys/",
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    add_key_option(parser)
    add_workers_option(parser)
    parser.set_defaults(run=run_verify)
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
    parser.set_defaults(run=run_extract)


def _add_offline_signing(actions: "_SubParsersAction[ArgumentParser]") -> None:
    parser = add_verb(
        actions,
        "digest",
        text="print what is to be signed elsewhere, as SHA-256 in hex",
        example="update-agent payload digest update.payload --json",
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.set_defaults(run=run_digest)
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
    parser.set_defaults(run=run_attach)


def run_build(args: Namespace, console: Console) -> ExitStatus:
    """Build a payload."""
    request = BuildRequest(
        usr=args.usr,
        kernel=args.kernel,
        pcr_policy=args.pcr_policy,
        version=args.version,
        keys=tuple(SigningKey.load(path) for path in args.key),
        signature_sizes=tuple(args.signature_size),
        major=args.format,
        compression=args.compression or (Compression.ZSTD if args.format > 1 else Compression.BZIP2),
        level=args.level,
        source_usr=args.source_usr,
        output=args.output,
        workers=args.workers,
    )
    with console.progress() as sink:
        report = build_payload(
            request, lambda done, total: sink(Progress(phase=Phase.BUILDING, done_bytes=done, total_bytes=total))
        )
    counts = {kind.name: count for kind, count in report.operations}
    if console.is_json:
        console.answer_json(
            {
                "schema": SCHEMA,
                "payload": str(args.output),
                "version": args.version,
                "size_bytes": report.payload_size_bytes,
                "sha256": report.payload_sha256.hex(),
                "parts": {name: {"size_bytes": size} for name, size in report.parts},
                "operations": counts,
            }
        )
    else:
        console.answer(f"{args.output}: {format_bytes(report.payload_size_bytes)}, {_count_text(counts)}")
    return ExitStatus.DONE


def _count_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def run_inspect(args: Namespace, console: Console) -> ExitStatus:
    """Show header and manifest."""
    with FileDevice(args.file) as file:
        header = Header.from_bytes(file.read_at(0, min(HEADER_MAX_BYTES, file.size_bytes)))
        metadata = file.read_at(0, min(header.metadata_size, file.size_bytes))
        manifest = Manifest.from_bytes(metadata[header.size_bytes :], header.major)
        size_bytes = file.size_bytes
    document = _describe(args.file, size_bytes, header, manifest)
    if console.is_json:
        console.answer_json(document)
        return ExitStatus.DONE
    release = f", release {manifest.version}" if manifest.version else ""
    lines = [f"{args.file}: format {header.major}{release}, {format_bytes(size_bytes)}, signatures not verified"]
    for part in document["parts"]:
        kind = "delta" if part["is_delta"] else "full"
        content = f"{format_bytes(part['size_bytes'])}, SHA-256 {part['sha256']}" if part["sha256"] else "not applied"
        lines += [f"  {part['name']} ({kind}): {content}", f"    {_count_text(part['operations'])}"]
    console.answer("\n".join(lines))
    return ExitStatus.DONE


def _describe(path: Path, size_bytes: int, header: Header, manifest: Manifest) -> dict[str, Any]:
    parts = []
    for part in manifest.parts:
        names = [operation.type.name for operation in part.operations]
        parts.append(
            {
                "name": str(part.name),
                "size_bytes": part.new.size_bytes if part.new else None,
                "sha256": part.new.sha256.hex() if part.new else None,
                "is_delta": is_delta(part),
                "operations": {name: names.count(name) for name in dict.fromkeys(names)},
            }
        )
    return {
        "schema": SCHEMA,
        "payload": str(path),
        "format": header.major,
        "version": manifest.version,
        "size_bytes": size_bytes,
        "metadata_size_bytes": header.metadata_size,
        "metadata_signature_size_bytes": header.metadata_signature_size,
        "data_size_bytes": manifest.blob_bytes,
        "signatures_size_bytes": manifest.signatures_size,
        "minor_version": manifest.minor_version,
        "parts": parts,
    }


def run_verify(args: Namespace, console: Console) -> ExitStatus:
    """Check everything that can be checked without a disk."""
    return _unpack(args, console, {}, {})


def run_extract(args: Namespace, console: Console) -> ExitStatus:
    """Unpack after checking."""
    outputs = {PartName.USR: args.usr, PartName.KERNEL: args.kernel}
    wanted = {name: path for name, path in outputs.items() if path is not None}
    if not wanted:
        raise ConfigurationError(Kind.USAGE, "extract: expected an output, got none", hint="give --usr OUT")
    old = {PartName.USR: args.source_usr, PartName.KERNEL: args.source_kernel}
    return _unpack(args, console, wanted, {name: path for name, path in old.items() if path is not None})


def _unpack(args: Namespace, console: Console, outputs: dict[PartName, Path], old: dict[PartName, Path]) -> ExitStatus:
    if args.public_key is None:
        raise VerificationError(
            Kind.KEY_MISSING,
            f"{args.file}: no public key was given, so nothing can be verified",
            hint="give --public-key PEM, or a folder of such files",
        )
    first_output = next(iter(outputs.values()), args.file)
    source = FileSource(args.file)
    try:
        request = UnpackRequest(
            source=source,
            keyring=KeyRing.load(args.public_key),
            outputs=outputs,
            old_contents=old,
            spool_folder=first_output.parent,
            workers=args.workers,
        )
        with console.progress() as sink:
            manifest, proof = unpack(request, progress=sink, cancel=CancelToken())
    finally:
        source.close()
    if console.is_json:
        console.answer_json(
            {
                "schema": SCHEMA,
                "payload": str(args.file),
                "version": manifest.version,
                "size_bytes": proof.size_bytes,
                "key": proof.key,
                "outputs": {name: str(path) for name, path in outputs.items()},
            }
        )
    else:
        done = "".join(f", {name} in {path}" for name, path in outputs.items())
        console.answer(f"{args.file}: good, signed by {proof.key}{done}")
    return ExitStatus.DONE


def run_digest(args: Namespace, console: Console) -> ExitStatus:
    """Print what to sign."""
    digests = payload_digests(args.file)
    found = {"metadata": digests.metadata.hex() if digests.metadata else None, "payload": digests.payload.hex()}
    if console.is_json:
        console.answer_json({"schema": SCHEMA, "digests": found})
    else:
        console.answer("\n".join(f"{name} {digest}" for name, digest in found.items() if digest))
    return ExitStatus.DONE


def run_attach(args: Namespace, console: Console) -> ExitStatus:
    """Fill in signatures."""
    attach_signatures(
        args.file,
        metadata_signatures=[_read_signature(path) for path in args.metadata_signature],
        payload_signatures=[_read_signature(path) for path in args.payload_signature],
        output=args.output,
    )
    if console.is_json:
        console.answer_json({"schema": SCHEMA, "payload": str(args.output)})
    else:
        console.answer(f"{args.output}: signatures attached; check it with `update-agent payload verify`")
    return ExitStatus.DONE


def _read_signature(path: Path) -> bytes:
    with FileDevice(path) as file:
        return file.read_at(0, min(file.size_bytes, 4096))
