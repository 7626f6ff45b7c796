"""Partitions as the kernel knows them."""

from pathlib import Path

import pyudev

from update_agent.errors import DeviceError, Kind


def find_partition_node(disk: Path, number: int) -> Path | None:
    """The device node of a partition, or None where the kernel has none: an image file, a disk not scanned.

    A partition has a page cache of its own, so what boots from the node must be written through the node.

    Raises:
        DeviceError: device-open, when `disk` is a block device that the kernel does not know.
    """
    try:
        context = pyudev.Context()
        parent = pyudev.Devices.from_device_file(context, str(disk))
        for child in context.list_devices(subsystem="block", DEVTYPE="partition", parent=parent):
            if child.attributes.asint("partition") == number and child.device_node is not None:
                return Path(child.device_node)
    except (OSError, ValueError, KeyError, UnicodeDecodeError, pyudev.DeviceNotFoundError) as error:
        raise DeviceError(
            Kind.DEVICE_OPEN, f"{disk}: cannot list its partitions: {error}", hint="is /sys mounted?"
        ) from error
    return None
