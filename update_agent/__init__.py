"""A/B update agent for image-based Linux."""

from typing import Final

__version__: Final = "0.1.0"
