import base64
import hashlib
from pathlib import Path

import pytest

from update_agent.errors import FormatError, Kind, TransferError, UpdateAgentError
from update_agent.formats import omaha
from update_agent.formats.omaha import NoUpdate, Update, parse_response
from update_agent.formats.omaha_request import AppInfo, Event, EventResult, EventType, InstallSource, Request
from update_agent.formats.release import Version

DATA = Path(__file__).parent.parent / "data" / "omaha"
SHA256 = hashlib.sha256(b"payload").digest()
BASE64 = base64.b64encode(SHA256).decode()

APP = AppInfo(
    app_id="{e96281a6-d1af-4bde-9a0a-97b76e56dc57}",
    version="4081.2.0",
    track="beta & <x>'\u00e9",
    boot_id="{f1a82e97-8c5d-4cd2-8632-dda1f839387a}",
    machine="x86_64",
    oem="azure",
    oem_version="1.2.3",
    aleph_version="4081.2.0",
    machine_id="0123456789abcdef0123456789abcdef",
    machine_alias="my alias",
    board="amd64-usr",
)


def request(*events: Event, ping: bool = False, check: bool = False) -> bytes:
    return Request(
        app=APP,
        updater="update_engine-0.4.10",
        install_source=InstallSource.ON_DEMAND,
        has_ping=ping,
        has_update_check=check,
        events=events,
    ).to_bytes()


def children(body: bytes) -> list[str]:
    return [line.strip() for line in body.decode().splitlines()[4:-2]]


def response(
    *,
    app: str = "",
    check: str = 'status="ok"',
    urls: str = '<url codebase="http://a/b/"/>',
    manifest: str = 'version="2.0.0"',
    package: str = 'name="update.gz" size="7"',
    action: str = f'event="postinstall" sha256="{BASE64}"',
) -> bytes:
    actions = f"<actions><action {action}/></actions>" if action else ""
    return (
        f"<response><app {app}><updatecheck {check}><urls>{urls}</urls><manifest {manifest}><packages>"
        f"<package {package}/></packages>{actions}</manifest></updatecheck></app></response>"
    ).encode("utf-8", "surrogatepass")


def parse_update(data: bytes) -> Update:
    answer = parse_response(data)
    assert isinstance(answer, Update)
    return answer


def refusal(data: bytes) -> UpdateAgentError:
    with pytest.raises(UpdateAgentError) as caught:
        parse_response(data)
    return caught.value


# requests


def test_request_of_an_update_check_is_the_bytes_that_update_engine_sends() -> None:
    event = Event(event_type=EventType.UPDATE_COMPLETE, result=EventResult.SUCCESS_REBOOT, previous_version="0.0.0.0")
    assert request(event, ping=True, check=True) == (DATA / "request-update-engine.xml").read_bytes()


def test_request_that_only_pings_has_one_child() -> None:
    assert children(request(ping=True)) == ['<ping active="1"></ping>']


def test_request_with_an_error_event_has_the_code_as_a_signed_number() -> None:
    error = EventResult.ERROR
    codes = (44, 268435490, 1 << 31 | 9)
    body = request(*(Event(event_type=EventType.UPDATE_COMPLETE, result=error, error_code=code) for code in codes))
    assert children(body) == [
        '<event eventtype="3" eventresult="0" errorcode="44"></event>',
        '<event eventtype="3" eventresult="0" errorcode="268435490"></event>',
        '<event eventtype="3" eventresult="0" errorcode="-2147483639"></event>',
    ]


def test_request_with_a_success_event_has_no_code() -> None:
    body = request(Event(event_type=EventType.DOWNLOAD_STARTED, result=EventResult.SUCCESS))
    assert children(body) == ['<event eventtype="13" eventresult="1"></event>']


def test_request_drops_characters_that_xml_cannot_carry() -> None:
    body = Request(
        app=AppInfo(app_id='a\0\x1b"\r\n\t\ud800\uffff\U0001f600', version="", track="", boot_id="", machine=""),
        updater="u-1",
        install_source=InstallSource.SCHEDULER,
    ).to_bytes()
    assert b'appid="a&quot;&#13;\n\t&#x1F600;" version=""' in body
    assert b'installsource="scheduler"' in body


# answers of servers in the field


def test_response_of_nebraska_with_an_update_is_read() -> None:
    assert parse_response((DATA / "nebraska-update.xml").read_bytes()) == Update(
        version=Version("2.0.0"),
        urls=("http://127.0.0.1:9999/2.0.0/update.gz",),
        size_bytes=1048576,
        sha256=base64.b64decode("8iq9Z3OrIyhpMhrUseR6wMkI/r9POivRDIBmFA90EmE="),
        is_delta=False,
        max_failure_count_per_url=10,
        disable_backoff=True,
        poll_interval_secs=None,
    )


