"""Every fuzz target, by the name that people give to scripts/fuzz."""

from collections.abc import Mapping
from typing import Final

from tests.fuzz import (
    bsdiff,
    compression,
    fleet,
    gpt,
    headers,
    install,
    keys,
    manifest,
    omaha,
    payload,
    state,
    version,
)
from tests.fuzz.target import Target

TARGETS: Final[Mapping[str, Target]] = {
    **gpt.TARGETS,
    **payload.TARGETS,
    **keys.TARGETS,
    **manifest.TARGETS,
    **compression.TARGETS,
    **bsdiff.TARGETS,
    **omaha.TARGETS,
    **version.TARGETS,
    **state.TARGETS,
    **headers.TARGETS,
    **fleet.TARGETS,
    **install.TARGETS,
}
