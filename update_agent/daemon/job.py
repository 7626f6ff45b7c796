"""What the daemon tells its child process to do: one JSON document on its standard input."""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum, unique
from typing import Any

from update_agent.config.settings import Settings
from update_agent.daemon.ports import InstallOptions
from update_agent.domain.state import Backoff
from update_agent.formats.omaha_request import AppInfo, InstallSource


@unique
class JobKind(StrEnum):
    """What the child does."""

    CHECK = "check"
    UPDATE = "update"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One check, or one update.

    Attributes:
        kind: what to do.
        root: where the files of the node are, `/` but for tests.
        disk: the whole disk, a device or an image file.
        booted: A or B.
        state_folder: of the disk.
        settings: of this moment.
        app: what the server hears about the node.
        install_source: who asked.
        options: what a person allowed.
        previous_version: as `AgentState.previous_version`, for the event of the check.
        has_fallen_back: likewise.
        pending_version: what waits for its reboot; only a newer release replaces it.
        bad_releases: versions that are not installed.
        backoff: of the last payload.
        is_test_image: `/root/.dev_mode` is there.
    """

    kind: JobKind
    root: str
    disk: str
    booted: str
    state_folder: str
    settings: Settings
    app: AppInfo
    install_source: InstallSource
    options: InstallOptions = field(default_factory=InstallOptions)
    previous_version: str | None = None
    has_fallen_back: bool = False
    pending_version: str = ""
    bad_releases: tuple[str, ...] = ()
    backoff: Backoff = field(default_factory=Backoff)
    is_test_image: bool = False

    def to_bytes(self) -> bytes:
        """JSON; holds secrets, so it goes through a pipe and nowhere else."""
        document: dict[str, Any] = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in {"settings", "app", "options", "backoff"}
        }
        parts = {"app": asdict(self.app), "options": asdict(self.options), "backoff": asdict(self.backoff)}
        return json.dumps({**document, **parts, "settings": self.settings.to_values()}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Job":
        """The reverse; the document comes from the parent, so a wrong one is a bug and raises what it likes."""
        document: dict[str, Any] = json.loads(data)
        return cls(
            **{
                **document,
                "kind": JobKind(document["kind"]),
                "install_source": InstallSource(document["install_source"]),
                "bad_releases": tuple(document["bad_releases"]),
                "settings": Settings.of(document["settings"]),
                "app": AppInfo(**document["app"]),
                "options": InstallOptions(**document["options"]),
                "backoff": Backoff(**document["backoff"]),
            }
        )