def test_response_of_nebraska_with_an_extra_package_uses_the_first() -> None:
    update = parse_update((DATA / "nebraska-extra-package.xml").read_bytes())
    assert update.urls == ("http://127.0.0.1:9999/2.0.0/update.gz",)


def test_response_of_nebraska_with_floors_uses_the_first() -> None:
    assert parse_update((DATA / "nebraska-floors.xml").read_bytes()).version == Version("1.1.0")


def test_response_of_go_omaha_is_read() -> None:
    update = parse_update((DATA / "go-omaha-update.xml").read_bytes())
    assert update.urls == ("http://127.0.0.1:18010/packages/update.gz",)
    assert update.size_bytes == 200000


@pytest.mark.parametrize("name", ["nebraska-noupdate", "nebraska-after-reboot"])
def test_response_without_an_update_is_read(name: str) -> None:
    assert parse_response((DATA / f"{name}.xml").read_bytes()) == NoUpdate(poll_interval_secs=None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("in-progress", "error-updateInProgressOnInstance"),
        ("rate", "error-maxUpdatesPerPeriodLimitReached"),
        ("paused", "error-updatesDisabled"),
        ("unknown", "error-failedToRetrieveUpdatePackageInfo"),
        ("registration", "error-instanceRegistrationFailed"),
    ],
)
def test_response_that_refuses_gives_the_servers_reason(name: str, reason: str) -> None:
    error = refusal((DATA / f"nebraska-refused-{name}.xml").read_bytes())
    assert isinstance(error, TransferError)
    assert error.kind is Kind.OMAHA_REFUSED
    assert reason in error.message


def test_response_to_an_event_is_no_answer_to_a_check() -> None:
    assert refusal((DATA / "nebraska-event.xml").read_bytes()).kind is Kind.OMAHA_INVALID


def test_response_of_nebraska_to_garbage_is_empty() -> None:
    assert refusal((DATA / "nebraska-garbage.xml").read_bytes()).kind is Kind.OMAHA_EMPTY


# what else may come


@pytest.mark.parametrize("data", [b"", b" \n", b"\xef\xbb\xbf", b'\xef\xbb\xbf<?xml version="1.0"?>\r\n'])
def test_response_without_an_element_is_empty(data: bytes) -> None:
    assert refusal(data).kind is Kind.OMAHA_EMPTY


BILLION_LAUGHS = b"""<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<response><app>&b;</app></response>"""
EXTERNAL = b'<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/hostname">]><response><app>&a;</app></response>'


@pytest.mark.parametrize(
    "data",
    [
        b"<x",
        b"<response>",
        b"<response/><response/>",
        b"<request/>",
        b"\xff\xfe\x00",
        b"\0",
        b'<?xml version="1.0" encoding="no-such"?><response/>',
        b'<?xml version="1.0" encoding="utf-7"?><response/>',
        b'<?xml version="1.0" encoding="shift_jis"?><response/>',
        b"<response>&nbsp;</response>",
        b"<!DOCTYPE response><response/>",
        BILLION_LAUGHS,
        EXTERNAL,
        b"<response>" + b"<a>" * 100_000,
        b"<response>" + b"<a/>" * 100_000 + b"</response>",
        b"<response>" + b" " * (1 << 20) + b"</response>",
    ],
)
def test_response_that_is_no_small_plain_xml_is_refused(data: bytes) -> None:
    error = refusal(data)
    assert error.kind is Kind.OMAHA_MALFORMED
    assert len(error.message) < 300
    assert error.hint is None


@pytest.mark.parametrize(
    "data",
    [b"<html><body>hello</body></html>", b"<!doctype html>\n<p>hello", b"<html><br></html>"],
)
def test_response_that_is_a_web_page_says_so(data: bytes) -> None:
    error = refusal(data)
    assert error.kind is Kind.OMAHA_MALFORMED
    assert "web page" in (error.hint or "")


def test_response_without_an_xml_declaration_is_read() -> None:
    assert parse_update(response()).size_bytes == 7


def test_response_with_options_is_read() -> None:
    update = parse_update(
        response(
            check='status="ok" PollInterval="600"',
            urls='<url codebase="https://a"/><url/><url codebase=""/><url codebase="http://b:8080/c/"/>',
            action=f'event="postinstall" sha256="{SHA256.hex()}" MaxFailureCountPerUrl="3" IsDeltaPayload="true"',
        )
    )
    assert update.poll_interval_secs == 600
    assert update.urls == ("https://a/update.gz", "http://b:8080/c/update.gz")
    assert update.sha256 == SHA256
    assert update.max_failure_count_per_url == 3
    assert update.is_delta
    assert not update.disable_backoff


def test_response_with_a_failure_count_of_zero_means_one() -> None:
    action = f'event="postinstall" sha256="{BASE64}" MaxFailureCountPerUrl="0"'
    assert parse_update(response(action=action)).max_failure_count_per_url == 1


