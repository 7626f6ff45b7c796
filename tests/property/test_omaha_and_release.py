import contextlib
import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from update_agent.errors import FormatError, UpdateAgentError
from update_agent.formats.omaha import parse_response
from update_agent.formats.omaha_request import AppInfo, Event, EventResult, EventType, InstallSource, Request
from update_agent.formats.omaha_server import parse_request
from update_agent.formats.release import Version

VERSIONS = st.from_regex(
    r"[0-9]{1,3}(\.[0-9]{1,2}){0,7}(-[0-9a-c]{1,2}(\.[0-9A-Z-]{1,2}){0,2})?(\+[a-z]{1,3})?", fullmatch=True
).filter(str.isascii)

MARKUP = st.lists(
    st.sampled_from(
        (
            '<?xml version="1.0"?>',
            '<?xml version="1.0" encoding="utf-16"?>',
            '<?xml version="1.0" encoding="x"?>',
            "<response>",
            "</response>",
            "<request protocol='3.0'>",
            "</request>",
            "<app appid='a' status='ok'>",
            "</app>",
            "<updatecheck status='ok' PollInterval='7'>",
            "</updatecheck>",
            "<urls><url codebase='http://a/'/></urls>",
            "<manifest version='1.0'>",
            "</manifest>",
            "<packages><package name='u' size='7' hash_sha256='x'/></packages>",
            "<actions><action event='postinstall' sha256='YQ=='/></actions>",
            "<!DOCTYPE a>",
            "<!-- -->",
            "<![CDATA[",
            "]]>",
            "&amp;",
            "&x;",
            "&#0;",
            "\0",
            "\u00e9",
        )
    )
).map("".join)


@given(st.one_of(st.binary(), MARKUP.map(str.encode), MARKUP.map(lambda text: text.encode("utf-16"))))
def test_any_bytes_raise_only_our_errors(data: bytes) -> None:
    with contextlib.suppress(UpdateAgentError):
        parse_response(data)
    with contextlib.suppress(UpdateAgentError):
        parse_request(data)


@given(st.text())
def test_any_text_is_a_version_or_a_format_error(text: str) -> None:
    with contextlib.suppress(FormatError):
        assert Version.parse(text).text == text


@given(VERSIONS, VERSIONS, VERSIONS)
def test_order_of_versions_is_total(one: str, two: str, three: str) -> None:
    a, b, c = Version(one), Version(two), Version(three)
    assert (a < b) + (a == b) + (a > b) == 1
    assert not (a < b < c) or a < c
    assert a != b or hash(a) == hash(b)


# XML turns line ends and tabs in attributes into spaces; that is its own affair.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))


@given(TEXT, TEXT, TEXT)
def test_values_of_a_request_come_out_of_another_xml_parser_as_they_went_in(track: str, alias: str, old: str) -> None:
    body = Request(
        app=AppInfo(app_id="a", version="1", track=track, boot_id="", machine="m", machine_alias=alias),
        updater="u-1",
        install_source=InstallSource.SCHEDULER,
        events=(Event(event_type=EventType.INSTALLED, result=EventResult.SUCCESS, previous_version=old),),
    ).to_bytes()
    app = ET.fromstring(body).find("app")
    assert app is not None
    assert (app.get("track"), app.get("machinealias")) == (track, alias)
    event = app.find("event")
    assert event is not None
    assert event.get("previousversion") == old


@given(st.text())
def test_request_with_any_text_is_well_formed_ascii(text: str) -> None:
    body = Request(
        app=AppInfo(app_id=text, version=text, track=text, boot_id=text, machine=text),
        updater=text,
        install_source=InstallSource.SCHEDULER,
    ).to_bytes()
    assert re.fullmatch(rb"[\t\n\x20-\x7e]+", body)
    ET.fromstring(body)
