"""`payload build|inspect|verify|extract|digest|attach-signature`: for those who make and publish releases."""

import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from update_agent.api.forms import SCHEMA, ExitStatus
from update_agent.cli.console import Console, format_bytes
from update_agent.domain.apply import is_delta
from update_agent.domain.build import build_payload
from update_agent.domain.build_request import BuildRequest
from update_agent.domain.encode import Compression
from update_agent.domain.progress import CancelToken, Phase, Progress
from update_agent.domain.signing import attach_signatures, payload_digests
from update_agent.domain.trust import KeyRing, SigningKey
from update_agent.domain.unpack import UnpackRequest, unpack
from update_agent.errors import ConfigurationError, FormatError, Kind, VerificationError
from update_agent.formats.manifest import Manifest, PartName
from update_agent.formats.payload import HEADER_MAX_BYTES, Header
from update_agent.host.blockdev import FileDevice
from update_agent.host.memory import keep_freed_memory
from update_agent.net.source import FileSource


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
        compression=Compression(args.compression or ("zstd" if args.format > 1 else "bzip2")),
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
        if header.metadata_size > file.size_bytes:
            raise FormatError(
                Kind.PAYLOAD_TRUNCATED,
                f"{args.file}: expected a manifest up to byte {header.metadata_size}, the file has {file.size_bytes}",
                hint="the file is incomplete; get it again",
            )
        metadata = file.read_at(0, header.metadata_size)
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
    if args.usr and args.kernel and args.usr.resolve() == args.kernel.resolve():
        raise ConfigurationError(Kind.USAGE, f"extract: expected two places, got {args.usr} for both parts")
    old = {PartName.USR: args.source_usr, PartName.KERNEL: args.source_kernel}
    return _unpack(args, console, wanted, {name: path for name, path in old.items() if path is not None})


def _unpack(args: Namespace, console: Console, outputs: dict[PartName, Path], old: dict[PartName, Path]) -> ExitStatus:
    if args.public_key is None:
        raise VerificationError(
            Kind.KEY_MISSING,
            f"{args.file}: no public key was given, so nothing can be verified",
            hint="give --public-key PEM, or a folder of such files",
        )
    keep_freed_memory()
    # What is only verified may lie where nothing can be written.
    first_output = next(iter(outputs.values()), None)
    spool_folder = first_output.parent if first_output else Path(tempfile.gettempdir())
    source = FileSource(args.file)
    try:
        request = UnpackRequest(
            source=source,
            keyring=KeyRing.load(args.public_key),
            outputs=outputs,
            old_contents=old,
            spool_folder=spool_folder,
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
