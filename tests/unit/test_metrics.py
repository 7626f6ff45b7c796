"""What the metrics count, how they are written, and the marker of a pending reboot."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.agents import AgentBench, FakeLoop
from tests.support.commands import make_bench
from tests.support.node_statuses import (
    CHECKING,
    FOUND,
    GOOD_INSTALL,
    PENDING,
    RUNNING,
    at_rest,
    downloading,
    failure,
)
from update_agent.api.node import NodeStatus
from update_agent.config.paths import Paths
from update_agent.config.settings import MetricsSettings
from update_agent.daemon.metrics import TEXTFILE_INTERVAL_SECS, Metrics
from update_agent.daemon.ports import InstallOptions
from update_agent.daemon.reboot_required import RebootRequired
from update_agent.domain.machine import State
from update_agent.domain.messages import Advanced, Checked, Failed, Installed, Message, NothingNew, Offered, Reported
from update_agent.domain.state import BadRelease
from update_agent.errors import Kind

FAILED: Final[Mapping[str, Any]] = {
    **at_rest(state=State.REPORTING_ERROR_EVENT),
    "last_error": failure(Kind.PAYLOAD_HASH, "payload: not the one"),
}
TEXTFILE: Final = "/var/lib/node_exporter/update-agent.prom"
OFF: Final = MetricsSettings(socket="")
TO_FILE: Final = MetricsSettings(socket="", textfile=TEXTFILE)


class Node:
    """Metrics that are told statuses, one second after the other."""

    def __init__(self, root: Path, settings: MetricsSettings = OFF, first: NodeStatus = RUNNING) -> None:
        self.loop = FakeLoop()
        self.metrics = Metrics(settings, Paths(root=root), self.loop)
        self.textfile = root / TEXTFILE.lstrip("/")
        self.textfile.parent.mkdir(parents=True, exist_ok=True)
        self.status = first
        self.metrics.status_changed(first)

    def go(self, *steps: Mapping[str, Any]) -> None:
        for step in steps:
            self.loop.advance(1)
            self.status = replace(self.status, **step)
            self.metrics.status_changed(self.status)

    def samples(self, text: str | None = None) -> dict[str, float]:
        """Value by name and labels, as they are in the text."""
        page = self.metrics.page().decode() if text is None else text
        return {
            sample.name + "".join(f",{key}={value}" for key, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    def counts(self) -> dict[str, float]:
        """Counters of the agent that are not 0, without its name."""
        found = self.samples().items()
        ours = {name.removeprefix("update_agent_"): count for name, count in found if name.startswith("update_agent_")}
        return {name: count for name, count in ours.items() if "_total" in name and count}


# What is shown


def test_page_of_a_node_with_an_update_says_everything(tmp_path: Path) -> None:
    bad = BadRelease(version="9", reason="fell back", at=1)
    node = Node(tmp_path, first=replace(PENDING, bad_releases=(bad,), last_error=failure(Kind.TRANSFER, "t", at=77)))
    samples = node.samples()
    assert samples["update_agent_info,channel=stable,running_version=4152.2.1,version=1.0"] == 1
    assert samples["update_agent_state,state=updated-need-reboot"] == 1
    assert samples["update_agent_state,state=idle"] == 0
    assert samples["update_agent_health,health=good"] == 1
    assert samples["update_agent_reboot_pending"] == 1
    assert samples["update_agent_next_check_timestamp_seconds"] == PENDING.next_check_at
    assert samples["update_agent_last_error_timestamp_seconds"] == 77
    assert samples["update_agent_bad_releases"] == 1
    assert samples["update_agent_slot_info,slot=B,state=next-boot,version=4230.1.0"] == 1
    assert [samples[f"update_agent_slot_{name},slot=A"] for name in ("priority", "tries", "successful")] == [1, 0, 1]
    assert [samples[f"update_agent_slot_{name},slot=B"] for name in ("priority", "tries", "successful")] == [2, 1, 0]


def test_page_of_every_state_has_exactly_one_state_that_is_so(tmp_path: Path) -> None:
    for state in State:
        node = Node(tmp_path, first=replace(RUNNING, state=state))
        states = {name: value for name, value in node.samples().items() if name.startswith("update_agent_state,")}
        assert sum(states.values()) == states[f"update_agent_state,state={state}"] == 1
        assert len(states) == len(State)


def test_page_before_the_first_status_is_well_formed(tmp_path: Path) -> None:
    page = Metrics(OFF, Paths(root=tmp_path), FakeLoop()).page().decode()
    assert list(text_string_to_metric_families(page))


def test_page_with_hostile_text_in_labels_is_well_formed(tmp_path: Path) -> None:
    hostile = 'a"b\\c\nupdate_agent_evil 1\n{}'
    node = Node(tmp_path, first=replace(RUNNING, running_version=hostile))
    assert node.samples()[f"update_agent_info,channel=stable,running_version={hostile},version=1.0"] == 1
    assert "update_agent_evil" not in node.samples()


def test_page_keeps_the_rules_of_prometheus_for_names(tmp_path: Path) -> None:
    for family in text_string_to_metric_families(Node(tmp_path).metrics.page().decode()):
        assert family.documentation.endswith(".") or family.name.startswith(("process_", "update_agent"))
        names = {sample.name for sample in family.samples}
        assert all(name.endswith("_total") for name in names) == (family.type == "counter") or not names
        assert not any(name.endswith(("_ms", "_secs", "_kib", "_percent")) for name in names)
        if family.name.endswith("timestamp_seconds"):
            assert family.type == "gauge"


# What is counted


def test_counts_of_a_good_install_have_one_check_one_install_and_all_bytes(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.go(*GOOD_INSTALL)
    size = float(FOUND["offered_size_bytes"])
    assert node.counts() == {
        "checks_total,result=update": 1,
        "installs_total,result=installed": 1,
        "download_bytes_total": size,
    }
    # From the offer to the end: everything but the check, a second each.
    assert node.samples()["update_agent_last_install_duration_seconds"] == len(GOOD_INSTALL) - 2


def test_counts_of_a_check_without_news(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.go(CHECKING, at_rest(), CHECKING, at_rest())
    assert node.counts() == {"checks_total,result=no-update": 2}


def test_counts_of_a_mere_check_that_finds_a_release(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.go(CHECKING, at_rest(offered_version="4230.1.0"))
    assert node.counts() == {"checks_total,result=update": 1}


def test_counts_of_a_failed_check(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.go(CHECKING, FAILED, at_rest())
    assert node.counts() == {"checks_total,result=failed": 1, "failures_total,kind=payload-hash": 1}


def test_counts_of_a_failed_install(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.go(CHECKING, FOUND, downloading(50), FAILED, at_rest())
    assert node.counts() == {
        "checks_total,result=update": 1,
        "installs_total,result=failed": 1,
        "failures_total,kind=payload-hash": 1,
        "download_bytes_total": FOUND["offered_size_bytes"] / 2,
    }
    assert node.samples()["update_agent_last_install_duration_seconds"] == 0


def test_counts_of_the_same_failure_twice_are_two_and_of_one_shown_often_one(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.go({"last_error": failure(Kind.TRANSFER, "t", at=1)}, {"health": "bad"}, {"health": "good"})
    node.go({"last_error": failure(Kind.TRANSFER, "t", at=2)})
    assert node.counts() == {"failures_total,kind=transfer": 2}


def test_counts_leave_out_what_was_so_before_the_start(tmp_path: Path) -> None:
    node = Node(tmp_path, first=replace(PENDING, last_error=failure(Kind.TRANSFER, "t")))
    node.go({"health": "bad"})
    assert node.counts() == {}


def test_counts_of_the_bus_coming_back(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.metrics.bus_returned()
    assert node.counts() == {"bus_reconnects_total": 1}


def test_counts_stay_over_a_reload(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.go(CHECKING, at_rest())
    node.metrics.reload(TO_FILE)
    assert node.counts() == {"checks_total,result=no-update": 1}


def test_counts_of_a_real_agent_are_what_happened(tmp_path: Path) -> None:
    bench = AgentBench(image=make_bench(tmp_path).image)
    agent = bench.make()
    node = Node(tmp_path)
    node.metrics = Metrics(OFF, Paths(root=tmp_path), bench.loop)
    agent.listen(node.metrics)
    agent.start()

    def end(*messages: Message) -> None:
        for message in messages:
            bench.loop.advance(1)
            bench.workers.last.say(message)
        bench.workers.last.end()

    download = [Advanced(phase="downloading", done_bytes=done, total_bytes=1000) for done in (100, 500, 1000)]
    agent.check()
    end(Checked(), NothingNew())
    agent.check()
    end(Checked(), Offered(version="2.0.0", size_bytes=1000))
    agent.install(InstallOptions())
    failed = Failed(kind=Kind.PARTITION_HASH, message="slot B: not what was written", omaha_code=15)
    end(Checked(), Offered(version="2.0.0", size_bytes=1000), *download, failed, Reported(was_delivered=True))
    agent.install(InstallOptions())
    installed = Installed(slot="B", version="2.0.0", previous_version="1.0.0", size_bytes=1000)
    end(Checked(), Offered(version="2.0.0", size_bytes=1000), *download, installed)
    agent.check()
    bench.workers.last.end(status=1)
    assert node.counts() == {
        "checks_total,result=no-update": 1,
        "checks_total,result=update": 3,
        "checks_total,result=failed": 1,
        "installs_total,result=failed": 1,
        "installs_total,result=installed": 1,
        "failures_total,kind=partition-hash": 1,
        "failures_total,kind=worker-died": 1,
        "download_bytes_total": 2000,
    }
    assert node.samples()["update_agent_last_install_duration_seconds"] == len(download) + 1


# The file


def test_textfile_has_the_metrics_of_the_agent_and_none_of_processes(tmp_path: Path) -> None:
    node = Node(tmp_path, TO_FILE)
    text = node.textfile.read_text()
    assert node.samples(text)["update_agent_state,state=idle"] == 1
    assert "process_" not in text
    assert "process_resident_memory_bytes" in node.samples()
    assert node.textfile.stat().st_mode & 0o777 == 0o644


def test_textfile_is_written_at_most_so_often_and_last_of_all_the_last_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[Path] = []
    rename = Path.replace

    def counted(self: Path, target: Path) -> Path:
        writes.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", counted)
    node = Node(tmp_path, TO_FILE)
    seen: list[float] = []
    for percent in range(1, 31):
        node.go(downloading(percent))
        seen.append(node.samples(node.textfile.read_text())["update_agent_progress_bytes"])
    assert len(set(seen)) == len(writes) == 30 // TEXTFILE_INTERVAL_SECS + 1
    node.go(at_rest())
    node.loop.advance(TEXTFILE_INTERVAL_SECS)
    assert node.samples(node.textfile.read_text())["update_agent_state,state=idle"] == 1


def test_textfile_of_a_quiet_agent_is_left_alone(tmp_path: Path) -> None:
    node = Node(tmp_path, TO_FILE)
    before = node.textfile.stat()
    node.loop.advance(3600)
    assert node.textfile.stat().st_mtime_ns == before.st_mtime_ns


def test_textfile_is_never_seen_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path, TO_FILE)
    before = node.textfile.read_text()
    write = Path.write_bytes

    def torn(self: Path, data: bytes) -> int:
        write(self, data[: len(data) // 2])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", torn)
    node.loop.advance(TEXTFILE_INTERVAL_SECS)
    node.go(CHECKING)
    assert node.textfile.read_text() == before


def test_textfile_that_cannot_be_written_is_said_once_and_again_after_it_could(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(tmp_path, MetricsSettings(socket="", textfile="/gone/update-agent.prom"))
    folder = tmp_path / "gone"
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            node.loop.advance(TEXTFILE_INTERVAL_SECS)
            node.go(CHECKING, at_rest())
        assert caplog.messages == [
            f"metrics.textfile: cannot write {folder}/update-agent.prom: No such file or directory"
        ]
        folder.mkdir()
        node.loop.advance(TEXTFILE_INTERVAL_SECS)
        node.go(CHECKING)
        (folder / "update-agent.prom").unlink()
        folder.rmdir()
        node.loop.advance(TEXTFILE_INTERVAL_SECS)
        node.go(at_rest())
    assert len(caplog.messages) == 2


def test_textfile_goes_when_the_settings_name_another(tmp_path: Path) -> None:
    node = Node(tmp_path, TO_FILE)
    node.metrics.start()
    node.loop.advance(TEXTFILE_INTERVAL_SECS)
    node.metrics.reload(replace(TO_FILE, textfile=TEXTFILE.replace("update", "other")))
    assert [path.name for path in node.textfile.parent.iterdir()] == ["other-agent.prom"]
    node.metrics.reload(OFF)
    assert list(node.textfile.parent.iterdir()) == []
    node.metrics.stop()


def test_textfile_stays_when_the_agent_stops(tmp_path: Path) -> None:
    node = Node(tmp_path, TO_FILE)
    node.go(CHECKING)
    before = node.textfile.stat().st_ino
    node.metrics.stop()
    node.loop.advance(3600)
    assert node.textfile.stat().st_ino == before


# prometheus_client, of which only a part is imported


def test_import_leaves_web_servers_out_and_what_follows_in_order() -> None:
    program = """
