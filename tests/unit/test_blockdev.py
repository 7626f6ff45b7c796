"""Image files as block devices; what a real block device does differently is in the integration tests."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from update_agent.errors import DeviceError, Kind
from update_agent.host.blockdev import DIRECT_IO_ALIGNMENT_BYTES, FileDevice, Region, aligned_buffer

SIZE = 64 * 1024
DATA = bytes(range(256)) * (SIZE // 256)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(DATA)
    return path


def failing(number: int) -> Callable[..., int]:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def test_file_device_knows_what_it_is(image: Path) -> None:
    with FileDevice(image) as device:
        assert (device.name, device.path, device.size_bytes) == (str(image), image, SIZE)
        assert not device.is_block
        assert device.logical_sector_bytes is None


def test_file_device_reads_what_was_written(image: Path) -> None:
    with FileDevice(image, writable=True) as device:
        device.write_at(1000, memoryview(b"hello"))
        device.flush()
        assert device.read_at(998, 9) == DATA[998:1000] + b"hello" + DATA[1005:1007]
    assert image.read_bytes()[1000:1005] == b"hello"
    assert image.stat().st_size == SIZE


@pytest.mark.parametrize(("offset", "length"), [(0, SIZE), (0, 4096), (4096, 8192), (1, 4096), (4096, 5), (SIZE, 0)])
def test_file_device_uncached_read_gives_the_same(image: Path, offset: int, length: int) -> None:
    with FileDevice(image) as device:
        for _ in range(2):
            buffer = aligned_buffer(max(length, 1))[:length]
            device.read_into(offset, buffer, uncached=True)
            assert buffer == DATA[offset : offset + length]


def test_file_device_uncached_read_into_unaligned_memory_gives_the_same(image: Path) -> None:
    with FileDevice(image) as device:
        buffer = memoryview(bytearray(DIRECT_IO_ALIGNMENT_BYTES + 1))[1:]
        device.read_into(0, buffer, uncached=True)
        assert buffer == DATA[:DIRECT_IO_ALIGNMENT_BYTES]


@pytest.fixture
def block_image(image: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that passes for a block device."""
    monkeypatch.setattr(stat, "S_ISBLK", lambda _mode: True)
    return image


@pytest.mark.parametrize(("offset", "length"), [(0, 4096), (512, 512), (1, 3), (SIZE - 5, 5)])
def test_block_device_uncached_read_gives_the_same(block_image: Path, offset: int, length: int) -> None:
    with FileDevice(block_image) as device:
        for _ in range(2):
            buffer = aligned_buffer(max(length, 1))[:length]
            device.read_into(offset, buffer, uncached=True)
            assert buffer == DATA[offset : offset + length]


def test_file_device_uncached_read_is_of_the_file_that_was_opened(image: Path) -> None:
    with FileDevice(image) as device:
        image.rename(image.with_name("moved"))
        image.write_bytes(bytes(SIZE))
        buffer = aligned_buffer(4096)
        device.read_into(0, buffer, uncached=True)
        assert buffer == DATA[:4096]


def test_file_device_that_cannot_be_opened_again_is_a_device_error(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_proc(_path: str, _flags: int) -> int:
        raise OSError(errno.ENOENT, "no /proc")

    with FileDevice(image) as device:
        monkeypatch.setattr(os, "open", no_proc)
        with pytest.raises(DeviceError) as caught:
            device.read_into(0, aligned_buffer(4096), uncached=True)
    assert caught.value.kind is Kind.DEVICE_OPEN


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_block_device_direct_read_that_fails(block_image: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """EINVAL means that the device wants it otherwise, anything else that the medium is broken."""
    with FileDevice(block_image) as device:
        device.read_into(0, aligned_buffer(4096), uncached=True)
        real, direct = os.preadv, device._uncached_fd

        def fail_direct(fd: int, buffers: list[memoryview], offset: int) -> int:
            if fd == direct:
                raise OSError(number, os.strerror(number))
            return real(fd, buffers, offset)

        monkeypatch.setattr(os, "preadv", fail_direct)
        buffer = aligned_buffer(4096)
        if number == errno.EINVAL:
            device.read_into(4096, buffer, uncached=True)
            assert buffer == DATA[4096:8192]
        else:
            with pytest.raises(DeviceError) as caught:
                device.read_into(4096, buffer, uncached=True)
            assert caught.value.kind is Kind.DEVICE_IO


def test_block_device_without_direct_access_reads_through_the_cache(
    block_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def open_cached(path: Path | str, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no O_DIRECT here")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", open_cached)
    with FileDevice(block_image) as device:
        for _ in range(2):
            buffer = aligned_buffer(4096)
            device.read_into(0, buffer, uncached=True)
            assert buffer == DATA[:4096]


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (SIZE, 1), (0, SIZE + 1), (SIZE + 1, 0)])
def test_file_device_access_outside_is_refused(image: Path, offset: int, length: int) -> None:
    with FileDevice(image) as device, pytest.raises(DeviceError) as caught:
        device.read_at(offset, length)
    assert caught.value.kind is Kind.DEVICE_TOO_SMALL


def test_file_device_write_outside_is_refused_and_file_does_not_grow(image: Path) -> None:
    with FileDevice(image, writable=True) as device, pytest.raises(DeviceError) as caught:
        device.write_at(SIZE - 1, b"12")
    assert caught.value.kind is Kind.DEVICE_TOO_SMALL
    assert image.read_bytes() == DATA


def test_file_device_short_reads_and_writes_go_on(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv, pwrite = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:1000]], offset))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:1000], offset))
    with FileDevice(image, writable=True) as device:
        device.write_at(0, DATA[::-1])
        assert device.read_at(0, SIZE) == DATA[::-1]


