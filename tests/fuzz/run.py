"""Runs fuzz targets; scripts/fuzz is what people call.

python -m tests.fuzz.run list
python -m tests.fuzz.run seed TARGET FOLDER        writes the inputs to start from, in place of older ones
python -m tests.fuzz.run fuzz TARGET [OPTION...]   options and folders go to libFuzzer; needs atheris
python -m tests.fuzz.run once TARGET FILE          one input, such as a finding; needs nothing
"""

import hashlib
import importlib
import logging
import random
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.fuzz.target import Target


def _load() -> Mapping[str, Target]:
    targets: Mapping[str, Target] = importlib.import_module("tests.fuzz.targets").TARGETS
    return targets


def _seed(target: Target, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("seed-*"):
        old.unlink()
    for data in target.seeds():
        (folder / f"seed-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)


def _fuzz(name: str, options: list[str]) -> None:
    import atheris

    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["update_agent"]):
        target = _load()[name]

    def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if target.mutate is None or rng.random() < 0.4:
            return bytes(atheris.Mutate(data, max_bytes))
        return target.mutate(data, rng)[:max_bytes]

    arguments = [sys.argv[0], f"-max_len={target.max_bytes}", *options]
    atheris.Setup(arguments, target.run, custom_mutator=mutate)
    atheris.Fuzz()


def main(arguments: list[str]) -> None:
    """Do what the first argument says."""
    match arguments:
        case ["list"]:
            print(*_load(), sep="\n")
        case ["seed", name, folder]:
            _seed(_load()[name], Path(folder))
        case ["fuzz", name, *options]:
            _fuzz(name, options)
        case ["once", name, file]:
            _load()[name].run(Path(file).read_bytes())
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
