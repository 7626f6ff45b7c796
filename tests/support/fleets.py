"""An update server and a payload server in one, for `tests.support.servers`: remembers the order of everything."""

import base64
import hashlib
import socket
from collections.abc import Callable

from tests.support.commands import NEW
from tests.support.payloads import make_payload
from tests.support.servers import Received, Script, ranged, whole
from update_agent.formats.omaha_server import AppAnswer, AppStatus, Offer, build_response, parse_request

PAYLOAD = make_payload(NEW)


class Fleet:
    """A script. Serves `payload`, and announces `announced` if given; without `version` there is no update.

    Attributes:
        heard: `check`, `13/1` and the like, `GET`.
        codes: error codes, with flags.
        most: so many bytes of a body are sent, though more are announced.
        serve: answers requests for the payload in place of the usual.
        on_event: called before an event is answered.
    """

    def __init__(
        self,
        payload: bytes = PAYLOAD,
        *,
        announced: bytes | None = None,
        version: str = "2.0.0",
        most: int | None = None,
        serve: Script | None = None,
        on_event: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.payload = payload
        self.announced = payload if announced is None else announced
        self.version = version
        self.most = most
        self.serve = serve
        self.on_event = on_event
        self.heard: list[str] = []
        self.codes: list[int] = []

    def __call__(self, connection: socket.socket, request: Received) -> None:
        if request.method != "POST":
            self.heard.append("GET")
            (self.serve or ranged(self.payload, most=self.most))(connection, request)
            return
        (app,) = parse_request(request.body)
        self.heard += ["check"] * app.has_update_check
        self.codes += [int(event.error_code) % 2**32 for event in app.events if event.error_code]
        if not app.has_update_check:
            (event,) = app.events
            name = f"{event.event_type}/{event.result}"
            self.heard.append(name)
            self.on_event(name)
        whole(self._answer(request.headers["host"], has_update_check=app.has_update_check))(connection, request)

    def _answer(self, host: str, *, has_update_check: bool) -> bytes:
        offer = Offer(
            version=self.version,
            codebase=f"http://{host}/",
            name="new.payload",
            size_bytes=len(self.announced),
            sha1_base64=base64.b64encode(hashlib.sha1(self.announced).digest()).decode(),
            sha256_base64=base64.b64encode(hashlib.sha256(self.announced).digest()).decode(),
        )
        app = AppAnswer(
            app_id="{e96281a6-d1af-4bde-9a0a-97b76e56dc57}",
            status=AppStatus.OK,
            has_ping=has_update_check,
            has_update_check=has_update_check,
            offer=offer if has_update_check and self.version else None,
            event_count=1,
        )
        # Without this the back-off would never count.
        return build_response([app]).replace(b' DisablePayloadBackoff="true"', b"")
