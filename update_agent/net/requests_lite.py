"""requests without its guesser of text encodings.

We download bytes, and XML that says its own encoding, so 4 MiB of memory and a tenth of the start-up time would go to a
library that is never called. requests can do without it; it only warns.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final, cast

_GUESSER: Final = "charset_normalizer"


@contextmanager
def _without_guesser() -> Iterator[None]:
    if _GUESSER in sys.modules:
        yield
        return
    # The import system takes None for "cannot be imported".
    sys.modules[_GUESSER] = cast("ModuleType", None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        del sys.modules[_GUESSER]


with _without_guesser():
    import requests
    import requests.auth
    import requests.utils
    from requests.adapters import HTTPAdapter

__all__ = ["HTTPAdapter", "requests"]