import sys
from update_agent.daemon import prometheus_lite
heavy = ("http.server", "http.client", "wsgiref", "urllib.request", "email", "gzip")
left_out = [name for name in heavy if name in sys.modules]
import http.server, urllib.request, gzip, wsgiref.simple_server
print(left_out, http.server.HTTPServer.__mro__[-2].__name__, gzip.decompress(gzip.compress(b"x")))
print(urllib.request.Request)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "BaseServer", "b'x'", "<class", "'urllib.request.Request'>"]


def test_import_writes_the_same_text_as_the_whole_package(tmp_path: Path) -> None:
    program = """
import sys
if sys.argv[1] == "whole":
    import prometheus_client
from update_agent.daemon.prometheus_lite import CollectorRegistry, generate_latest
from update_agent.daemon.node_metrics import NodeMetrics
registry = CollectorRegistry()
registry.register(NodeMetrics())
sys.stdout.buffer.write(generate_latest(registry))
"""
    whole, part = (subprocess.check_output([sys.executable, "-c", program, which]) for which in ("whole", "part"))
    assert whole == part != b""


# /run/reboot-required


class Marker:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "reboot-required"
        self.listener = RebootRequired(self.path)

    def tell(self, *statuses: NodeStatus) -> None:
        for status in statuses:
            self.listener.status_changed(status)


