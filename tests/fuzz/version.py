"""Version numbers: any text is one or is refused, and their order is an order."""

import contextlib
import random
from collections.abc import Iterator

from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.target import Target
from update_agent.errors import FormatError
from update_agent.fleet.catalog import version_in_name
from update_agent.formats.release import Version

_WORDS = (".", "-", "+", "0", "00", "1", "9" * 18, "a", "-rc.1", "+b", "\u0663", "\n", ".0.0", "-0", "-01", "\u00b2")


def _run(data: bytes) -> None:
    texts = data.decode("utf-8", "surrogateescape").split("|")
    versions = []
    for text in texts[:3]:
        with contextlib.suppress(FormatError):
            version = Version.parse(text)
            assert version.text == text == str(version)
            assert text.isascii()
            versions.append(version)
        with contextlib.suppress(FormatError):
            version_in_name(text)
    for one in versions:
        for two in versions:
            _check_pair(one, two)
    if len(versions) == 3:
        a, b, c = sorted(versions)
        assert a <= b <= c
        assert a <= c


def _check_pair(one: Version, two: Version) -> None:
    assert (one < two) + (one == two) + (one > two) == 1
    assert (one < two) == (two > one)
    assert one != two or hash(one) == hash(two)


def _seeds() -> Iterator[bytes]:
    for text in (
        *("4152.2.1|4230.1.0-rc.1|4230.1.0", "1|1.0|1.0.0+x", "24.04|24.4|24.10", "1-a.1|1-a.b|1-1"),
        *("name-4152.2.1.payload|a-1-2.gz|-1", "9" * 18, "1.2.3.4.5.6.7.8|1-0.0|1-00", "1.\u0663|\u00b2|1\n"),
    ):
        yield text.encode()


def _mutate(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(_WORDS).encode() + data[at + rng.randrange(3) :]


TARGETS = {"version": Target(run=_run, seeds=_seeds, mutate=_mutate, max_bytes=512)}
