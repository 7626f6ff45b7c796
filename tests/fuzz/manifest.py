"""The manifest of both major versions: any bytes, and well-formed messages that say the wrong thing."""

import contextlib
import functools
import random
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from tests.fuzz.mutation import mutate_bytes, mutate_message
from tests.fuzz.samples import SAMPLES
from tests.fuzz.target import Target
from tests.support.payloads import DATA
from update_agent.errors import FormatError, VerificationError
from update_agent.formats import update_metadata_pb2 as pb2
from update_agent.formats.manifest import Manifest
from update_agent.formats.payload import Header


def _run(data: bytes, *, major: int) -> None:
    with contextlib.suppress(FormatError, VerificationError):
        manifest = Manifest.from_bytes(data, major)
        _check_round_trip(manifest)


def _check_round_trip(manifest: Manifest) -> None:
    try:
        written = manifest.to_bytes()
        again = Manifest.from_bytes(written, manifest.major)
    except (FormatError, VerificationError) as error:
        raise AssertionError("what was read cannot be written and read again") from error
    assert again == manifest
    assert again.to_bytes() == written
    assert sum(len(part.operations) for part in manifest.parts) <= 131072


def _seeds(*, major: int) -> Iterator[bytes]:
    for sample in SAMPLES:
        payload = sample.payload
        header = Header.from_bytes(payload)
        if header.major == major:
            yield payload[header.size_bytes : header.metadata_size]
    if major == 1:
        for path in sorted(DATA.glob("*.payload")):
            payload = path.read_bytes()
            header = Header.from_bytes(payload)
            yield payload[header.size_bytes : header.metadata_size]


def _mutate(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    try:
        message = pb2.Manifest.FromString(data)
    except DecodeError:
        return mutate_bytes(data, rng)
    mutate_message(message, rng)
    return message.SerializeToString()


TARGETS = {
    f"manifest-v{major}": Target(
        run=functools.partial(_run, major=major), seeds=functools.partial(_seeds, major=major), mutate=_mutate
    )
    for major in (1, 2)
}
