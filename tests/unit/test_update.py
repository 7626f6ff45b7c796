"""The story of an update, with a server and a disk in memory: what the daemon and the server hear, in which order."""

import base64
import contextlib
import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support.nodes import BytesSource, Node, make_node
from tests.support.payloads import RSA_A_PUBLIC, RSA_B, make_payload
from update_agent.api.codes import check_code, omaha_code
from update_agent.domain.attempt import PostInstall, Workplace, skip_post_install
from update_agent.domain.backoff import DAY_SECS, signature_of
from update_agent.domain.install import InstallRequest
from update_agent.domain.messages import (
    Advanced,
    BackoffChanged,
    Checked,
    Failed,
    Installed,
    Message,
    NothingNew,
    Offered,
    Reported,
)
from update_agent.domain.offer import OfferPolicy
from update_agent.domain.policy import VersionPolicy
from update_agent.domain.reader import Expectation
from update_agent.domain.session import OFFICIAL_SERVER, SilentSession, UpdateSession
from update_agent.domain.slots import Slot, SlotName
from update_agent.domain.state import Backoff
from update_agent.domain.trust import KeyRing
from update_agent.domain.update import UpdateStory, UpdateTools
from update_agent.errors import (
    ConfigurationError,
    DeviceError,
    InstallError,
    Kind,
    TransferError,
    UpdateAgentError,
    VerificationError,
)
from update_agent.formats.manifest import PartName
from update_agent.formats.omaha import Update
from update_agent.formats.omaha_request import AppInfo, InstallSource, Request
from update_agent.net.failures import HttpStatusError
from update_agent.net.source import PayloadSource

NOW = 1_800_000_000
USR = random.Random(1).randbytes(64 * 1024)
PAYLOAD = make_payload(USR)
FLAG_RESUMED = 1 << 30
APP = AppInfo(app_id="{app}", version="1.0.0", track="stable", boot_id="{boot}", machine="x86_64", machine_id="m")


class MemoryDownload(BytesSource):
    """A payload in memory that counts, and may fail after so many bytes."""

    fails_after: int | None = None
    error: UpdateAgentError = TransferError(Kind.TRANSFER, "connection lost")

    @property
    def received_bytes(self) -> int:
        return self.given_bytes

    def open(self, offset: int, end: int | None = None) -> Iterator[bytes]:
        for chunk in super().open(offset, end):
            if self.fails_after is not None and self.given_bytes > self.fails_after:
                self.given_bytes -= len(chunk)
                raise self.error
            yield chunk


