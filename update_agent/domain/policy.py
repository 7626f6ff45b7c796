"""Which release may follow which."""

from dataclasses import dataclass

from update_agent.errors import Kind, RefusedError, VerificationError
from update_agent.formats.release import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPolicy:
    """What an operator allows beyond a newer release.

    Attributes:
        allow_downgrade: an older release may be installed.
        allow_same: the running release may be installed again.
    """

    allow_downgrade: bool = False
    allow_same: bool = False

    def check(self, offered: str | None, running: str | None) -> None:
        """Refuse what is not newer; a version that nobody knows cannot be compared and passes.

        Raises:
            RefusedError: downgrade, same-version.
            FormatError: version-malformed.
        """
        if not offered or not running:
            return
        new, old = Version.parse(offered), Version.parse(running)
        if new < old and not self.allow_downgrade:
            raise RefusedError(
                Kind.DOWNGRADE,
                f"release: expected one newer than {running}, got {offered}",
                hint="allow it with --allow-downgrade if that is meant",
            )
        if new == old and not self.allow_same:
            raise RefusedError(
                Kind.SAME_VERSION,
                f"release: {offered} is running already",
                hint="install it again with --allow-same-version if that is meant",
            )


def choose_version(signed: str | None, announced: str | None) -> str | None:
    """The version of a payload: the signed one, which the announced one must not contradict.

    Raises:
        VerificationError: version-mismatch.
    """
    if signed and announced and Version.parse(signed) != Version.parse(announced):
        raise VerificationError(
            Kind.VERSION_MISMATCH,
            f"payload: expected release {announced} as announced, got {signed} as signed",
            hint="the update server offers one release and serves another",
        )
    return signed or announced