def path_in_turn(statuses: Iterable[NodeStatus], marker: Marker) -> list[bool]:
    found = []
    for status in statuses:
        marker.tell(status)
        found.append(marker.path.exists())
    return found


def test_marker_is_there_exactly_while_a_reboot_is_pending(tmp_path: Path) -> None:
    marker = Marker(tmp_path)
    checking = replace(PENDING, state=State.CHECKING_FOR_UPDATE)
    assert path_in_turn([RUNNING, PENDING, checking, PENDING, RUNNING], marker) == [False, True, True, True, False]


def test_marker_names_the_release_in_one_line(tmp_path: Path) -> None:
    marker = Marker(tmp_path)
    marker.tell(PENDING)
    assert marker.path.read_text() == "*** System restart required: 4230.1.0 is installed ***\n"
    assert marker.path.stat().st_mode & 0o777 == 0o644
    marker.tell(replace(PENDING, pending_version=""))
    assert marker.path.read_text() == "*** System restart required: slot B is installed ***\n"
    assert list(tmp_path.iterdir()) == [marker.path]


def test_marker_of_an_earlier_process_goes_with_the_first_status(tmp_path: Path) -> None:
    marker = Marker(tmp_path)
    marker.path.touch()
    marker.tell(RUNNING)
    assert not marker.path.exists()


