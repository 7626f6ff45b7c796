"""Secrets that systemd hands to a service: files in a folder that only this service sees (systemd.exec(5))."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from update_agent.config.reading import Finding, Gathered, decode, read_small
from update_agent.errors import ConfigurationError

FOLDER_VARIABLE: Final = "CREDENTIALS_DIRECTORY"

_BYTES_MAX: Final = 64 * 1024
_CONTENTS: Final = {
    "update-agent.download-user": "transfer.user",
    "update-agent.download-password": "transfer.password",
    "update-agent.proxy": "transfer.proxy",
}
_FILES: Final = {"update-agent.client-cert": "transfer.client_cert"}


def gather(environment: Mapping[str, str]) -> Gathered:
    """What there is for settings; of a certificate the path, of everything else the text without its line end."""
    findings: list[Finding] = []
    warnings: list[str] = []
    folder = environment.get(FOLDER_VARIABLE, "")
    for name, key in {**_CONTENTS, **_FILES}.items() if folder else ():
        path = Path(folder) / name
        try:
            data = read_small(path, _BYTES_MAX)
            if data is not None:
                value = str(path) if name in _FILES else decode(data).removesuffix("\n").removesuffix("\r")
                findings.append(Finding(key=key, value=value, place=f"credential {name}"))
        except ConfigurationError as error:
            warnings.append(f"credential {name}: {error.message}")
    return Gathered(findings=tuple(findings), warnings=tuple(warnings))
