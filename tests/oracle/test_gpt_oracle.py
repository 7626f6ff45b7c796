"""Other programs on the same images: sgdisk, sfdisk and partx read what we wrote, cgpt does what we compute."""

import json
import random
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.images import (
    EFI_TYPE,
    HAS_SGDISK,
    MIB,
    NO_SGDISK,
    USR_A_NUMBER,
    USR_B_NUMBER,
    Geometry,
    Part,
    ab_parts,
    boot_attributes,
    make_image,
    make_sgdisk_image,
    run_sgdisk,
)
from update_agent.domain import activation
from update_agent.domain.slots import Slot, SlotTable
from update_agent.formats.gptprio import BootFlags, prioritize
from update_agent.host.blockdev import FileDevice
from update_agent.host.disk import GptDisk

CGPT_KERNEL_TYPE = "fe3a2a5d-4f32-41a7-b725-accc3285a309"
"""Upstream cgpt ranks ChromeOS kernels; Flatcar's build of it ranks USR partitions by the same code."""

requires_sgdisk = pytest.mark.skipif(not HAS_SGDISK, reason=NO_SGDISK)
requires_cgpt = pytest.mark.skipif(shutil.which("cgpt") is None, reason="cgpt is not installed")
requires_sfdisk = pytest.mark.skipif(shutil.which("sfdisk") is None, reason="sfdisk (package fdisk) is not installed")
requires_partx = pytest.mark.skipif(shutil.which("partx") is None, reason="partx (util-linux) is not installed")


