"""The service: the loop, its child process, its D-Bus objects, its metrics."""
