"""What an install needs, made of one opened disk."""

from collections.abc import Callable
from pathlib import Path

from update_agent.api.machine import Machine, now
from update_agent.domain.attempt import PostInstall, Workplace, skip_post_install
from update_agent.domain.progress import CancelToken, ProgressSink, ignore_progress
from update_agent.domain.targets import Places


def make_workplace(
    machine: Machine,
    *,
    boot_folder: Path | None,
    skip_kernel: bool,
    progress: ProgressSink = ignore_progress,
    cancel: CancelToken | None = None,
    target_taken: Callable[[], None] = lambda: None,
    post_install: PostInstall = skip_post_install,
) -> Workplace:
    """The workplace of the disk; the arguments are as `Places` and `Workplace` say."""
    places = Places(
        open_target=machine.open_target,
        open_source=machine.open_source,
        boot_folder=boot_folder,
        skip_kernel=skip_kernel,
        state_folder=machine.state_folder,
    )
    return Workplace(
        disk=machine.disk,
        places=places,
        checkpoints=machine.checkpoints,
        records=machine.records,
        now=now,
        progress=progress,
        cancel=cancel or CancelToken(),
        target_taken=target_taken,
        post_install=post_install,
    )
