"""The client of the daemon where the other end is not what it expects."""

from collections.abc import Callable
from typing import Any

import pytest

from update_agent.cli.client import Agent
from update_agent.errors import Kind, ServiceError


class StrangeBus:
    """Somebody owns the name and answers with properties of its own."""

    def __init__(self, properties: dict[str, Any]) -> None:
        self._properties = properties

    def call(
        self, name: str, path: str, interface: str, method: str, signature: str = "", args: tuple[Any, ...] = (),
        timeout_secs: float = 1.0, *, interactive: bool = False,
    ) -> tuple[Any, ...]:  # fmt: skip
        return ({},) if method == "GetManagedObjects" else (self._properties,)

    def get_all(self, name: str, path: str, interface: str) -> dict[str, Any]:
        return self._properties

    def watch(
        self, name: str, path: str, interface: str, signal: str, callback: Callable[[tuple[Any, ...]], None], *,
        owner_changed: Callable[[bool], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """Nothing comes."""

    def run(self, until: Callable[[], bool], timeout_secs: float | None = None) -> bool:
        return until()


@pytest.mark.parametrize("properties", [{}, {"LastError": ("a", "b")}, {"LastError": 5}])
def test_daemon_of_another_release_is_told_to_be_one(properties: dict[str, Any]) -> None:
    agent = Agent(StrangeBus(properties), timeout_secs=1.0)
    with pytest.raises(ServiceError) as caught:
        agent.status()
    assert caught.value.kind is Kind.BUS
    assert "restart update-agentd" in (caught.value.hint or "")
