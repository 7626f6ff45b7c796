"""This machine: block devices, files, and what else the kernel offers."""
