"""What holds where nobody has set anything else, for the command line, too: it takes no time to import."""

import platform
from typing import Final

DEFAULT_SERVER: Final = "https://public.update.flatcar-linux.net/v1/update/"
DEFAULT_APP_ID: Final = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}"
"""Flatcar Container Linux; servers for other products have other applications."""

_BOARDS: Final = {"x86_64": "amd64-usr", "aarch64": "arm64-usr"}


def default_board() -> str:
    """What servers call a machine of this architecture, or empty if they have no name for it."""
    return _BOARDS.get(platform.machine(), "")