@dataclass
class Scene:
    """A node and its server; what was said to whom is in `heard`, messages as words and events as numbers."""

    node: Node
    version: str = "2.0.0"
    payload: bytes = PAYLOAD
    urls: tuple[str, ...] = ("http://a/", "http://b/")
    attributes: str = 'DisablePayloadBackoff="false"'
    poll: str = ""
    policy: OfferPolicy = field(default_factory=lambda: OfferPolicy(running_version="1.0.0"))
    backoff: Backoff = field(default_factory=Backoff)
    keys: Path = RSA_A_PUBLIC
    post_install: PostInstall = skip_post_install
    is_test_image: bool = False
    takes_events: bool = True
    check_error: UpdateAgentError | None = None
    open_error: UpdateAgentError | None = None
    download: MemoryDownload = field(default_factory=lambda: MemoryDownload(PAYLOAD))
    on_event: Callable[[str], None] = lambda _: None

    messages: list[Message] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    asked_urls: tuple[str, ...] = ()

    # the server

    def exchange(self, request: Request) -> bytes:
        self.heard.append("check")
        if self.check_error is not None:
            raise self.check_error
        if not self.version:
            check = f'<updatecheck status="noupdate"{self.poll}></updatecheck>'
        else:
            digest = base64.b64encode(hashlib.sha256(self.payload).digest()).decode()
            urls = "".join(f'<url codebase="{url}"></url>' for url in self.urls)
            check = (
                f'<updatecheck status="ok"{self.poll}><urls>{urls}</urls><manifest version="{self.version}"><packages>'
                f'<package name="p" size="{len(self.payload)}"></package></packages><actions>'
                f'<action event="postinstall" sha256="{digest}" {self.attributes}></action>'
                "</actions></manifest></updatecheck>"
            )
        return f'<response protocol="3.0"><app appid="x" status="ok">{check}</app></response>'.encode()

    def report(self, request: Request) -> bool:
        (event,) = request.events
        name = f"{event.event_type.value}/{event.result.value}"
        self.heard.append(name)
        self.on_event(name)
        if event.error_code is not None:
            self.codes.append(event.error_code)
        return self.takes_events

    # the tools

    def session(self) -> UpdateSession:
        return UpdateSession(
            server=self, url=OFFICIAL_SERVER, app=APP, updater="u-1", install_source=InstallSource.SCHEDULER
        )

    def tell(self, message: Message) -> None:
        self.messages.append(message)
        if not isinstance(message, Advanced):
            self.heard.append(type(message).__name__)
        elif self.heard[-1] != message.phase:
            self.heard.append(message.phase)

    @contextlib.contextmanager
    def open_workplace(self) -> Iterator[Workplace]:
        if self.open_error is not None:
            raise self.open_error
        yield replace(self.node.workplace(), post_install=self.post_install)

    def make_request(self, source: PayloadSource, expectation: Expectation) -> InstallRequest:
        return InstallRequest(
            source=source,
            keyring=KeyRing.load(self.keys),
            expectation=expectation,
            running_version="1.0.0",
            versions=self.policy.versions,
        )

    def open_download(self, update: Update, urls: tuple[str, ...]) -> MemoryDownload:
        self.asked_urls = urls
        return self.download

    def story(self) -> UpdateStory:
        tools = UpdateTools(
            tell=self.tell,
            open_workplace=self.open_workplace,
            make_request=self.make_request,
            open_download=self.open_download,
            check_code=check_code,
            update_code=omaha_code,
            now=lambda: NOW + 0.5,
            random=lambda: 0.5,
        )
        return UpdateStory(tools, policy=self.policy, backoff=self.backoff, is_test_image=self.is_test_image)

    def update(self) -> None:
        self.story().update(self.session)

    # what came of it

    def only(self, form: type[Message]) -> Message:
        (message,) = (each for each in self.messages if isinstance(each, form))
        return message

    @property
    def failure(self) -> Failed:
        message = self.only(Failed)
        assert isinstance(message, Failed)
        return message

    @property
    def kept(self) -> Backoff:
        """As the daemon would have it now."""
        changes = [message.backoff for message in self.messages if isinstance(message, BackoffChanged)]
        return changes[-1] if changes else self.backoff

    def known(self, **changes: int) -> Backoff:
        """What is kept about the offer of this server."""
        session = self.session().check()
        assert isinstance(session, Update)
        self.heard.clear()
        return Backoff(signature=signature_of(session), **changes)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(make_node(tmp_path, content_a=b"old"))


GOOD = [
    "check", "Checked", "BackoffChanged", "Offered", "13/1", "TargetTaken", "downloading", "14/1", "BackoffChanged",
    "verifying", "finalizing", "3/1", "Installed",
]  # fmt: skip


# The good way


def test_update_is_told_to_daemon_and_server_in_order(scene: Scene) -> None:
    scene.update()
    assert scene.heard == GOOD
    assert scene.only(Offered) == Offered(version="2.0.0", size_bytes=len(PAYLOAD))
    assert scene.only(Installed) == Installed(
        slot="B",
        version="2.0.0",
        previous_version="1.0.0",
        size_bytes=len(PAYLOAD),
        key=RSA_A_PUBLIC.name,
        resumed_at_bytes=0,
    )
    assert scene.node.next_boot() is SlotName.B
    assert scene.asked_urls == ("http://a/p", "http://b/p")


