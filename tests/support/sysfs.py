"""Block devices as /sys shows them, in a folder."""

import os
from pathlib import Path


class FakeSysfs:
    """A `/sys` with the devices that a test puts there, wherever and however they are called."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "dev/block").mkdir(parents=True)

    def disk(self, name: str, number: int) -> Path:
        """A whole disk; `name` is its node's under /dev."""
        return self._device(self.root / "devices/pci0/block" / name.replace("/", "!"), name, number)

    def partition(self, disk: Path, name: str, index: int, number: int) -> Path:
        """A partition of it."""
        device = self._device(disk / name.replace("/", "!"), name, number)
        (device / "partition").write_text(f"{index}\n")
        return device

    def mapped(self, name: str, number: int, *below: Path) -> Path:
        """A device made of others."""
        device = self._device(self.root / "devices/virtual/block" / name, name, number)
        for each in below:
            (device / "slaves" / each.name).symlink_to(each)
        return device

    def _device(self, place: Path, name: str, number: int) -> Path:
        place.mkdir(parents=True)
        text = f"{os.major(number)}:{os.minor(number)}"
        (place / "dev").write_text(f"{text}\n")
        (place / "uevent").write_text(f"MAJOR={os.major(number)}\nDEVNAME={name}\nDEVTYPE=x\n")
        if not (place.parent / "dev").exists():
            (place / "slaves").mkdir()
        (self.root / "dev/block" / text).symlink_to(place)
        return place
