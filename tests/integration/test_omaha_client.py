import socket
import time
from pathlib import Path

import pytest

from tests.support.servers import Received, head, make_authority, redirect, send, serving, whole
from update_agent.errors import ConfigurationError, FormatError, Kind, TransferError
from update_agent.formats.omaha import NoUpdate, Update, parse_response
from update_agent.formats.omaha_request import AppInfo, InstallSource, Request
from update_agent.net.failures import HttpStatusError
from update_agent.net.omaha_client import OmahaClient
from update_agent.net.settings import TransferSettings

DATA = Path(__file__).parent.parent / "data" / "omaha"
UPDATE = (DATA / "nebraska-update.xml").read_bytes()
REQUEST = Request(
    app=AppInfo(app_id="a", version="1.0.0", track="stable", boot_id="b", machine="x86_64"),
    updater="update-agent-1",
    install_source=InstallSource.SCHEDULER,
    has_update_check=True,
)
QUICK = TransferSettings(connect_timeout_secs=1, stall_secs=0.5, proxy="", user="u", password="p")


def refusal(url: str, *, total_secs: float = 5.0) -> TransferError:
    client = OmahaClient(url, QUICK, total_secs=total_secs)
    with pytest.raises(TransferError) as caught:
        parse_response(client.exchange(REQUEST))
    client.close()
    return caught.value


def test_check_posts_the_request_and_reads_the_answer() -> None:
    with serving(whole(UPDATE)) as server:
        client = OmahaClient(server.url, QUICK)
        assert isinstance(parse_response(client.exchange(REQUEST)), Update)
        client.close()
        (request,) = server.received
    assert (request.method, request.target, request.body) == ("POST", "/payload", REQUEST.to_bytes())
    assert request.headers["content-type"] == "text/xml"


def test_check_of_a_server_with_bare_line_feeds_that_never_read_the_request_is_answered() -> None:
    with serving(send(head(eol="\n"), UPDATE)) as server:
        client = OmahaClient(server.url, QUICK)
        assert isinstance(parse_response(client.exchange(REQUEST)), Update)
        client.close()


def test_check_over_https_sends_no_credentials(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    settings = TransferSettings(proxy="", user="u", password="p", ca_file=authority.ca_file)
    with serving(whole((DATA / "nebraska-noupdate.xml").read_bytes()), tls=authority.server_context()) as server:
        client = OmahaClient(server.url, settings)
        assert parse_response(client.exchange(REQUEST)) == NoUpdate(poll_interval_secs=None)
        client.close()
        assert "authorization" not in server.received[0].headers


def test_redirected_check_is_posted_again() -> None:
    with serving(redirect("/other"), whole(UPDATE)) as server:
        client = OmahaClient(server.url, QUICK)
        parse_response(client.exchange(REQUEST))
        client.close()
        assert [(each.method, each.target, each.body) for each in server.received] == [
            ("POST", "/payload", REQUEST.to_bytes()),
            ("POST", "/other", REQUEST.to_bytes()),
        ]


def test_check_told_to_look_elsewhere_is_refused() -> None:
    with serving(redirect("/other", "303 See Other")) as server:
        assert refusal(server.url).kind is Kind.HTTP_STATUS


@pytest.mark.parametrize("status", [404, 500, 503])
def test_check_with_another_status_says_which_and_is_not_repeated(status: int) -> None:
    with serving(send(head(f"{status} No", Content_Length=0))) as server:
        error = refusal(server.url)
        assert len(server.received) == 1
    assert isinstance(error, HttpStatusError)
    assert error.status == status


def test_check_of_a_server_that_is_not_there_fails_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = refusal(f"http://127.0.0.1:{port}/v1/update/?secret")
    assert error.kind is Kind.OMAHA_TRANSFER
    assert error.message == f"update server: http://127.0.0.1:{port}/v1/update/: connection refused"


def test_check_with_a_cut_answer_fails() -> None:
    with serving(send(head(Content_Length=5000), UPDATE)) as server:
        assert refusal(server.url).kind is Kind.OMAHA_TRANSFER


def test_check_with_an_endless_answer_is_stopped_by_its_size() -> None:
    def endless(connection: socket.socket, _: Received) -> None:
        connection.sendall(head())
        while True:
            connection.sendall(b" " * 100_000)

    with serving(endless) as server:
        assert refusal(server.url).kind is Kind.TRANSFER_TOO_LARGE


def test_check_with_a_steady_answer_is_stopped_by_its_time() -> None:
    def steady(connection: socket.socket, __: Received) -> None:
        connection.sendall(head())
        for _ in range(200):
            connection.sendall(b" " * 100)
            server.wait(0.02)

    with serving(steady) as server:
        started = time.monotonic()
        assert refusal(server.url, total_secs=0.8).kind is Kind.OMAHA_TRANSFER
        took = time.monotonic() - started
    assert took < 3


def test_check_with_an_empty_answer_is_empty() -> None:
    with serving(whole(b"")) as server:
        client = OmahaClient(server.url, QUICK)
        with pytest.raises(FormatError) as caught:
            parse_response(client.exchange(REQUEST))
        client.close()
    assert caught.value.kind is Kind.OMAHA_EMPTY


def test_report_says_whether_it_was_delivered(caplog: pytest.LogCaptureFixture) -> None:
    with serving(whole(b"anything"), send(head("500 Oops"))) as server:
        client = OmahaClient(server.url, QUICK)
        assert client.report(REQUEST)
        assert not client.report(REQUEST)
        client.close()
    assert "event not delivered" in caplog.text


def test_check_at_something_that_is_no_url_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        OmahaClient("disabled", QUICK).exchange(REQUEST)