def test_update_downloads_and_verifies_an_attempt_before_post_install_and_never_again_on_the_same_day(
    scene: Scene,
) -> None:
    scene.update()
    assert scene.kept == scene.known(attempt_number=1, expiry_at=NOW + DAY_SECS)
    again = Scene(scene.node, backoff=scene.kept)
    again.update()
    assert again.heard == ["check", "Checked", "3/9", "NothingNew"]
    told = again.only(NothingNew)
    assert isinstance(told, NothingNew)
    assert (told.kind, told.version, told.omaha_code, again.codes) == ("backoff", "2.0.0", 40, [40])
    assert told.message
    assert told.hint


def test_update_of_several_parts_is_downloaded_and_counted_once(scene: Scene, tmp_path: Path) -> None:
    scene.payload = make_payload(USR, kernel=b"kernel" * 1000)
    scene.download = MemoryDownload(scene.payload)
    scene.node.boot_folder = tmp_path
    scene.update()
    assert [message.phase for message in scene.messages if isinstance(message, Advanced)].count("verifying") == 2
    assert scene.heard == GOOD


def test_update_of_a_person_does_not_wait(scene: Scene) -> None:
    scene.backoff = scene.known(attempt_number=1, expiry_at=NOW + DAY_SECS)
    scene.policy = replace(scene.policy, ignore_backoff=True)
    scene.update()
    assert scene.heard == GOOD[:2] + GOOD[3:]
    assert scene.kept == scene.known(attempt_number=2, expiry_at=NOW + 2 * DAY_SECS)


def test_update_on_a_test_image_never_waits(scene: Scene) -> None:
    scene.backoff = scene.known(attempt_number=1, expiry_at=NOW + DAY_SECS)
    scene.is_test_image = True
    scene.update()
    assert scene.heard[-1] == "Installed"


def test_update_begins_with_the_url_that_is_next(scene: Scene) -> None:
    scene.backoff = scene.known(url_index=1)
    scene.update()
    assert scene.asked_urls == ("http://b/p", "http://a/p")


def test_update_of_what_the_slot_holds_already_only_activates_it(scene: Scene) -> None:
    scene.update()
    allowed = replace(scene.policy, pending_version="2.0.0", versions=VersionPolicy(allow_same=True))
    again = Scene(scene.node, policy=replace(allowed, ignore_backoff=True), backoff=scene.kept)
    again.update()
    assert again.heard == ["check", "Checked", "Offered", "13/1", "3/1", "Installed"]
    told = again.only(Installed)
    assert isinstance(told, Installed)
    assert (told.key, told.size_bytes) == ("", len(PAYLOAD))


# Nothing to do


@pytest.mark.parametrize(("poll", "secs"), [("", 0), (' PollInterval="3600"', 3600)])
def test_update_when_there_is_none_says_when_to_ask_again(scene: Scene, poll: str, secs: int) -> None:
    scene.version, scene.poll = "", poll
    scene.update()
    assert scene.messages == [Checked(poll_interval_secs=secs), NothingNew()]
    assert scene.heard == ["check", "Checked", "NothingNew"]


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        (OfferPolicy(running_version="2.0.1"), Kind.DOWNGRADE),
        (OfferPolicy(running_version="1.0.0", bad_releases=("2.0.0",)), Kind.BAD_RELEASE),
        (OfferPolicy(running_version="1.0.0", pending_version="2.1.0"), Kind.DOWNGRADE),
    ],
)
def test_update_that_may_not_be_installed_is_reported_as_not_taken(
    scene: Scene, policy: OfferPolicy, kind: Kind
) -> None:
    scene.policy = policy
    scene.update()
    assert scene.heard == ["check", "Checked", "BackoffChanged", "3/9", "NothingNew"]
    told = scene.only(NothingNew)
    assert isinstance(told, NothingNew)
    assert (told.kind, told.omaha_code, scene.codes) == (kind, 35, [35])
    assert scene.node.next_boot() is SlotName.A