def test_file_device_that_became_shorter_is_an_error(image: Path) -> None:
    with FileDevice(image) as device:
        os.truncate(image, 100)
        with pytest.raises(DeviceError, match="unexpected end of device at byte 100"):
            device.read_at(0, 200)


@pytest.mark.parametrize(("number", "kind"), [(errno.EIO, Kind.DEVICE_IO), (errno.ENOSPC, Kind.NO_SPACE)])
def test_file_device_failing_write_and_flush_say_why(
    image: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: Kind
) -> None:
    with FileDevice(image, writable=True) as device:
        monkeypatch.setattr(os, "pwrite", failing(number))
        monkeypatch.setattr(os, "fdatasync", failing(number))
        with pytest.raises(DeviceError) as caught:
            device.write_at(0, b"1")
        assert caught.value.kind is kind
        with pytest.raises(DeviceError) as caught:
            device.flush()
        assert caught.value.kind is kind


def test_file_device_failing_read_is_an_error(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileDevice(image) as device:
        monkeypatch.setattr(os, "preadv", failing(errno.EIO))
        with pytest.raises(DeviceError) as caught:
            device.read_at(0, 1)
    assert caught.value.kind is Kind.DEVICE_IO


def test_file_device_missing_says_check_the_path(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        FileDevice(tmp_path / "missing")
    assert (caught.value.kind, caught.value.hint) == (Kind.DEVICE_OPEN, "check the path")


def test_file_device_busy_says_unmount(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", failing(errno.EBUSY))
    with pytest.raises(DeviceError) as caught:
        FileDevice(image)
    assert "unmount it" in str(caught.value.hint)


def test_file_device_exclusive_asks_the_kernel_for_a_block_device_alone(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[int] = []
    real = os.open

    def note(path: Path, wanted: int, *rest: int) -> int:
        flags.append(wanted)
        return real(path, wanted & ~os.O_EXCL, *rest)

    monkeypatch.setattr(os, "open", note)
    FileDevice(image, exclusive=True).close()
    monkeypatch.setattr(stat, "S_ISBLK", lambda _: True)
    FileDevice(image, exclusive=True).close()
    assert [bool(wanted & os.O_EXCL) for wanted in flags] == [False, True]


def test_file_device_block_device_states_its_sector_size(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stat, "S_ISBLK", lambda _: True)
    monkeypatch.setattr("fcntl.ioctl", lambda *_: (4096).to_bytes(4, "little"))
    with FileDevice(image) as device:
        assert device.logical_sector_bytes == 4096


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_file_device_other_kinds_of_files_are_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "thing")
    with pytest.raises(DeviceError) as caught:
        FileDevice(tmp_path / "thing")
    assert caught.value.kind is Kind.DEVICE_OPEN


def test_region_is_a_window(image: Path) -> None:
    with FileDevice(image, writable=True) as device:
        region = Region(device, 1000, 500, name="USR-B")
        assert (region.name, region.size_bytes) == ("USR-B", 500)
        region.write_at(10, b"inside")
        region.flush()
        buffer = memoryview(bytearray(6))
        region.read_into(10, buffer)
        assert (region.read_at(10, 6), bytes(buffer)) == (b"inside", b"inside")
        assert device.read_at(1010, 6) == b"inside"


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (500, 1), (0, 501)])
def test_region_access_outside_is_refused_though_the_device_goes_on(image: Path, offset: int, length: int) -> None:
    with FileDevice(image, writable=True) as device:
        region = Region(device, 1000, 500, name="USR-B")
        with pytest.raises(DeviceError):
            region.read_at(offset, length)
        with pytest.raises(DeviceError):
            region.read_into(offset, memoryview(bytearray(max(length, 2))))
        with pytest.raises(DeviceError):
            region.write_at(offset, bytes(max(length, 2)))


def test_region_beyond_device_is_refused(image: Path) -> None:
    with FileDevice(image) as device, pytest.raises(DeviceError):
        Region(device, SIZE - 10, 11, name="USR-B")
