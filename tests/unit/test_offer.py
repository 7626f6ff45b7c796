import pytest

from tests.support.updates import make_update
from update_agent.domain.backoff import BackoffRules
from update_agent.domain.offer import OfferPolicy
from update_agent.domain.policy import VersionPolicy
from update_agent.domain.state import Backoff
from update_agent.errors import FormatError, Kind, RefusedError
from update_agent.formats.release import Version

NOW = 1_800_000_000
WAITING = Backoff(attempt_number=2, expiry_at=NOW + 60)


def refusal(policy: OfferPolicy, version: str = "2.0.0", backoff: Backoff | None = None) -> RefusedError | None:
    try:
        policy.check(BackoffRules(update=make_update(version)), backoff or Backoff(), now=NOW)
    except RefusedError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        (OfferPolicy(), None),
        (OfferPolicy(running_version="1.9.9"), None),
        (OfferPolicy(running_version="2.0.0"), Kind.SAME_VERSION),
        (OfferPolicy(running_version="2"), Kind.SAME_VERSION),
        (OfferPolicy(running_version="2.0.1"), Kind.DOWNGRADE),
        (OfferPolicy(running_version="2.0.0", versions=VersionPolicy(allow_same=True)), None),
        (OfferPolicy(running_version="2.0.1", versions=VersionPolicy(allow_downgrade=True)), None),
        (OfferPolicy(running_version="1.0.0", pending_version="1.5.0"), None),
        (OfferPolicy(running_version="1.0.0", pending_version="2.5.0"), Kind.DOWNGRADE),
        (OfferPolicy(pending_version="2.5.0", versions=VersionPolicy(allow_downgrade=True)), None),
        (OfferPolicy(pending_version="of unknown origin"), None),
        (OfferPolicy(bad_releases=("1.9.0", "2.0.0")), Kind.BAD_RELEASE),
        (OfferPolicy(bad_releases=("1.9.0",)), None),
        (OfferPolicy(bad_releases=("2.0.0",), allow_bad=True), None),
    ],
)
def test_offer_is_taken_or_refused(policy: OfferPolicy, kind: Kind | None) -> None:
    error = refusal(policy)
    assert (error and error.kind) == kind
    assert error is None or (error.hint and "2.0" in error.message)


def test_offer_before_the_end_of_its_back_off_is_refused_and_says_when() -> None:
    error = refusal(OfferPolicy(), backoff=WAITING)
    assert error is not None
    assert error.kind is Kind.BACKOFF
    assert error.message.endswith("downloaded 2 times and not booted, waits until 2027-01-15T08:01:00Z")
    assert refusal(OfferPolicy(ignore_backoff=True), backoff=WAITING) is None


def test_offer_that_is_older_and_has_to_wait_is_refused_for_its_age() -> None:
    error = refusal(OfferPolicy(running_version="3.0.0"), backoff=WAITING)
    assert error is not None
    assert error.kind is Kind.DOWNGRADE


def test_offer_to_a_node_that_does_not_know_what_it_runs_is_a_fault() -> None:
    with pytest.raises(FormatError):
        refusal(OfferPolicy(running_version="trunk"))


@pytest.mark.parametrize(
    ("policy", "is_waiting"),
    [
        (OfferPolicy(pending_version="2.0.0"), True),
        (OfferPolicy(pending_version="2.0.0+other"), True),
        (OfferPolicy(pending_version="2.0.1"), False),
        (OfferPolicy(), False),
        (OfferPolicy(pending_version="2.0.0", versions=VersionPolicy(allow_same=True)), False),
    ],
)
def test_offer_of_what_waits_for_its_reboot_is_known(policy: OfferPolicy, is_waiting: bool) -> None:
    assert policy.is_waiting(Version("2.0.0")) is is_waiting
