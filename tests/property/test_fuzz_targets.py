"""Every fuzz target over its seeds and some random changes of them, without a fuzzer: scripts/fuzz looks longer."""

import os
import random
from pathlib import Path

import pytest

from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.run import main
from tests.fuzz.target import Target, join_parts, split_parts
from tests.fuzz.targets import TARGETS

MUTATIONS = 500
SEED_VARIABLE = "FUZZ_SEED"
"""Set it to the number that a failed test has printed."""


def run(name: str, target: Target, data: bytes, folder: Path) -> None:
    try:
        target.run(data)
    except BaseException:
        path = folder / "input"
        path.write_bytes(data)
        print(f"python -m tests.fuzz.run once {name} {path}")
        raise


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_target_survives_its_seeds(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    seeds = list(target.seeds())
    assert len(seeds) > 1
    for data in seeds:
        assert len(data) <= target.max_bytes
        run(name, target, data, tmp_path)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_target_survives_random_changes_of_its_seeds(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    seed = os.environ.get(SEED_VARIABLE) or str(random.randrange(1 << 32))
    print(f"{SEED_VARIABLE}={seed}")
    rng = random.Random(seed)
    seeds = list(target.seeds())
    for _ in range(MUTATIONS):
        data = rng.choice(seeds)
        for _ in range(rng.choice((1, 1, 2, 4))):
            change = mutate_bytes if target.mutate is None or rng.random() < 0.3 else target.mutate
            data = change(data, rng)
        run(name, target, data[: target.max_bytes], tmp_path)


@pytest.mark.parametrize("parts", [(b"a", b"", b"c" * 300), (b"", b"b", b"")])
def test_parts_joined_are_split_again(parts: tuple[bytes, ...]) -> None:
    assert split_parts(join_parts(parts), 3) == list(parts)


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\xffabc", b"\xff" * 9])
def test_any_bytes_are_split_into_parts(data: bytes) -> None:
    assert len(split_parts(data, 4)) == 4


def test_runner_lists_targets_writes_seeds_and_runs_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    assert set(capsys.readouterr().out.split()) == set(TARGETS)
    main(["seed", "version", str(tmp_path)])
    written = {path.read_bytes() for path in tmp_path.iterdir()}
    assert written == set(TARGETS["version"].seeds())
    for path in tmp_path.iterdir():
        main(["once", "version", str(path)])
