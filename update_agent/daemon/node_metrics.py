"""What the metrics say: the status of the node as it is, and counts of what has happened since the agent started."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from update_agent.api.node import NodeStatus
from update_agent.daemon.prometheus_lite import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from update_agent.domain.machine import State
from update_agent.domain.progress import Phase
from update_agent.domain.state import LastError

HEALTH_WORDS: Final = ("good", "bad", "waiting", "off", "unknown")
CHECK_RESULTS: Final = ("update", "no-update", "failed")
INSTALL_RESULTS: Final = ("installed", "failed")

_INSTALLING: Final = frozenset(
    {str(state) for state in State if not state.is_resting}
    - {str(State.CHECKING_FOR_UPDATE), str(State.REPORTING_ERROR_EVENT)}
)


class NodeMetrics:
    """Takes each status in turn; gives metrics when asked, and costs nothing until then."""

    def __init__(self) -> None:
        self._status = NodeStatus(state=State.IDLE)
        self._checks: Counter[str] = Counter(dict.fromkeys(CHECK_RESULTS, 0))
        self._installs: Counter[str] = Counter(dict.fromkeys(INSTALL_RESULTS, 0))
        self._failures: Counter[str] = Counter()
        self._bus_reconnects = 0
        self._download_bytes = 0
        self._downloaded_bytes = 0
        self._install_since: float | None = None
        self._install_secs = 0.0
        self._is_first = True

    def take(self, status: NodeStatus, monotonic_secs: float) -> None:
        """The node is so now."""
        before, self._status = self._status, status
        if self._is_first:
            # What failed before the agent was started is shown, and not counted again.
            self._is_first = False
            before = status
        self._count_check(before.state, status)
        self._count_install(before.state, status.state, monotonic_secs)
        self._count_download(status)
        if status.last_error is not None and not _is_same(before.last_error, status.last_error):
            self._failures[status.last_error.kind] += 1

    def take_bus_reconnect(self) -> None:
        """The bus is there again."""
        self._bus_reconnects += 1

    def collect(self) -> Iterator[Metric]:
        """As a collector of prometheus_client."""
        status = self._status
        values = {"version": status.agent_version, "running_version": status.running_version, "channel": status.channel}
        yield InfoMetricFamily("update_agent", "What runs: the agent, the release, what it follows.", values)
        yield _one_hot("state", "What the agent is doing.", State, status.state)
        yield _one_hot("health", "What is known of this boot.", HEALTH_WORDS, status.health)
        yield from _gauges(status)
        yield from _slots(status)
        yield from self._counts()

    def _counts(self) -> Iterator[Metric]:
        yield _counter("checks", "Questions to the update server.", "result", self._checks)
        yield _counter("installs", "Updates that were begun and have ended.", "result", self._installs)
        yield _counter("failures", "Failures of checks and updates.", "kind", self._failures)
        text = "Bytes of payloads gone through; a resumed download counts from its start."
        yield CounterMetricFamily("update_agent_download_bytes", text, self._download_bytes)
        text = "How often the message bus came back after it was lost."
        yield CounterMetricFamily("update_agent_bus_reconnects", text, self._bus_reconnects)
        text = "How long the last successful update took; 0 if there was none."
        yield _gauge("last_install_duration_seconds", text, self._install_secs)

    def _count_check(self, before: str, status: NodeStatus) -> None:
        if before != State.CHECKING_FOR_UPDATE or status.state == before:
            return
        if status.state == State.REPORTING_ERROR_EVENT:
            self._checks["failed"] += 1
        else:
            self._checks["update" if status.state in _INSTALLING or status.offered_version else "no-update"] += 1

    def _count_install(self, before: str, after: str, now: float) -> None:
        if after in _INSTALLING and before not in _INSTALLING:
            self._install_since = now
        if before not in _INSTALLING or after in _INSTALLING:
            return
        is_installed = after == State.UPDATED_NEED_REBOOT
        self._installs["installed" if is_installed else "failed"] += 1
        if is_installed and self._install_since is not None:
            self._install_secs = now - self._install_since

    def _count_download(self, status: NodeStatus) -> None:
        if status.phase != Phase.DOWNLOADING:
            self._downloaded_bytes = 0
            return
        self._download_bytes += max(0, status.progress_done_bytes - self._downloaded_bytes)
        self._downloaded_bytes = status.progress_done_bytes


def _is_same(one: LastError | None, other: LastError) -> bool:
    return one is not None and (one.at, one.kind, one.message) == (other.at, other.kind, other.message)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"update_agent_{name}", text, value)


def _one_hot(name: str, text: str, words: Iterable[str], current: str) -> Metric:
    family = GaugeMetricFamily(f"update_agent_{name}", f"{text} 1 for what is so, 0 for the others.", labels=[name])
    for word in words:
        family.add_metric([str(word)], float(word == current))
    return family


def _counter(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"update_agent_{name}", text, labels=[label])
    for word, count in counts.items():
        family.add_metric([word], count)
    return family


def _gauges(status: NodeStatus) -> Iterator[Metric]:
    yield _gauge("reboot_pending", "Whether another release boots next.", float(status.is_reboot_pending))
    yield _gauge("progress_bytes", "How far the phase under way is.", status.progress_done_bytes)
    yield _gauge("progress_size_bytes", "How far the phase under way has to go.", status.progress_total_bytes)
    yield _gauge("rate_bytes_per_second", "How fast it goes.", status.rate_bytes_per_sec)
    yield _gauge("last_check_timestamp_seconds", "Last attempt to ask; 0 for never.", status.last_check_at)
    yield _gauge("last_success_timestamp_seconds", "Last answer; 0 for never.", status.last_success_at)
    yield _gauge("next_check_timestamp_seconds", "Next check by itself; 0 for none.", status.next_check_at)
    last_error = status.last_error
    text = "Last failure; 0 if what followed went well."
    yield _gauge("last_error_timestamp_seconds", text, last_error.at if last_error is not None else 0)
    yield _gauge("bad_releases", "Releases that are not installed again by themselves.", len(status.bad_releases))
    yield _gauge("warnings", "What is wrong with configuration or state.", len(status.warnings))
    yield _gauge("gpt_problems", "What is wrong with the partition table.", len(status.gpt_problems))


def _slots(status: NodeStatus) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "update_agent_slot_info", "What is in a slot, and what it is good for.", labels=["slot", "version", "state"]
    )
    for slot in status.slots:
        family.add_metric([slot.name, slot.version, slot.state], 1)
    yield family
    for name, text in (
        ("priority", "The bootable slot with the highest boots next."),
        ("tries", "How often the slot may still be tried."),
        ("successful", "Whether the slot has booted well."),
    ):
        family = GaugeMetricFamily(f"update_agent_slot_{name}", text, labels=["slot"])
        for slot in status.slots:
            family.add_metric([slot.name], float(getattr(slot, name)))
        yield family
