"""Questions to systemd and logind over a real bus, with stand-ins behind it."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.stand_ins import Machine, PrivateBus, bus_without_services, private_bus
from update_agent.errors import Kind, ServiceError
from update_agent.host import logind, systemd_manager
from update_agent.host.systemd_manager import UnitState


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with private_bus(tmp_path_factory.mktemp("bus")) as bus:
        yield bus


def test_reboot_that_logind_agrees_to_returns(bus: PrivateBus) -> None:
    bus.be(Machine())
    before = bus.reboots()
    logind.reboot(address=bus.address)
    assert bus.reboots() == before + 1


@pytest.mark.parametrize(
    "error", ["org.freedesktop.login1.BlockedByInhibitorLock", "org.freedesktop.DBus.Error.AccessDenied"]
)
def test_reboot_that_logind_refuses_says_who_and_what_to_do(bus: PrivateBus, error: str) -> None:
    bus.be(Machine(reboot=error))
    with pytest.raises(ServiceError, match="the stand-in does not want to") as caught:
        logind.reboot(address=bus.address)
    assert caught.value.kind is Kind.COMMAND_FAILED
    assert error in caught.value.message
    assert "GDBus.Error" not in caught.value.message
    assert "systemd-inhibit --list" in str(caught.value.hint)


def test_reboot_without_an_answer_ends(bus: PrivateBus) -> None:
    bus.be(Machine(reboot="hang"))
    before = time.monotonic()
    with pytest.raises(ServiceError) as caught:
        logind.reboot(address=bus.address, timeout_secs=0.3)
    assert caught.value.kind is Kind.BUS
    assert time.monotonic() - before < 5


@pytest.mark.parametrize("answer", ["yes", "challenge", "inhibitor-blocked"])
def test_can_reboot_is_what_logind_says(bus: PrivateBus, answer: str) -> None:
    bus.be(Machine(can_reboot=answer))
    assert logind.can_reboot(address=bus.address) == answer


def test_state_of_a_unit_is_what_systemd_says(bus: PrivateBus) -> None:
    bus.be(Machine(target="activating"))
    state = systemd_manager.unit_state("boot-complete.target", address=bus.address)
    assert state == UnitState(load="loaded", active="activating")
    assert not state.is_active
    bus.be(Machine(target="active"))
    assert systemd_manager.unit_state("boot-complete.target", address=bus.address).is_active


def test_state_of_a_unit_that_systemd_says_nothing_about_is_an_error(bus: PrivateBus) -> None:
    bus.be(Machine(load=""))
    with pytest.raises(ServiceError, match="got nothing"):
        systemd_manager.unit_state("boot-complete.target", address=bus.address)


def test_failed_units_are_sorted_by_name(bus: PrivateBus) -> None:
    bus.be(Machine(failed=("b.service", "a.service")))
    assert systemd_manager.failed_units(address=bus.address) == ("a.service", "b.service")


def test_many_questions_leave_nothing_behind(bus: PrivateBus) -> None:
    bus.be(Machine())

    def ask(times: int) -> None:
        for _ in range(times):
            systemd_manager.unit_state("boot-complete.target", address=bus.address)

    ask(100)
    before, files = resident_bytes(), len(os.listdir("/proc/self/fd"))
    ask(400)  # 9 KiB each if the connection is closed in the background
    assert resident_bytes() - before < 1024 * 1024
    assert len(os.listdir("/proc/self/fd")) < files + 10


ASK: list[Callable[[str], object]] = [
    lambda address: logind.reboot(address=address),
    lambda address: logind.can_reboot(address=address),
    lambda address: systemd_manager.unit_state("boot-complete.target", address=address),
    lambda address: systemd_manager.failed_units(address=address),
]


@pytest.mark.parametrize("ask", ASK)
def test_bus_without_the_service_is_no_answer(tmp_path: Path, ask: Callable[[str], object]) -> None:
    with bus_without_services(tmp_path) as address, pytest.raises(ServiceError) as caught:
        ask(address)
    assert caught.value.kind is Kind.BUS


@pytest.mark.parametrize("ask", ASK)
def test_no_bus_is_no_answer(tmp_path: Path, ask: Callable[[str], object]) -> None:
    with pytest.raises(ServiceError, match="cannot connect") as caught:
        ask(f"unix:path={tmp_path}/none")
    assert caught.value.kind is Kind.BUS


def test_bus_that_accepts_and_says_nothing_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "mute"))
        server.listen()
        before = time.monotonic()
        with pytest.raises(ServiceError) as caught:
            logind.reboot(address=f"unix:path={tmp_path}/mute", timeout_secs=0.3)
    assert caught.value.kind is Kind.BUS
    assert time.monotonic() - before < 5
