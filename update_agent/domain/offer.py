"""Whether a release that the server offers is taken."""

import datetime as dt
from dataclasses import dataclass, field

from update_agent.domain.backoff import BackoffRules
from update_agent.domain.policy import VersionPolicy
from update_agent.domain.state import Backoff
from update_agent.errors import FormatError, Kind, RefusedError
from update_agent.formats.release import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferPolicy:
    """What is known of the node, and what an operator allows.

    Attributes:
        running_version: of the node; empty if nobody knows.
        pending_version: what waits for its reboot; only a newer release replaces it. Empty if nothing waits.
        bad_releases: versions that were booted and did not stay.
        versions: which release may follow.
        allow_bad: also a bad release.
        ignore_backoff: also before its back-off has ended.
    """

    running_version: str = ""
    pending_version: str = ""
    bad_releases: tuple[str, ...] = ()
    versions: VersionPolicy = field(default_factory=VersionPolicy)
    allow_bad: bool = False
    ignore_backoff: bool = False

    def is_waiting(self, offered: Version) -> bool:
        """Whether just this release waits for its reboot already, and that is enough."""
        pending = _parsed(self.pending_version)
        return pending is not None and pending == offered and not self.versions.allow_same

    def check(self, rules: BackoffRules, backoff: Backoff, *, now: int) -> None:
        """Refuse what is not to be installed now.

        Raises:
            RefusedError: same-version, downgrade, bad-release, backoff.
            FormatError: version-malformed, when the node does not know what it runs.
        """
        offered = rules.update.version
        self.versions.check(str(offered), self.running_version)
        if _parsed(self.pending_version) is not None:
            self.versions.check(str(offered), self.pending_version)
        if str(offered) in self.bad_releases and not self.allow_bad:
            raise RefusedError(
                Kind.BAD_RELEASE,
                f"release {offered}: was booted before and did not stay",
                hint="a newer release will be taken; update-agent install --allow-bad-release tries this one again",
            )
        if rules.must_wait(backoff, now=now) and not self.ignore_backoff:
            until = dt.datetime.fromtimestamp(backoff.expiry_at, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            raise RefusedError(
                Kind.BACKOFF,
                f"release {offered}: was downloaded {backoff.attempt_number} times and not booted, waits until {until}",
                hint="update-agent install does not wait",
            )


def _parsed(text: str) -> Version | None:
    try:
        return Version.parse(text)
    except FormatError:
        return None
