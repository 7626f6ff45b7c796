"""An agent without a process around it: time that only moves when told, children that say what a test says."""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.nodes import MemoryFile
from update_agent.api.node import NodeStatus
from update_agent.config.load import Configuration
from update_agent.config.settings import Settings
from update_agent.daemon.agent import Agent
from update_agent.daemon.assignment import Facts
from update_agent.daemon.job import Job
from update_agent.daemon.ledger import Ledger
from update_agent.daemon.node import Disk, Node
from update_agent.daemon.ports import CompatStatus
from update_agent.daemon.view import Health
from update_agent.daemon.workers import WorkerExit
from update_agent.domain.messages import Message
from update_agent.domain.slots import SlotName
from update_agent.domain.state import AgentState, StateStore
from update_agent.errors import DeviceError, Kind, ServiceError

STATE = "state.json"


@dataclass
class FakeTimer:
    function: Callable[[], None] | None

    def cancel(self) -> None:
        self.function = None


class FakeLoop:
    """Starts at unix second 1,000,000."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, FakeTimer]] = []

    def call_later(self, secs: float, function: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(function)
        heapq.heappush(self._timers, (self.now + secs, next(self._order), timer))
        return timer

    def unix_now(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def advance(self, secs: float) -> None:
        """Let time pass, and ring what is due on the way."""
        end = self.now + secs
        while self._timers and self._timers[0][0] <= end:
            at, _, timer = heapq.heappop(self._timers)
            self.now = at
            if timer.function is not None:
                timer.function()
        self.now = end


class KeptMemoryFile(MemoryFile):
    """A state file in memory; with `fails`, the file system is broken."""

    fails: Kind | None = None

    def replace(self, data: bytes) -> None:
        if self.fails is not None:
            raise DeviceError(self.fails, "state.json: cannot write: No space left on device")
        super().replace(data)

    def set_aside(self) -> str:
        self.remove()
        return "state.json.damaged"


@dataclass
class FakeWorker:
    job: Job
    on_message: Callable[[Message], None]
    on_exit: Callable[[WorkerExit], None]
    cancelled: list[bool] = field(default_factory=list)

    def cancel(self, *, by_person: bool) -> None:
        self.cancelled.append(by_person)

    def say(self, *messages: Message) -> None:
        for message in messages:
            self.on_message(message)

    def end(self, status: int = 0, *, was_signal: bool = False, problem: str | None = None) -> None:
        self.on_exit(WorkerExit(status=status, was_signal=was_signal, problem=problem))


@dataclass
class FakeWorkers:
    started: list[FakeWorker] = field(default_factory=list)
    cannot_start: bool = False

    def start(
        self, job: Job, *, on_message: Callable[[Message], None], on_exit: Callable[[WorkerExit], None]
    ) -> FakeWorker:
        if self.cannot_start:
            raise ServiceError(Kind.WORKER_DIED, "child process: cannot start: out of memory")
        worker = FakeWorker(job, on_message, on_exit)
        self.started.append(worker)
        return worker

    @property
    def last(self) -> FakeWorker:
        return self.started[-1]


@dataclass
class Recorder:
    """A listener that keeps what it is told."""

    statuses: list[NodeStatus] = field(default_factory=list)
    signals: list[CompatStatus] = field(default_factory=list)

    def status_changed(self, status: NodeStatus) -> None:
        self.statuses.append(status)

    def compat_signal(self, status: CompatStatus) -> None:
        self.signals.append(status)

    @property
    def states(self) -> list[str]:
        """Each state once, in order."""
        return [state for state, _ in itertools.groupby(status.state for status in self.statuses)]

    @property
    def operations(self) -> list[str]:
        return [signal.current_operation.removeprefix("UPDATE_STATUS_") for signal in self.signals]


@dataclass(kw_only=True)
class AgentBench:
    """One machine with an agent that can be stopped, rebooted and started again."""

    image: Path
    booted: SlotName | None = SlotName.A
    boot_id: str = "boot-1"
    settings: Settings = field(default_factory=Settings)
    warnings: tuple[str, ...] = ()
    health: Health = field(default_factory=Health)
    is_test_image: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    loop: FakeLoop = field(default_factory=FakeLoop)
    workers: FakeWorkers = field(default_factory=FakeWorkers)
    recorder: Recorder = field(default_factory=Recorder)
    random: float = 0.5

    def __post_init__(self) -> None:
        self.file = KeptMemoryFile(self.files, STATE)
        self.agent = self.make()

    def make(self) -> Agent:
        """A new process, not started."""
        self.recorder = Recorder()
        agent = Agent(
            loop=self.loop,
            node=Node(self._find),
            ledger=Ledger(StateStore(self.file)),
            workers=self.workers,
            configure=self._configure,
            read_health=lambda: self.health,
            facts=Facts(boot_id=self.boot_id, machine_id="0" * 32, machine="x86_64", is_test_image=self.is_test_image),
            random=lambda: self.random,
        )
        agent.listen(self.recorder)
        self.agent = agent
        return agent

    def start(self) -> Agent:
        """A new process; the one before was killed."""
        self.make().start()
        return self.agent

    @property
    def state(self) -> AgentState:
        """As on the disk."""
        return AgentState.from_bytes(self.files[STATE])

    def _find(self) -> Disk:
        return Disk(path=self.image, booted=self.booted)

    def _configure(self) -> Configuration:
        return Configuration(
            settings=self.settings, origins={}, warnings=self.warnings, oem_id="azure", oem_version="1.2.3"
        )
