"""The progress bar of a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from update_agent.domain.progress import Phase, Progress, ProgressSink


@contextmanager
def progress_bar(stream: TextIO, *, colors: bool) -> Iterator[ProgressSink]:
    """A bar per phase with bytes, rate and remaining time; the cursor comes back on every path."""
    console = Console(file=stream, force_terminal=True, no_color=not colors)
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[Phase, TaskID] = {}
    with Bars(*columns, console=console) as bars:

        def show(progress: Progress) -> None:
            if progress.phase not in tasks:
                tasks[progress.phase] = bars.add_task(progress.phase, total=progress.total_bytes)
            bars.update(tasks[progress.phase], completed=progress.done_bytes, total=progress.total_bytes)

        yield show
