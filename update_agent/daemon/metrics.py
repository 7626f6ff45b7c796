"""Metrics of the agent in the text format of Prometheus: over HTTP, and in a file for node_exporter."""

import logging
from pathlib import Path
from typing import Final

from update_agent.api.node import NodeStatus
from update_agent.config.paths import Paths
from update_agent.config.settings import MetricsSettings
from update_agent.daemon.metrics_server import MetricsServer, parse_listen
from update_agent.daemon.node_metrics import NodeMetrics
from update_agent.daemon.ports import CompatStatus, Loop, Timer
from update_agent.daemon.prometheus_lite import CollectorRegistry, ProcessCollector, generate_latest
from update_agent.domain.journal_events import JournalEvent, log_event
from update_agent.errors import ConfigurationError

TEXTFILE_INTERVAL_SECS: Final = 15.0
"""The file is not written more often; node_exporter is rarely asked more often."""

_log = logging.getLogger(__name__)


class Metrics:
    """Listens to the agent, answers Prometheus. Nothing it does can fail an update: problems are logged."""

    def __init__(self, settings: MetricsSettings, paths: Paths, loop: Loop) -> None:
        self._settings = settings
        self._paths = paths
        self._loop = loop
        self._node = NodeMetrics()
        # node_exporter has process metrics of its own and refuses a file that has them, too.
        self._file_registry = CollectorRegistry()
        self._file_registry.register(self._node)
        self._registry = CollectorRegistry()
        self._registry.register(self._node)
        ProcessCollector(registry=self._registry)
        self._server: MetricsServer | None = None
        self._written_at: float | None = None
        self._timer: Timer | None = None
        self._is_write_failing = False

    def start(self) -> None:
        """Answer where the settings say; what cannot be opened is logged and left out."""
        server = self._server = MetricsServer(self._loop, self.page)
        if self._settings.socket:
            path = self._paths.at(self._settings.socket)
            try:
                server.listen_unix(path)
            except OSError as error:
                _warn(f"metrics.socket: cannot listen on {path}: {error.strerror or error}")
        if self._settings.listen:
            try:
                server.listen_tcp(*parse_listen(self._settings.listen))
            except ConfigurationError as error:
                _warn(error.message)
            except OSError as error:
                _warn(f"metrics.listen: cannot listen on {self._settings.listen}: {error.strerror or error}")

    def stop(self) -> None:
        """Close what `start` opened. The file stays: its age tells that the agent does not run."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._server is not None:
            self._server.stop()
            self._server = None

    def reload(self, settings: MetricsSettings) -> None:
        """Go by other settings from now on; what has been counted stays."""
        if settings == self._settings:
            return
        is_running = self._server is not None
        self.stop()
        if self._settings.textfile and self._settings.textfile != settings.textfile:
            self._remove_textfile()
        self._settings = settings
        if is_running:
            self.start()
            self._write_soon()

    def page(self) -> bytes:
        """All metrics as text."""
        return generate_latest(self._registry)

    def status_changed(self, status: NodeStatus) -> None:
        """As a `Listener`."""
        self._node.take(status, self._loop.monotonic())
        self._write_soon()

    def compat_signal(self, status: CompatStatus) -> None:
        """As a `Listener`; says nothing that `status_changed` has not."""

    def bus_returned(self) -> None:
        """The bus was lost and is there again."""
        self._node.take_bus_reconnect()

    def _write_soon(self) -> None:
        """Now, or when the last time is long enough ago."""
        if not self._settings.textfile or self._timer is not None:
            return
        now = self._loop.monotonic()
        if self._written_at is None or now - self._written_at >= TEXTFILE_INTERVAL_SECS:
            self._write()
        else:
            self._timer = self._loop.call_later(self._written_at + TEXTFILE_INTERVAL_SECS - now, self._write)

    def _write(self) -> None:
        """Atomic, and not flushed: after a power cut it is written anew."""
        self._timer = None
        self._written_at = self._loop.monotonic()
        path = self._textfile
        beside = path.with_name(f".{path.name}.new")
        try:
            beside.write_bytes(generate_latest(self._file_registry))
            beside.chmod(0o644)
            beside.replace(path)
            self._is_write_failing = False
        except OSError as error:
            if not self._is_write_failing:
                _warn(f"metrics.textfile: cannot write {path}: {error.strerror or error}")
            self._is_write_failing = True

    def _remove_textfile(self) -> None:
        try:
            self._textfile.unlink(missing_ok=True)
        except OSError as error:
            _warn(f"metrics.textfile: cannot remove {self._textfile}: {error.strerror or error}")

    @property
    def _textfile(self) -> Path:
        return self._paths.at(self._settings.textfile)


def _warn(sentence: str) -> None:
    log_event(_log, logging.WARNING, JournalEvent.CONFIGURATION_PROBLEM, "%s", sentence)