def test_marker_of_a_postinst_goes_when_the_install_fails_after_all(tmp_path: Path) -> None:
    marker = Marker(tmp_path)
    marker.tell(RUNNING, replace(RUNNING, state=State.FINALIZING))
    marker.path.touch()
    marker.tell(replace(RUNNING, state=State.REPORTING_ERROR_EVENT))
    assert not marker.path.exists()


def test_marker_of_a_postinst_is_taken_over(tmp_path: Path) -> None:
    marker = Marker(tmp_path)
    marker.tell(RUNNING)
    marker.path.touch()
    marker.tell(PENDING)
    assert "4230.1.0" in marker.path.read_text()


def test_marker_in_a_folder_that_cannot_be_written_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    marker = Marker(tmp_path / "gone")
    with caplog.at_level(logging.WARNING):
        marker.tell(PENDING)
    assert caplog.messages == [f"{marker.path}: cannot keep it in step: No such file or directory"]


def test_marker_is_not_looked_at_for_every_step_of_a_download(tmp_path: Path) -> None:
    marker = Marker(tmp_path)
    marker.tell(replace(RUNNING, state=State.DOWNLOADING))
    marker.path.touch()
    marker.tell(replace(RUNNING, state=State.DOWNLOADING, progress_done_bytes=5))
    assert marker.path.exists()