def test_update_to_what_runs_is_nothing_new_and_no_news_for_the_server(scene: Scene) -> None:
    scene.policy = OfferPolicy(running_version="2.0.0")
    scene.update()
    assert scene.heard == ["check", "Checked", "BackoffChanged", "NothingNew"]
    told = scene.only(NothingNew)
    assert isinstance(told, NothingNew)
    assert (told.kind, told.omaha_code) == (Kind.SAME_VERSION, 0)


def test_update_that_waits_for_its_reboot_is_nothing_new_and_no_news_for_the_server(scene: Scene) -> None:
    scene.policy = replace(scene.policy, pending_version="2.0.0")
    scene.update()
    assert scene.heard == ["check", "Checked", "BackoffChanged", "NothingNew"]
    assert scene.only(NothingNew) == NothingNew(version="2.0.0")


def test_update_to_a_node_that_does_not_know_what_it_runs_fails(scene: Scene) -> None:
    scene.policy = OfferPolicy(running_version="trunk")
    scene.update()
    assert scene.heard == ["check", "Checked", "BackoffChanged", "Failed", "3/0", "Reported"]
    assert scene.failure.kind == Kind.VERSION_MALFORMED


def test_check_ends_with_the_offer(scene: Scene) -> None:
    scene.story().check(scene.session)
    assert scene.heard == GOOD[:4]
    assert scene.node.progress == []


# Failures


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (HttpStatusError("update server: x", 503), 2503, 503),
        (TransferError(Kind.HTTP_STATUS, "x: status 302 without a place to go"), 9, 0),
        (TransferError(Kind.OMAHA_TRANSFER, "down"), 2, 0),
    ],
)
def test_update_whose_check_fails_is_told_and_reported(
    scene: Scene, error: UpdateAgentError, code: int, status: int
) -> None:
    scene.check_error = error
    scene.update()
    assert scene.heard == ["check", "Failed", "3/0", "Reported"]
    assert (scene.failure.omaha_code, scene.failure.http_status, scene.codes) == (code, status, [code])
    assert (scene.failure.kind, scene.failure.message) == (error.kind, error.message)


def test_update_whose_session_cannot_be_opened_fails(scene: Scene) -> None:
    def open_session() -> UpdateSession:
        raise ConfigurationError(Kind.CONFIGURATION, "/ca.pem: expected certificates, found no such file")

    scene.story().update(open_session)
    assert scene.messages[0] == scene.failure
    assert (scene.failure.kind, scene.messages[1:]) == (Kind.CONFIGURATION, [Reported(was_delivered=False)])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InstallError(Kind.BOOT_DISK_UNKNOWN, "no disk", hint="look"), 3),
        (DeviceError(Kind.DEVICE_OPEN, "no disk"), 7),
    ],
)
def test_update_without_a_disk_fails_and_blames_no_url(scene: Scene, error: UpdateAgentError, code: int) -> None:
    scene.open_error = error
    scene.update()
    assert scene.heard == [*GOOD[:4], "Failed", "3/0", "Reported"]
    assert (scene.failure.omaha_code, scene.failure.hint) == (code, error.hint or "")
    assert scene.kept == scene.known()


def test_update_without_a_key_fails_and_blames_no_url(scene: Scene, tmp_path: Path) -> None:
    scene.keys = tmp_path / "none.pem"
    scene.update()
    assert scene.heard == [*GOOD[:4], "Failed", "3/0", "Reported"]
    assert (scene.failure.kind, scene.codes) == (Kind.KEY_MISSING, [18])
    assert scene.kept == scene.known()


