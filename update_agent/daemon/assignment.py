"""What a child process is told to do, put together from what the daemon knows."""

from dataclasses import dataclass

from update_agent.config.load import Configuration
from update_agent.daemon.job import Job, JobKind
from update_agent.daemon.node import Node
from update_agent.daemon.ports import InstallOptions
from update_agent.domain.machine import NO_VERSION, Release
from update_agent.domain.state import AgentState
from update_agent.formats.omaha_request import AppInfo, InstallSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What does not change while the daemon runs.

    Attributes:
        root: where the files of the node are.
        boot_id: of this boot, without braces.
        machine_id: 32 hexadecimal digits.
        machine: as `uname -m` says.
        is_test_image: no timers, and the server is told.
    """

    root: str = "/"
    boot_id: str = ""
    machine_id: str = ""
    machine: str = ""
    is_test_image: bool = False


def make_job(
    kind: JobKind,
    source: InstallSource,
    options: InstallOptions,
    *,
    node: Node,
    state: AgentState,
    pending: Release | None,
    configuration: Configuration,
    facts: Facts,
    running_version: str,
) -> Job:
    """One check or update with the settings of this moment; `running_version` is empty if unknown."""
    disk = node.disk
    return Job(
        kind=kind,
        root=facts.root,
        disk=str(disk.path) if disk else "",
        booted=node.booted or "",
        state_folder=str(disk.state_folder) if disk and disk.state_folder else "",
        settings=configuration.settings,
        app=_app(configuration, facts, state, running_version or NO_VERSION),
        install_source=source,
        options=options,
        previous_version=state.previous_version,
        has_fallen_back=state.has_fallen_back,
        pending_version=pending.version if pending else "",
        bad_releases=tuple(release.version for release in state.bad_releases),
        backoff=state.backoff,
        is_test_image=facts.is_test_image,
    )


def _app(configuration: Configuration, facts: Facts, state: AgentState, version: str) -> AppInfo:
    server = configuration.settings.server
    return AppInfo(
        app_id=server.app_id,
        version=version,
        track=server.channel,
        boot_id="{" + facts.boot_id + "}",
        machine=facts.machine,
        oem=configuration.oem_id,
        oem_version=configuration.oem_version,
        aleph_version=state.aleph_version or version,
        machine_id=facts.machine_id,
        machine_alias=server.machine_alias,
        board=server.board,
    )
