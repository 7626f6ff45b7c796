"""The bus service with an agent that does nothing, as a program; see `tests.support.dbus.bus_server`."""

import signal
import sys
from dataclasses import replace

from gi.repository import GLib

from tests.support.dbus import RecordingCommands
from update_agent.daemon.bus import BusService


class Server(RecordingCommands):
    """Changes with every attempt."""

    def attempt_update(self) -> None:
        super().attempt_update()
        self.signal(new_size=len(self.calls), current_operation="UPDATE_STATUS_DOWNLOADING")
        self.change(state="downloading", progress_done_bytes=len(self.calls))

    def reset(self) -> None:
        self.compat = replace(self.compat, new_size=0)
        super().reset()


def main(address: str) -> None:
    service = BusService(Server(), address=address)
    service.start()
    loop = GLib.MainLoop()
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGTERM, loop.quit)
    print("ready", flush=True)
    loop.run()
    service.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
