"""prometheus_client without the web servers and web clients that it imports and the agent never calls.

It writes the text; the agent has a server of its own, in its own loop. What is left out is 2.7 MiB of the 40 that the
process may have. The functions that need it (`start_http_server`, `push_to_gateway`) do not work with this import.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

_LEFT_OUT: Final = (
    "http.server",
    "socketserver",
    "wsgiref",
    "wsgiref.simple_server",
    "urllib.request",
    "urllib.error",
    "gzip",
)


class _EmptyModule(ModuleType):
    """Has every class that is asked for, and none of them does anything."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def _without_servers() -> Iterator[None]:
    """What is imported already stays what it is, and what is imported later is the real one."""
    left_out = [name for name in _LEFT_OUT if name not in sys.modules]
    sys.modules.update({name: _EmptyModule(name) for name in left_out})
    try:
        yield
    finally:
        for name in left_out:
            del sys.modules[name]


with _without_servers():
    from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

__all__ = [
    "CollectorRegistry",
    "CounterMetricFamily",
    "GaugeMetricFamily",
    "InfoMetricFamily",
    "Metric",
    "ProcessCollector",
    "generate_latest",
]
