from pathlib import Path

import pytest

from update_agent.errors import FormatError, Kind
from update_agent.formats.omaha import NoUpdate, Update, parse_response
from update_agent.formats.omaha_server import (
    AppAnswer,
    AppStatus,
    AskingApp,
    Offer,
    ReportedEvent,
    build_response,
    parse_request,
)

DATA = Path(__file__).parent.parent / "data" / "omaha"
APP = "998c61c4-f7fe-4bc7-b75d-df20a44a16d1"
OFFER = Offer(
    version="2.0.0",
    codebase="http://127.0.0.1:9999/2.0.0/",
    name="update.gz",
    size_bytes=1048576,
    sha1_base64="98pqIdJ461zmRhGq29t37xUR090=",
    sha256_base64="8iq9Z3OrIyhpMhrUseR6wMkI/r9POivRDIBmFA90EmE=",
)


def as_nebraska(*answers: AppAnswer) -> bytes:
    return build_response(answers).replace(b'server="update-agent"', b'server="nebraska"')


def test_request_of_update_engine_is_read() -> None:
    (app,) = parse_request((DATA / "request-update-engine.xml").read_bytes())
    assert app == AskingApp(
        app_id="{e96281a6-d1af-4bde-9a0a-97b76e56dc57}",
        version="4081.2.0",
        track="beta & <x>'\u00e9",
        machine_id="0123456789abcdef0123456789abcdef",
        has_ping=True,
        has_update_check=True,
        events=(ReportedEvent(event_type="3", result="2", error_code="", previous_version="0.0.0.0"),),
    )
    assert app.product == "e96281a6-d1af-4bde-9a0a-97b76e56dc57"


def test_request_of_a_similar_agent_is_read() -> None:
    (app,) = parse_request((DATA / "request-agent.xml").read_bytes())
    assert app.product == APP
    assert app.events == ()


@pytest.mark.parametrize("spelling", [APP, APP.upper(), f"{{{APP}}}", f" {{ {APP} }} "])
def test_app_id_in_any_spelling_is_the_same_product(spelling: str) -> None:
    (app,) = parse_request(f'<request protocol="3.0"><app appid="{spelling}"/></request>'.encode())
    assert app.product == APP
    assert app.app_id == spelling


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", Kind.OMAHA_EMPTY),
        (b"hello", Kind.OMAHA_MALFORMED),
        (b"<response/>", Kind.OMAHA_MALFORMED),
        (b"<request>" + b" " * 65536 + b"</request>", Kind.OMAHA_MALFORMED),
        (b"<request/>", Kind.OMAHA_INVALID),
        (b'<request protocol="2.0"><app appid="a"/></request>', Kind.OMAHA_INVALID),
        (b'<request protocol="3.0"/>', Kind.OMAHA_INVALID),
        (b'<request protocol="3.0"><app/></request>', Kind.OMAHA_INVALID),
        (b'<request protocol="3.0">' + b'<app appid="a"/>' * 33 + b"</request>", Kind.OMAHA_INVALID),
        (b'<request protocol="3.0"><app appid="a">' + b"<event/>" * 65 + b"</app></request>", Kind.OMAHA_INVALID),
        (b'<request protocol="3.0"><app appid="' + b"a" * 257 + b'"/></request>', Kind.OMAHA_INVALID),
    ],
)
def test_request_that_makes_no_sense_is_refused(data: bytes, kind: Kind) -> None:
    with pytest.raises(FormatError) as caught:
        parse_request(data)
    assert caught.value.kind is kind


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("noupdate", AppAnswer(app_id=APP, has_ping=True, has_update_check=True)),
        ("event", AppAnswer(app_id=APP, event_count=1)),
        ("after-reboot", AppAnswer(app_id=APP, has_ping=True, has_update_check=True, event_count=1)),
    ],
)
def test_response_is_the_bytes_that_nebraska_sends(name: str, answer: AppAnswer) -> None:
    assert as_nebraska(answer) == (DATA / f"nebraska-{name}.xml").read_bytes()


def test_response_with_an_update_differs_from_nebraska_in_the_packages_digest_only() -> None:
    answer = AppAnswer(app_id=APP, has_ping=True, has_update_check=True, offer=OFFER)
    body = as_nebraska(answer).replace(b' hash_sha256="' + OFFER.sha256_base64.encode() + b'"', b"")
    assert body == (DATA / "nebraska-update.xml").read_bytes()


def test_response_with_an_update_is_read_by_the_client() -> None:
    update = parse_response(build_response([AppAnswer(app_id=APP, has_update_check=True, offer=OFFER)]))
    assert isinstance(update, Update)
    assert update.urls == ("http://127.0.0.1:9999/2.0.0/update.gz",)


def test_response_without_an_update_is_read_by_the_client() -> None:
    answer = parse_response(build_response([AppAnswer(app_id=APP, has_update_check=True)]))
    assert answer == NoUpdate(poll_interval_secs=None)


def test_response_to_an_unknown_app_has_no_ping_and_escapes_the_name() -> None:
    body = build_response(
        [
            AppAnswer(
                app_id='"><x/>', status=AppStatus.UNKNOWN_APPLICATION, has_ping=True, has_update_check=True, offer=OFFER
            )
        ]
    )
    assert body.endswith(
        b'<app appid="&quot;&gt;&lt;x/&gt;" status="error-unknownApplication">'
        b'<updatecheck status="error-internal"><urls></urls></updatecheck></app></response>'
    )
