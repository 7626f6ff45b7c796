"""The running system's disk on a real partition, whose number is not what its slot would suggest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.images import MIB, make_sgdisk_image
from tests.support.slot_disks import attached, make_file_system, make_tree, require_private_mounts, slot_b
from update_agent.domain.slots import SlotName, booted_slot
from update_agent.host.blockdev import FileDevice
from update_agent.host.disk import GptDisk

FIND = """
import json, os, sys
from update_agent.host.system_disk import find_booted
os.chroot(sys.argv[1])
found = find_booted()
print(json.dumps([str(found.disk), found.partition_number, str(found.partition)]))
"""

MOUNT = """
set -e
for each in proc sys dev; do mkdir "$2/$each"; mount --rbind "/$each" "$2/$each"; done
mount -o ro "$1" "$2/usr"
exec "$3" -c "$4" "$2"
"""


def find_with_usr_on(node: Path, root: Path) -> tuple[Path, int, Path]:
    """What is found by a process that has the device mounted on its /usr, which nobody else sees."""
    (root / "usr").mkdir(parents=True)
    argv: list[str | Path] = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", node, root, sys.executable, FIND]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    disk, number, partition = json.loads(done.stdout)
    return Path(disk), number, Path(partition)


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_find_booted_finds_the_partition_that_usr_is_on(tmp_path: Path, kind: str) -> None:
    require_private_mounts()
    content = make_file_system(make_tree(tmp_path / "tree", None), tmp_path / "slot.img", kind=kind)
    # Slot B as partition 13, A as 14.
    moved = ("--transpose=3:14", "--transpose=4:13")
    image = make_sgdisk_image(tmp_path / "disk.img", usr_bytes=max(2 * MIB, len(content)), extra_args=moved)
    with image.open("r+b") as file:
        file.seek(slot_b(image).start_bytes)
        file.write(content)
    with attached(image) as loop, FileDevice(loop) as device:
        found = find_with_usr_on(Path(f"{loop}p13"), tmp_path / "root")
        assert found == (loop, 13, Path(f"{loop}p13"))
        assert booted_slot(GptDisk(device, sector_size_bytes=device.logical_sector_bytes), found[1]) is SlotName.B
