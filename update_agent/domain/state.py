"""What the daemon must still know after a restart or a reboot: one file, replaced atomically.

The partition table says what boots next, and the checkpoint how far a download is; neither is repeated here. A file
that cannot be read is set aside and told about; the agent then starts as on its first day, which costs a back-off or
the memory of a bad release, and never a boot.
"""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Protocol, Self

from update_agent.domain.checkpoint import AtomicFile
from update_agent.errors import DeviceError, Kind, UpdateAgentError

SCHEMA: Final = 1
BAD_RELEASES_MAX: Final = 16

_FILE_BYTES_MAX: Final = 256 * 1024

_NUMBER_MAX: Final = (1 << 63) - 1
"""What D-Bus can carry."""

_TIME_MAX: Final = 253_402_300_799
"""The last second of the year 9999, the last that can be shown."""


class KeptFile(AtomicFile, Protocol):
    """A state file that can be moved out of the way."""

    def set_aside(self) -> str:
        """Rename it, and say to what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastError:
    """What went wrong last.

    Attributes:
        kind: stable word.
        message: one sentence.
        hint: what to do, or empty.
        at: unix seconds.
        omaha_code: as reported to the update server, with its flags.
    """

    kind: str
    message: str
    hint: str = ""
    at: int = 0
    omaha_code: int = 0

    @classmethod
    def of(cls, error: UpdateAgentError, *, at: int, omaha_code: int) -> Self:
        """The error in the form that is kept and shown."""
        return cls(kind=error.kind, message=error.message, hint=error.hint or "", at=at, omaha_code=omaha_code)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingUpdate:
    """A release that was installed and waits for its first boot.

    Attributes:
        version: of the release; empty if unknown.
        size_bytes: of its payload.
        slot: A or B.
        previous_version: what ran when it was installed.
        boot_id: of the boot in which it was installed.
        at: unix seconds.
    """

    version: str
    size_bytes: int
    slot: str
    previous_version: str
    boot_id: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRelease:
    """A release that is not installed again by itself.

    Attributes:
        version: of the release.
        reason: a sentence.
        at: unix seconds.
    """

    version: str
    reason: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How often one payload was tried, and when it may be tried again (`update_agent.domain.backoff`).

    Attributes:
        signature: text that names the response; another one starts anew.
        attempt_number: complete downloads of it.
        url_index: where the next attempt starts.
        url_failure_count: failures at that URL.
        expiry_at: unix seconds; 0 for at once.
    """

    signature: str = ""
    attempt_number: int = 0
    url_index: int = 0
    url_failure_count: int = 0
    expiry_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentState:
    """Everything that outlives the process; frozen, so that every change is a save.

    Attributes:
        aleph_version: what the node was installed with; empty until the first check.
        previous_version: what ran before the update that this boot brought, to be told with the next check; "" when
            that has been told, None when no update was ever seen.
        has_fallen_back: the last update was booted and did not stay; to be told with the next check.
        pending: installed, not booted yet.
        trial: booted, not marked good yet.
        unfinished: version and size of an update that was under way, so that it goes on after a restart.
        unfinished_size_bytes: its payload.
        bad_releases: newest last, at most 16.
        backoff: of the last payload that was offered.
        last_check_at: unix seconds of the last check, 0 for never.
        last_success_at: unix seconds of the last check that was answered, 0 for never.
        check_interval_secs: as the server or its errors made it; 0 for the configured one.
        last_error: None after a success.
    """

    aleph_version: str = ""
    previous_version: str | None = None
    has_fallen_back: bool = False
    pending: PendingUpdate | None = None
    trial: PendingUpdate | None = None
    unfinished: str | None = None
    unfinished_size_bytes: int = 0
    bad_releases: tuple[BadRelease, ...] = ()
    backoff: Backoff = field(default_factory=Backoff)
    last_check_at: int = 0
    last_success_at: int = 0
    check_interval_secs: int = 0
    last_error: LastError | None = None

    def is_bad(self, version: str) -> bool:
        """Whether a release is known to be bad."""
        return any(release.version == version for release in self.bad_releases)

    def with_bad(self, release: BadRelease) -> "AgentState":
        """The release remembered as bad."""
        others = self.without_bad(release.version).bad_releases
        return replace(self, bad_releases=(*others, release)[-BAD_RELEASES_MAX:])

    def without_bad(self, version: str) -> "AgentState":
        """The release no longer remembered as bad."""
        return replace(self, bad_releases=tuple(known for known in self.bad_releases if known.version != version))

    def to_bytes(self) -> bytes:
        """JSON, for people too."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> "AgentState":
        """What `to_bytes` wrote.

        Raises:
            DeviceError: state-file.
        """
        try:
            document = json.loads(data)
            if document["schema"] != SCHEMA:
                raise ValueError(f"schema {document['schema']}")
            return _state(document)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DeviceError(Kind.STATE_FILE, f"state: expected what the agent wrote, got {error}") from error


def _state(document: dict[str, Any]) -> AgentState:
    known = {each.name: document[each.name] for each in fields(AgentState) if each.name in document}
    nested = {"pending": PendingUpdate, "trial": PendingUpdate, "backoff": Backoff, "last_error": LastError}
    for name, form in nested.items():
        if name in known and (known[name] is not None or form is Backoff):
            known[name] = _checked(form(**known[name]))
    known["bad_releases"] = tuple(_checked(BadRelease(**each)) for each in known.get("bad_releases", ()))
    state: AgentState = _checked(AgentState(**known))
    return state


def _checked(value: Any) -> Any:
    """Every field with the type of its annotation; a half-written or edited file must not fail later."""
    kinds: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "int": (int,),
        "bool": (bool,),
        "str | None": (str, type(None)),
    }
    for each in fields(value):
        wanted = kinds.get(str(getattr(each.type, "__name__", each.type)))
        found = getattr(value, each.name)
        if wanted is not None and (not isinstance(found, wanted) or (isinstance(found, bool) and bool not in wanted)):
            raise TypeError(f"{each.name}: {found!r}")
        if isinstance(found, int):
            limit = _TIME_MAX if each.name.endswith("at") else _NUMBER_MAX
            if not 0 <= found <= limit:
                raise ValueError(f"{each.name}: a number from 0 to {limit} was expected")
    return value


class StateStore:
    """The state in its file; `first` is that of the first day."""

    def __init__(self, file: KeptFile, first: AgentState | None = None) -> None:
        self._file = file
        self._first = first or AgentState()

    def load(self) -> tuple[AgentState, UpdateAgentError | None]:
        """The state; with the error, the file was set aside and the state is that of the first day."""
        try:
            data = self._file.read(_FILE_BYTES_MAX)
            return (self._first if data is None else AgentState.from_bytes(data)), None
        except DeviceError as error:
            return self._first, self._set_aside(error)

    def _set_aside(self, error: DeviceError) -> DeviceError:
        try:
            where = self._file.set_aside()
        except DeviceError as again:
            return DeviceError(error.kind, f"{error.message}; {again.message}", hint="check the file system")
        return DeviceError(
            error.kind,
            f"{error.message}; kept as {where}, starting with an empty state",
            hint="nothing to do: back-off and the memory of bad releases are lost, no more",
        )

    def save(self, state: AgentState) -> None:
        """Durable on return.

        Raises:
            DeviceError: state-file, no-space.
        """
        self._file.replace(state.to_bytes())
