"""One update with the real objects around it, made of a job; in the child process only."""

import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from update_agent import __version__
from update_agent.api.codes import check_code, omaha_code
from update_agent.api.machine import Machine, open_machine
from update_agent.api.workplace import make_workplace
from update_agent.config.paths import Paths
from update_agent.config.settings import PostInstall
from update_agent.daemon.job import Job, JobKind
from update_agent.daemon.job_settings import load_keys, transfer_settings
from update_agent.domain import attempt
from update_agent.domain.install import InstallRequest
from update_agent.domain.messages import Message
from update_agent.domain.offer import OfferPolicy
from update_agent.domain.policy import VersionPolicy
from update_agent.domain.postinstall import PostInstaller, make_environment
from update_agent.domain.progress import CancelToken
from update_agent.domain.reader import Expectation
from update_agent.domain.session import SilentSession, UpdateServer, UpdateSession
from update_agent.domain.slots import SlotName
from update_agent.domain.update import UpdateStory, UpdateTools
from update_agent.errors import InstallError, Kind, UpdateAgentError
from update_agent.formats.omaha import Update
from update_agent.formats.omaha_request import Request
from update_agent.host.memory import keep_freed_memory
from update_agent.host.prefs import write_prefs
from update_agent.host.slot_program import SlotProgram
from update_agent.host.system_disk import find_boot_folder
from update_agent.net.omaha_client import OmahaClient
from update_agent.net.source import FileSource, PayloadSource
from update_agent.net.transfer import HttpSource

_LOG: Final = logging.getLogger(__name__)

_LAST_WORDS_SECS: Final = 0.7
"""For an event of a process that is about to end."""


class _Server:
    """The update server, which hears nothing when the update goes on later."""

    def __init__(self, client: OmahaClient, is_terminating: Callable[[], bool]) -> None:
        self._client, self._is_terminating = client, is_terminating

    def exchange(self, request: Request) -> bytes:
        return self._client.exchange(request)

    def report(self, request: Request) -> bool:
        return not self._is_terminating() and self._client.report(request)


class Errand:
    """Carries out a job; can be ended from another thread."""

    def __init__(
        self, job: Job, tell: Callable[[Message], None], cancel: CancelToken, is_terminating: Callable[[], bool]
    ) -> None:
        self._job, self._cancel, self._is_terminating = job, cancel, is_terminating
        self._paths = Paths(root=Path(job.root))
        self._options = job.options
        self._versions = VersionPolicy(
            allow_downgrade=job.settings.install.allow_downgrade or job.options.allow_downgrade,
            allow_same=job.settings.install.allow_same_version or job.options.allow_same_version,
        )
        self._story = UpdateStory(
            UpdateTools(
                tell=tell,
                open_workplace=self._open_workplace,
                make_request=self._make_request,
                open_download=self._open_download,
                check_code=check_code,
                update_code=omaha_code,
                now=time.time,
                random=random.SystemRandom().random,
            ),
            policy=OfferPolicy(
                running_version=job.app.version,
                pending_version=job.pending_version,
                bad_releases=job.bad_releases,
                versions=self._versions,
                allow_bad=job.options.allow_bad,
                ignore_backoff=job.options.ignore_backoff,
            ),
            backoff=job.backoff,
            is_test_image=job.is_test_image,
        )

    def run(self) -> None:
        """Do it; how it went is told."""
        keep_freed_memory()
        if self._options.payload:
            self._story.install_payload(self._open_payload)
        elif self._job.kind is JobKind.CHECK:
            self._story.check(self._make_session)
        else:
            self._story.update(self._make_session)

    def abandon(self) -> bool:
        """Tell the end from another thread; False if it has to be waited for."""
        return self._story.abandon()

    def report(self) -> bool:
        """Tell the server, quickly; False if nothing is left to tell."""
        return self._story.report_abandoned(self._make_last_session)

    # --- the server

    def _make_session(self) -> UpdateSession:
        url = self._job.settings.server.url
        client = OmahaClient(url, transfer_settings(self._job.settings.transfer))
        return self._session(_Server(client, self._is_terminating))

    def _make_last_session(self) -> UpdateSession | SilentSession:
        if self._options.payload:
            return SilentSession()
        hasty = replace(transfer_settings(self._job.settings.transfer), connect_timeout_secs=_LAST_WORDS_SECS)
        return self._session(OmahaClient(self._job.settings.server.url, hasty, total_secs=_LAST_WORDS_SECS))

    def _session(self, server: UpdateServer) -> UpdateSession:
        job = self._job
        return UpdateSession(
            server=server,
            url=job.settings.server.url,
            app=job.app,
            updater=f"update_agent-{__version__}",
            install_source=job.install_source,
            previous_version=job.previous_version,
            has_fallen_back=job.has_fallen_back,
            is_test_image=job.is_test_image,
            keep_response=self._keep_response,
        )

    def _keep_response(self, body: bytes) -> None:
        previous = self._job.app.version if self._job.pending_version else ""
        try:
            write_prefs(self._paths.update_engine_prefs, previous_version=previous, full_response=body)
        except UpdateAgentError as error:
            _LOG.warning("%s; a post-install that wants more than the payload will not find it", error.message)

    # --- the payload

    def _open_download(self, update: Update, urls: tuple[str, ...]) -> HttpSource:
        section = self._job.settings.transfer
        settings = transfer_settings(section, max_failures_per_url=update.max_failure_count_per_url)
        return HttpSource(urls, settings, expected_size=update.size_bytes)

    def _open_payload(self) -> PayloadSource:
        where = self._options.payload
        if where.startswith(("http://", "https://")):
            return HttpSource([where], transfer_settings(self._job.settings.transfer))
        return FileSource(Path(where))

    # --- the disk

    @contextmanager
    def _open_workplace(self) -> Iterator[attempt.Workplace]:
        job, install = self._job, self._job.settings.install
        if not job.disk or not job.booted:
            raise InstallError(
                Kind.BOOT_DISK_UNKNOWN,
                "disk: expected to know what the running system was booted from, and do not",
                hint="update-agent status says why",
            )
        boot_folder = self._paths.at(install.boot_dir) if install.boot_dir else find_boot_folder(self._paths.root)
        state_folder = Path(job.state_folder) if job.state_folder else None
        with open_machine(
            Path(job.disk), writable=True, state_folder=state_folder, booted=SlotName(job.booted)
        ) as machine:
            yield make_workplace(
                machine,
                boot_folder=boot_folder,
                skip_kernel=install.skip_kernel,
                cancel=self._cancel,
                post_install=self._post_install(machine),
            )

    def _post_install(self, machine: Machine) -> attempt.PostInstall:
        install = self._job.settings.install
        if install.postinstall is PostInstall.NEVER:
            return attempt.skip_post_install
        return PostInstaller(
            programs=SlotProgram(machine.device.path, mount_point=self._paths.run_folder / "slot"),
            is_required=install.postinstall is PostInstall.REQUIRED,
            timeout_secs=install.postinstall_timeout_secs,
            environment=make_environment(os.environ, self._job.settings.transfer.proxy),
            check=self._cancel.raise_if_cancelled,
        )

    def _make_request(self, source: PayloadSource, expectation: Expectation) -> InstallRequest:
        install = self._job.settings.install
        return InstallRequest(
            source=source,
            keyring=load_keys([self._paths.at(name) for name in install.public_keys]),
            expectation=expectation,
            running_version=self._job.app.version,
            versions=self._versions,
            booted=SlotName(self._job.booted),
            target=SlotName(self._options.target) if self._options.target else None,
            workers=install.workers or os.cpu_count() or 1,
        )
