"""The configuration files of a node, in a folder of a test."""

from dataclasses import dataclass, field
from pathlib import Path

from update_agent.config.load import Configuration, load
from update_agent.config.paths import Paths


@dataclass(frozen=True)
class NodeFiles:
    """A root folder; names are those that a node has."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> Paths:
        return Paths(root=self.root)

    def put(self, name: str, content: str | bytes) -> Path:
        path = self.paths.at(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def fragment(self, name: str, content: str | bytes, *, place: str = "etc") -> Path:
        """In `etc`, `run` or `usr/lib`."""
        return self.put(f"{place}/update-agent/config.d/{name}", content)

    def credential(self, name: str, content: str | bytes) -> Path:
        self.environment["CREDENTIALS_DIRECTORY"] = str(self.root / "credentials")
        return self.put(f"credentials/{name}", content)

    def load(self) -> Configuration:
        return load(self.paths, environment=self.environment)
