"""XML from the network: small, shallow, and without a document type.

Entities, external references and document types are refused, so that a short text cannot become a long one and no
file is read while parsing.
"""

import re
from typing import Final
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers.expat import ExpatError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import XMLParser

from update_agent.errors import FormatError, Kind

MAX_DEPTH: Final = 16
MAX_ELEMENTS: Final = 10_000

_PROLOG_ONLY: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^<>]{0,200}\?>)?\s*")


class _LimitError(Exception):
    """The document is deeper or has more elements than allowed."""


class _BoundedBuilder(TreeBuilder):
    """A tree of at most `MAX_ELEMENTS` elements, at most `MAX_DEPTH` deep."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0
        self._count = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        """Open an element."""
        self._depth += 1
        self._count += 1
        if self._depth > MAX_DEPTH:
            raise _LimitError(f"elements within at most {MAX_DEPTH} others")
        if self._count > MAX_ELEMENTS:
            raise _LimitError(f"at most {MAX_ELEMENTS} elements")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        """Close it."""
        self._depth -= 1
        return super().end(tag)


def _hint(data: bytes) -> str | None:
    start = data[:1024].lower()
    if b"<html" in start or b"<!doctype html" in start:
        return "that is a web page: check the server's URL, and whether a login page or a proxy is in the way"
    return None


def parse(data: bytes, *, root: str, limit_bytes: int) -> Element:
    """The element `root` that `data` consists of.

    Raises:
        FormatError: omaha-empty, when there is nothing but perhaps the XML declaration; omaha-malformed, when
            it is no XML, too large or another element; its message begins with `root`.
    """
    if len(data) > limit_bytes:
        raise FormatError(Kind.OMAHA_MALFORMED, f"{root}: expected at most {limit_bytes} bytes, got {len(data)}")
    if len(data) < 1024 and _PROLOG_ONLY.fullmatch(data):
        raise FormatError(Kind.OMAHA_EMPTY, f"{root}: expected an element, got an empty document")
    parser = XMLParser(target=_BoundedBuilder(), forbid_dtd=True)
    try:
        parser.feed(data)
        element = parser.close()
    except _LimitError as error:
        raise FormatError(Kind.OMAHA_MALFORMED, f"{root}: expected {error}, got more") from error
    except DefusedXmlException as error:
        raise FormatError(
            Kind.OMAHA_MALFORMED, f"{root}: expected no document type and no entities, got some", hint=_hint(data)
        ) from error
    # LookupError and ValueError come from encodings that Python does not know or that have several bytes.
    except (ParseError, ExpatError, LookupError, ValueError) as error:
        raise FormatError(
            Kind.OMAHA_MALFORMED, f"{root}: expected XML, got something else ({error})", hint=_hint(data)
        ) from error
    if not isinstance(element, Element) or element.tag != root:
        raise FormatError(
            Kind.OMAHA_MALFORMED,
            f"{root}: expected that element, got {str(getattr(element, 'tag', ''))[:40]!r}",
            hint=_hint(data),
        )
    return element