def test_response_with_a_poll_interval_of_zero_means_none() -> None:
    answer = parse_response(b'<response><app><updatecheck PollInterval="0" status="noupdate"/></app></response>')
    assert answer == NoUpdate(poll_interval_secs=None)


@pytest.mark.parametrize("action", ["", 'event="install"', 'event="postinstall"', 'event="postinstall" sha256=" "'])
def test_response_with_the_digest_at_the_package_only_is_read(action: str) -> None:
    package = f'name="update.gz" size="7" hash_sha256="{SHA256.hex().upper()}"'
    assert parse_update(response(package=package, action=action)).sha256 == SHA256


def test_response_whose_first_app_has_no_check_uses_the_next() -> None:
    data = b'<response><app status="ok"/><app><updatecheck status="noupdate"/></app></response>'
    assert parse_response(data) == NoUpdate(poll_interval_secs=None)


def test_response_with_an_app_error_and_no_check_is_a_refusal() -> None:
    error = refusal(b'<response><app/><app status="error-unknownApplication"/></response>')
    assert error.kind is Kind.OMAHA_REFUSED
    assert "error-unknownApplication" in error.message


def test_response_with_a_check_error_and_a_good_app_gives_the_checks_reason() -> None:
    error = refusal(response(app='status="ok"', check='status="error-internal"'))
    assert "error-internal" in error.message


def test_response_with_a_hostile_reason_is_made_harmless() -> None:
    error = refusal(response(app='status="&#x9b;31m' + "x" * 9999 + '"', check='status="no"'))
    assert error.message.isprintable()
    assert len(error.message) < 200


MANY_URLS = '<url codebase="http://a/"/>' * 33


@pytest.mark.parametrize(
    "data",
    [
        b"<response/>",
        b"<response><app/></response>",
        b"<response><app><updatecheck/></app></response>",
        b'<response><app><updatecheck status="ok"/></app></response>',
        response(check='status="ok" PollInterval="-1"'),
        response(check='status="ok" PollInterval="4294967296"'),
        response(check='status="ok" PollInterval="\u0661"'),
        response(urls=""),
        response(urls=MANY_URLS),
        response(urls='<url codebase="ftp://a/"/>'),
        response(urls='<url codebase="file:///etc/"/>'),
        response(urls='<url codebase="//a/"/>'),
        response(urls='<url codebase="http:///b"/>'),
        response(urls='<url codebase="http://[::1/"/>'),
        response(urls='<url codebase="http://a:99999/"/>'),
        response(urls='<url codebase="http://a/&#10;b"/>'),
        response(urls=f'<url codebase="http://a/{"b" * 2048}"/>'),
        response(manifest=""),
        response(manifest='version="no version"'),
        response(package='size="7"'),
        response(package='name="" size="7"'),
        response(package='name="../update.gz" size="7"'),
        response(package='name="a/../../update.gz" size="7"'),
        response(package='name="a\\..\\update.gz" size="7"'),
        response(package='name="%2e%2e/update.gz" size="7"'),
        response(package='name="/update.gz" size="7"'),
        response(package='name="http://evil/update.gz" size="7"'),
        response(package='name="a&#x7f;b" size="7"'),
        response(package='name="update.gz"'),
        response(package='name="update.gz" size="0"'),
        response(package='name="update.gz" size="-7"'),
        response(package='name="update.gz" size="1e9"'),
        response(package='name="update.gz" size="9223372036854775808"'),
        response(package=f'name="update.gz" size="{"9" * 9999}"'),
        response(action=""),
        response(action='event="postinstall" sha256="no base64!"'),
        response(action='event="postinstall" sha256="aGVsbG8="'),
        response(action='event="postinstall" sha256="\u00e9"'),
        response(action=f'event="postinstall" sha256="{"g" * 64}"'),
        response(action=f'event="postinstall" sha256="{BASE64}" MaxFailureCountPerUrl="many"'),
        response(package=f'name="u" size="7" hash_sha256="{"00" * 32}"'),
        response(package='name="u" size="7" hash_sha256="c2hhMjU2"'),
    ],
)
def test_response_with_a_missing_or_senseless_piece_is_invalid(data: bytes) -> None:
    error = refusal(data)
    assert isinstance(error, FormatError)
    assert error.kind is Kind.OMAHA_INVALID
    assert error.message.isprintable()
    assert len(error.message) < 400


def test_url_of_the_longest_kind_is_accepted() -> None:
    codebase = "http://a/".ljust(omaha.MAX_URL_CHARS - len("/update.gz"), "b")
    assert len(parse_update(response(urls=f'<url codebase="{codebase}"/>')).urls[0]) == omaha.MAX_URL_CHARS