def run(*args: str) -> str:
    done = subprocess.run(args, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(args)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: sgdisk sleeps a second whenever it writes."""
    return make_sgdisk_image(tmp_path_factory.mktemp("pristine") / "disk.img")


@pytest.fixture
def image(tmp_path: Path, pristine: Path) -> Path:
    return Path(shutil.copy(pristine, tmp_path / "disk.img"))


def change(path: Path, act: Callable[[GptDisk, Slot], object]) -> None:
    with FileDevice(path, writable=True) as device:
        disk = GptDisk(device)
        act(disk, SlotTable.from_disk(disk).b)


def sgdisk_attributes(path: Path, number: int) -> int:
    found = re.search(r"Attribute flags: ([0-9A-F]{16})", run_sgdisk(path, f"--info={number}"))
    assert found
    return int(found.group(1), 16)


def assert_sgdisk_finds_no_problem(path: Path) -> None:
    output = run_sgdisk(path, "--verify")
    assert "No problems found" in output, output


@requires_sgdisk
def test_sgdisk_agrees_with_every_change_of_flags(image: Path) -> None:
    steps: list[tuple[Callable[[GptDisk, Slot], object], int, int]] = [
        (activation.activate, boot_attributes(1, 0, 1), boot_attributes(2, 1, 0)),
        (lambda disk, _: activation.consume_boot(disk), boot_attributes(1, 0, 1), boot_attributes(2, 0, 0)),
        (activation.mark_good, boot_attributes(1, 0, 1), boot_attributes(2, 0, 1)),
        (activation.rollback, boot_attributes(2, 0, 1), boot_attributes(1, 0, 1)),
        (activation.deactivate, boot_attributes(2, 0, 1), boot_attributes(0, 0, 0)),
    ]
    for act, a, b in steps:
        change(image, act)
        assert_sgdisk_finds_no_problem(image)
        assert (sgdisk_attributes(image, USR_A_NUMBER), sgdisk_attributes(image, USR_B_NUMBER)) == (a, b)


@requires_sgdisk
@pytest.mark.parametrize("seed", range(5))
def test_sgdisk_reads_the_attribute_bits_that_were_set(image: Path, seed: int) -> None:
    bits = random.Random(seed)
    values = {USR_A_NUMBER: bits.getrandbits(64), USR_B_NUMBER: bits.getrandbits(64)}
    with FileDevice(image, writable=True) as device:
        GptDisk(device).set_attributes(values)
    assert_sgdisk_finds_no_problem(image)
    assert {number: sgdisk_attributes(image, number) for number in values} == values


@requires_sgdisk
def test_attributes_that_sgdisk_set_are_read(image: Path) -> None:
    run_sgdisk(image, f"--attributes={USR_B_NUMBER}:=:01f300000000000d")
    with FileDevice(image) as device:
        usr_b = SlotTable.from_disk(GptDisk(device)).b
    assert usr_b.partition.attributes == 0x01F3_0000_0000_000D
    assert usr_b.flags == BootFlags(priority=3, tries=15, successful=True)


@requires_sgdisk
@pytest.mark.parametrize("place", ["primary header", "primary entries", "backup header", "backup entries"])
def test_sgdisk_finds_no_problem_after_a_repair(image: Path, place: str) -> None:
    sound = image.read_bytes()
    at = {"primary header": 512, "primary entries": 1024, "backup header": -512, "backup entries": -512 * 33}[place]
    start = at % len(sound)
    image.write_bytes(sound[:start] + b"\xee" * 100 + sound[start + 100 :])
    with FileDevice(image, writable=True) as device:
        assert GptDisk(device).repair()
    assert image.read_bytes() == sound
    assert_sgdisk_finds_no_problem(image)


@requires_sgdisk
def test_sgdisk_main_table_moved_for_boot_code_survives_a_lost_header(tmp_path: Path) -> None:
    path = make_sgdisk_image(tmp_path / "disk.img", extra_args=["--move-main-table=1024"])
    sound = bytearray(path.read_bytes())
    sound[1024:4096] = b"boot" * 768
    path.write_bytes(sound[:512] + bytes(512) + sound[1024:])
    with FileDevice(path, writable=True) as device:
        GptDisk(device).repair()
    assert path.read_bytes() == sound
    assert_sgdisk_finds_no_problem(path)


@requires_sgdisk
@pytest.mark.parametrize("entries", [4, 128, 512])
def test_sgdisk_tables_of_any_length_are_changed(tmp_path: Path, entries: int) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4 * MIB))
    run_sgdisk(path, f"--resize-table={entries}", "--new=3:0:+1M", "--change-name=3:x")
    with FileDevice(path, writable=True) as device:
        disk = GptDisk(device)
        assert disk.table.header.entry_count >= entries
        disk.set_attributes({3: 1 << 56})
    assert_sgdisk_finds_no_problem(path)
    assert sgdisk_attributes(path, 3) == 1 << 56


@requires_sgdisk
def test_image_grown_then_moved_by_sgdisk_is_changed(image: Path) -> None:
    with image.open("r+b") as file:
        file.truncate(image.stat().st_size + 5 * MIB)
    change(image, activation.activate)
    run_sgdisk(image, "--move-second-header")
    change(image, activation.mark_good)
    assert_sgdisk_finds_no_problem(image)
    assert sgdisk_attributes(image, USR_B_NUMBER) == boot_attributes(2, 0, 1)


@requires_sgdisk
def test_partitions_are_where_sgdisk_says(image: Path) -> None:
    with FileDevice(image) as device:
        disk = GptDisk(device)
    for partition in disk.partitions:
        info = run_sgdisk(image, f"--info={partition.number}")
        assert f"First sector: {partition.start_bytes // 512} " in info
        assert f"Partition size: {partition.size_bytes // 512} " in info
        assert str(partition.unique_guid).upper() in info
        assert str(partition.type_guid).upper() in info
        assert f"'{partition.name}'" in info
    assert str(disk.disk_guid).upper() in run_sgdisk(image, "--print")


@requires_sgdisk
def test_images_made_in_memory_are_sound_for_sgdisk(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(make_image(ab_parts()))
    assert_sgdisk_finds_no_problem(path)


def sfdisk_bits(attrs: str) -> set[int]:
    """The bits in what sfdisk prints, such as `RequiredPartition GUID:48,56`."""
    bits = {int(word) for word in re.findall(r"\d+", attrs)}
    names = {"RequiredPartition": 0, "NoBlockIOProtocol": 1, "LegacyBIOSBootable": 2}
    return bits | {bit for name, bit in names.items() if name in attrs}


@requires_sfdisk
@requires_sgdisk
@pytest.mark.parametrize("value", [boot_attributes(2, 1), boot_attributes(15, 15, 1), boot_attributes(5, 9, 1) | 0b101])
def test_sfdisk_reads_the_attribute_bits_that_were_set(image: Path, value: int) -> None:
    with FileDevice(image, writable=True) as device:
        GptDisk(device).set_attributes({USR_B_NUMBER: value})
    table = json.loads(run("sfdisk", "--json", str(image)))["partitiontable"]
    usr_b = next(partition for partition in table["partitions"] if partition["name"] == "USR-B")
    assert sfdisk_bits(usr_b["attrs"]) == {bit for bit in range(64) if value >> bit & 1}


@requires_sfdisk
@pytest.mark.parametrize("entry_bytes", [256, 512])
def test_sfdisk_reads_entries_larger_than_usual(tmp_path: Path, entry_bytes: int) -> None:
    """The only oracle for these: sgdisk, cgpt, libblkid and Linux know entries of 128 bytes alone."""
    path = tmp_path / "disk.img"
    path.write_bytes(make_image(ab_parts(), Geometry(entry_bytes=entry_bytes), spare_sectors=4096))
    change(path, activation.activate)
    table = json.loads(run("sfdisk", "--json", str(path)))["partitiontable"]
    attrs = {partition["name"]: sfdisk_bits(partition.get("attrs", "")) for partition in table["partitions"]}
    assert attrs == {"EFI-SYSTEM": set(), "USR-A": {48, 56}, "USR-B": {49, 52}, "ROOT": set()}


@requires_partx
@pytest.mark.parametrize("sector", [512, 4096])
def test_partx_reads_the_flags_on_either_sector_size(tmp_path: Path, sector: int) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(make_image(ab_parts(), Geometry(sector_bytes=sector), spare_sectors=4096))
    change(path, activation.activate)
    shown = run("partx", "--show", "--noheadings", "--output=NR,NAME,FLAGS", f"--sector-size={sector}", str(path))
    flags = {line.split()[0]: int(line.split()[2], 16) for line in shown.splitlines() if "USR" in line}
    assert flags == {"3": boot_attributes(1, 0, 1), "4": boot_attributes(2, 1, 0)}


def random_flags(rng: random.Random, count: int) -> dict[int, BootFlags]:
    highest = rng.choice([1, 3, 15])
    return {
        number: BootFlags(
            priority=rng.randint(0, highest), tries=rng.randint(0, 15), successful=rng.choice([False, True])
        )
        for number in range(1, count + 1)
    }


def cgpt_image(path: Path, flags: dict[int, BootFlags]) -> None:
    kernels = [
        Part(
            number=number,
            label=f"KERN-{number}",
            sectors=1,
            type_guid=uuid.UUID(CGPT_KERNEL_TYPE),
            attributes=boot_attributes(value.priority, value.tries, int(value.successful)),
        )
        for number, value in flags.items()
    ]
    path.write_bytes(make_image([*kernels, Part(number=100, label="EFI", sectors=1, type_guid=EFI_TYPE)]))


def cgpt_flags(path: Path, numbers: range) -> dict[int, BootFlags]:
    """By our reader; that it agrees with cgpt's own is another test."""
    with FileDevice(path) as device:
        disk = GptDisk(device)
        assert not disk.problems
        attributes = {partition.number: partition.attributes for partition in disk.partitions}
    return {number: BootFlags.from_attributes(attributes[number]) for number in numbers}


@requires_cgpt
@pytest.mark.parametrize("seed", range(60))
def test_cgpt_prioritize_gives_the_same_priorities(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    count = rng.choice([2, 2, 3, 5, 14, 20])
    before = random_flags(rng, count)
    first = rng.choice([None, rng.randint(1, count), rng.randint(1, count)])
    top = rng.choice([None, None, rng.randint(1, 15)])
    with_friends = first is not None and rng.choice([False, True])
    path = tmp_path / "disk.img"
    cgpt_image(path, before)
    args = [
        *(["-i", str(first)] if first else []),
        *(["-P", str(top)] if top else []),
        *(["-f"] if with_friends else []),
    ]
    run("cgpt", "prioritize", *args, str(path))
    after = prioritize(before, first, top=top, with_friends=with_friends)
    assert cgpt_flags(path, range(1, count + 1)) == after, args


@requires_cgpt
def test_cgpt_show_reads_the_flags_that_were_set(tmp_path: Path) -> None:
    rng = random.Random(7)
    path = tmp_path / "disk.img"
    cgpt_image(path, random_flags(rng, 4))
    wanted = random_flags(rng, 4)
    with FileDevice(path, writable=True) as device:
        GptDisk(device).set_attributes({number: flags.to_attributes(0) for number, flags in wanted.items()})
    for number, flags in wanted.items():
        shown = [run("cgpt", "show", "-i", str(number), option, str(path)).strip() for option in ("-P", "-T", "-S")]
        assert shown == [str(flags.priority), str(flags.tries), str(int(flags.successful))]


@requires_cgpt
@pytest.mark.parametrize("at", [512, 1024, -512, -512 * 33])
def test_cgpt_repair_writes_the_same_bytes(tmp_path: Path, at: int) -> None:
    sound = make_image(ab_parts(b=boot_attributes(2, 1)))
    damaged = sound.copy()
    start = at % len(sound)
    damaged[start : start + 64] = b"\xee" * 64
    theirs, ours = tmp_path / "theirs.img", tmp_path / "ours.img"
    theirs.write_bytes(damaged)
    ours.write_bytes(damaged)
    run("cgpt", "repair", str(theirs))
    with FileDevice(ours, writable=True) as device:
        GptDisk(device).repair()
    assert ours.read_bytes() == theirs.read_bytes() == sound


@requires_cgpt
@pytest.mark.parametrize("seed", range(5))
def test_activate_is_what_the_post_install_does_with_cgpt(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    before = {**random_flags(rng, 1), 2: BootFlags(priority=rng.randint(0, 15), tries=0, successful=False)}
    theirs, ours = tmp_path / "theirs.img", tmp_path / "ours.img"
    cgpt_image(theirs, before)
    run("cgpt", "add", "-i2", "-S0", "-T1", str(theirs))
    run("cgpt", "prioritize", "-i2", str(theirs))
    a, b = (boot_attributes(flags.priority, flags.tries, int(flags.successful)) for flags in before.values())
    ours.write_bytes(make_image(ab_parts(a=a, b=b)))
    change(ours, activation.activate)
    with FileDevice(ours) as device:
        slots = SlotTable.from_disk(GptDisk(device))
    assert cgpt_flags(theirs, range(1, 3)) == {1: slots.a.flags, 2: slots.b.flags}