def test_update_that_is_not_what_was_signed_moves_to_the_next_url(scene: Scene) -> None:
    scene.payload = make_payload(USR, major=1, keys=(RSA_B,))
    scene.download = MemoryDownload(scene.payload)
    scene.update()
    assert scene.heard == [*GOOD[:7], "BackoffChanged", "Failed", "3/0", "Reported"]
    assert scene.codes == [18]
    assert scene.kept == scene.known(url_index=1)
    assert scene.node.next_boot() is SlotName.A


@pytest.mark.parametrize(("fails_after", "before", "count"), [(0, 2, 3), (30_000, 2, 1), (0, 9, 0)])
def test_update_whose_connection_is_lost_counts_against_the_url_unless_something_came(
    scene: Scene, fails_after: int, before: int, count: int
) -> None:
    scene.backoff = scene.known(url_failure_count=before)
    scene.download.fails_after = fails_after
    scene.update()
    assert scene.failure.kind == Kind.TRANSFER
    moved = before == 9
    assert scene.kept == scene.known(url_index=int(moved), url_failure_count=count)


def test_update_that_failed_goes_on_and_its_next_failure_says_so(scene: Scene) -> None:
    scene.download.fails_after = 50_000
    scene.update()
    assert scene.codes == [9]
    again = Scene(scene.node, backoff=scene.kept)
    again.download.fails_after = 5_000
    again.update()
    assert again.codes == [9 | FLAG_RESUMED]
    assert again.failure.omaha_code == 9 | FLAG_RESUMED
    last = Scene(scene.node, backoff=again.kept)
    last.update()
    told = last.only(Installed)
    assert isinstance(told, Installed)
    assert told.resumed_at_bytes > 0


def test_update_to_another_release_than_the_one_that_was_begun_is_not_called_resumed(scene: Scene) -> None:
    scene.download.fails_after = 50_000
    scene.update()
    payload = make_payload(USR, version="3.0.0")
    other = Scene(scene.node, version="3.0.0", payload=payload, download=MemoryDownload(payload))
    other.download.fails_after = 5_000
    other.update()
    assert other.codes == [9]


def test_update_whose_post_install_fails_counts_as_an_attempt(scene: Scene) -> None:
    def refuse(_slot: Slot, _files: Mapping[PartName, Path]) -> None:
        raise InstallError(Kind.POSTINSTALL_FAILED, "exit status 1")

    scene.post_install = refuse
    scene.update()
    assert scene.heard == [*GOOD[:11], "Failed", "3/0", "Reported"]
    assert scene.codes == [5]
    assert scene.kept == scene.known(attempt_number=1, expiry_at=NOW + DAY_SECS)
    assert scene.node.next_boot() is SlotName.A


@pytest.mark.parametrize("takes_events", [True, False])
def test_update_that_failed_says_whether_the_server_knows(scene: Scene, takes_events: bool) -> None:
    scene.takes_events, scene.download.fails_after = takes_events, 0
    scene.update()
    assert scene.messages[-1] == Reported(was_delivered=takes_events)


# A payload at hand


def test_payload_at_hand_is_installed_and_no_server_hears_of_it(scene: Scene) -> None:
    scene.story().install_payload(lambda: BytesSource(PAYLOAD))
    assert scene.heard == ["Offered", "TargetTaken", "downloading", "verifying", "finalizing", "Installed"]
    assert scene.only(Offered) == Offered(version="", size_bytes=len(PAYLOAD))
    assert scene.node.next_boot() is SlotName.B


def test_payload_of_unknown_size_is_installed(scene: Scene) -> None:
    scene.story().install_payload(lambda: BytesSource(PAYLOAD, size_is_known=False))
    assert scene.only(Offered) == Offered(version="", size_bytes=0)
    assert scene.heard[-1] == "Installed"


def test_payload_at_hand_that_is_none_fails(scene: Scene) -> None:
    scene.story().install_payload(lambda: BytesSource(b"x" * 10_000))
    assert scene.heard == ["Offered", "Failed", "Reported"]
    assert (scene.failure.kind, scene.failure.omaha_code) == (Kind.PAYLOAD_MAGIC, 21)
    assert scene.messages[-1] == Reported(was_delivered=False)


