"""The URLs we follow: http and https, told apart from the credentials and queries that may hold secrets."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from update_agent.errors import ConfigurationError, Kind

MAX_URL_CHARS: Final = 8192

_UNPRINTABLE: Final = re.compile(r"[^\x21-\x7e]")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpUrl:
    """An http or https URL without user information and fragment.

    Attributes:
        text: the URL to ask for.
        name: for messages and logs, without the query, printable.
        origin: scheme, host in lower case and port.
    """

    text: str
    name: str
    origin: tuple[str, str, int]

    @property
    def scheme(self) -> str:
        """Either http or https."""
        return self.origin[0]


def parse_url(text: str) -> tuple[HttpUrl, tuple[str, str] | None]:
    """The URL and the user name and password that were written into it.

    Raises:
        ConfigurationError: configuration, when it is no http or https URL.
    """
    try:
        if len(text) > MAX_URL_CHARS:
            raise ValueError(text)
        parts = urlsplit(text.strip())
        port = parts.port
        host = (parts.hostname or "").lower()
    except ValueError:
        parts, port, host = SplitResult("", "", "", "", ""), None, ""
    scheme = parts.scheme.lower()
    if scheme not in {"http", "https"} or not host:
        shown = _UNPRINTABLE.sub("?", text.partition("?")[0].rpartition("@")[2])[:100]
        raise ConfigurationError(Kind.CONFIGURATION, f"expected an http or https URL, got {shown!r}")
    credentials = None
    if parts.username is not None:
        credentials = (unquote(parts.username), unquote(parts.password or ""))
    netloc = parts.netloc.rpartition("@")[2]
    plain = parts._replace(scheme=scheme, netloc=netloc, fragment="")
    name = _UNPRINTABLE.sub("?", plain._replace(query="").geturl())
    origin = (scheme, host, port or (443 if scheme == "https" else 80))
    return HttpUrl(text=plain.geturl(), name=name, origin=origin), credentials
