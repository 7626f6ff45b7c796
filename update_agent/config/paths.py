"""Where things are on a node; with another root, in a folder of a test."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Everything is under `root`, which is `/` on a node."""

    root: Path = Path("/")

    def at(self, absolute: str) -> Path:
        """A path of a setting, under the root."""
        return self.root / absolute.lstrip("/")

    def shown(self, path: Path) -> str:
        """A path as a person on the node knows it, in one line."""
        text = f"/{path.relative_to(self.root)}" if path.is_relative_to(self.root) else str(path)
        return "".join(each if each.isprintable() else "?" for each in text)

    @property
    def fragment_folders(self) -> tuple[Path, ...]:
        """Configuration, the last one counts most; a file replaces one of the same name in an earlier folder."""
        return tuple(self.at(f"{place}/update-agent/config.d") for place in ("usr/lib", "run", "etc"))

    @property
    def flatcar_files(self) -> tuple[Path, ...]:
        """Flatcar's key/value files, the first one that has a key counts."""
        return tuple(
            self.at(name)
            for name in ("etc/flatcar/update.conf", "usr/share/flatcar/update.conf", "usr/share/flatcar/release")
        )

    @property
    def os_release_files(self) -> tuple[Path, ...]:
        """What os-release(5) names, the first one that exists counts."""
        return self.at("etc/os-release"), self.at("usr/lib/os-release")

    @property
    def local_fragment(self) -> Path:
        """The fragment that the program writes itself."""
        return self.at("etc/update-agent/config.d/90-local.toml")

    @property
    def imported_fragment(self) -> Path:
        """What was taken over from a cloud-config."""
        return self.at("etc/update-agent/config.d/50-cloud-config.toml")

    @property
    def oem_files(self) -> tuple[Path, ...]:
        """Likewise."""
        return self.at("etc/oem-release"), self.at("usr/share/oem/oem-release")

    @property
    def state_folder(self) -> Path:
        """What must outlive a reboot."""
        return self.at("var/lib/update-agent")

    @property
    def run_folder(self) -> Path:
        """What must not."""
        return self.at("run/update-agent")

    @property
    def reboot_required(self) -> Path:
        """Exists exactly while a reboot is pending; Debian's convention, kured reads it."""
        return self.at("run/reboot-required")

    @property
    def update_engine_prefs(self) -> Path:
        """Where update_engine keeps its state; post-install scripts read two files in it."""
        return self.at("var/lib/update_engine/prefs")