def test_payload_at_hand_that_cannot_be_opened_fails(scene: Scene) -> None:
    def missing() -> PayloadSource:
        raise ConfigurationError(Kind.USAGE, "x: cannot open: No such file or directory")

    scene.story().install_payload(missing)
    assert scene.heard == ["Failed", "Reported"]


# Stopped from elsewhere


def test_update_that_was_cancelled_blames_no_url(scene: Scene) -> None:
    scene.node.progress_sink = None
    story = scene.story()
    scene.on_event = lambda name: scene.node.cancel.cancel() if name == "13/1" else None
    story.update(scene.session)
    assert scene.heard[-3:] == ["Failed", "3/0", "Reported"]
    assert (scene.failure.kind, scene.codes) == (Kind.INTERRUPTED, [9])
    assert scene.kept == scene.known()
    assert not story.report_abandoned(SilentSession)


def test_abandon_while_a_server_is_waited_for_tells_the_end_once(scene: Scene) -> None:
    story, other = scene.story(), Scene(scene.node)

    def abandon(name: str) -> None:
        if name == "13/1":
            assert story.abandon()
            assert story.report_abandoned(other.session)
            assert story.abandon()
            assert not story.report_abandoned(other.session)
            scene.node.cancel.cancel()

    scene.on_event = abandon
    story.update(scene.session)
    assert [message for message in scene.messages[3:] if not isinstance(message, Reported)] == [scene.failure]
    assert scene.failure.kind == Kind.INTERRUPTED
    assert (other.heard, other.codes) == (["3/0"], [9])


def test_abandon_at_the_last_moment_before_activation_leaves_the_old_release(scene: Scene) -> None:
    story = scene.story()

    def post_install(_slot: Slot, _files: Mapping[PartName, Path]) -> None:
        assert story.abandon()

    scene.post_install = post_install
    story.update(scene.session)
    assert scene.heard[10:] == ["finalizing", "Failed", "3/0", "Reported"]
    assert scene.node.next_boot() is SlotName.A


def test_cancel_during_post_install_leaves_the_old_release(scene: Scene) -> None:
    scene.post_install = lambda _slot, _files: scene.node.cancel.cancel()
    scene.update()
    assert scene.failure.kind == Kind.INTERRUPTED
    assert scene.node.next_boot() is SlotName.A


def test_abandon_during_activation_has_to_be_waited_for(scene: Scene) -> None:
    story, answers = scene.story(), list[bool]()

    class Watching(dict[str, bytes]):
        def __setitem__(self, name: str, data: bytes) -> None:
            if name == "slots.json" and scene.heard[-1] == "finalizing":
                thread = threading.Thread(target=lambda: answers.append(story.abandon()))
                thread.start()
                thread.join()
            super().__setitem__(name, data)

    scene.node.files = Watching(scene.node.files)
    story.update(scene.session)
    assert answers == [False]
    assert scene.heard == GOOD


def test_abandon_while_the_server_is_told_of_success_says_that_it_is_installed(scene: Scene) -> None:
    story = scene.story()
    scene.on_event = lambda name: None if name != "3/1" else answers.append(story.abandon())
    answers: list[bool] = []
    story.update(scene.session)
    assert answers == [True]
    assert scene.heard == GOOD
    assert not story.report_abandoned(scene.session)


def test_verification_error_of_the_install_reaches_the_daemon_as_it_is(scene: Scene) -> None:
    scene.download.fails_after = 0
    scene.download.error = VerificationError(Kind.PAYLOAD_SIZE, "payload: too long", hint="ask")
    scene.update()
    assert (scene.failure.kind, scene.failure.message, scene.failure.hint) == (
        "payload-size",
        "payload: too long",
        "ask",
    )
