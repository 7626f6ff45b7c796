import dataclasses
from typing import Any

import pytest

from tests.support.updates import make_update
from update_agent.domain.backoff import DAY_SECS, BackoffRules, signature_of
from update_agent.domain.messages import TEXT_CHARS_MAX
from update_agent.domain.state import Backoff

NOW = 1_800_000_000
HOUR = 3600
NEXT_URL = (10, 11, 12, 17, 18, 21, 22, 23, 24, 25, 26, 27, 28, 29, 32, 33, 38, 39)
COUNTED = (1, 9, 14, 20)
IGNORED = (2, 3, 4, 5, 7, 8, 13, 15, 16, 19, 30, 31, 34, 35, 36, 40, 41, 42, 43, 44)


def make_rules(*, is_test_image: bool = False, **changes: Any) -> BackoffRules:
    return BackoffRules(update=make_update(**changes), is_test_image=is_test_image)


def begun(rules: BackoffRules, **changes: Any) -> Backoff:
    return Backoff(**{"signature": signature_of(rules.update), **changes})


# The name of a response


def test_signature_is_the_text_that_update_engine_writes() -> None:
    update = make_update(is_delta=True, urls=("http://a/p", "http://b/p"), max_failure_count_per_url=10)
    assert signature_of(update) == (
        "NumURLs = 2\n"
        "Url0 = http://a/p\n"
        "Url1 = http://b/p\n"
        "Payload Size = 1000\n"
        "Payload Sha256 Hash = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
        "Is Delta Payload = 1\n"
        "Max Failure Count Per Url = 10\n"
        "Disable Payload Backoff = 0\n"
    )
    assert "Disable Payload Backoff = 1\n" in signature_of(make_update(disable_backoff=True))


def test_signature_of_many_long_urls_is_short_and_still_tells_them_apart() -> None:
    urls = tuple(f"http://host{number}/" + "x" * 1000 for number in range(32))
    signatures = {signature_of(make_update(urls=each)) for each in (urls, urls[::-1])}
    assert len(signatures) == 2
    assert all(len(signature) <= TEXT_CHARS_MAX for signature in signatures)


def test_signature_of_4096_characters_is_still_the_text() -> None:
    length = len(signature_of(make_update(urls=("http://a/",))))
    longest = make_update(urls=("http://a/" + "x" * (4096 - length),))
    assert signature_of(longest).startswith("NumURLs = 1\n")
    longer = make_update(urls=("http://a/" + "x" * (4097 - length),))
    assert len(signature_of(longer)) == 64


# Taking it up


@pytest.mark.parametrize(
    "change",
    [
        {"urls": ("http://a/p",)},
        {"size_bytes": 1001},
        {"sha256": bytes(31) + b"1"},
        {"is_delta": True},
        {"max_failure_count_per_url": 4},
        {"disable_backoff": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_begin_with_another_response_forgets_everything(change: dict[str, Any]) -> None:
    known = begun(make_rules(), attempt_number=3, url_index=1, url_failure_count=2, expiry_at=NOW + 1)
    rules = make_rules(**change)
    assert rules.begin(known, now=NOW) == Backoff(signature=signature_of(rules.update))


def test_begin_with_the_same_response_goes_on_even_if_the_version_has_another_name() -> None:
    known = begun(make_rules(), attempt_number=3, url_index=1, url_failure_count=2, expiry_at=NOW + 1)
    assert make_rules(version="3.0.0").begin(known, now=NOW) == known


@pytest.mark.parametrize(("ahead", "is_kept"), [(0, True), (1, False)])
def test_begin_with_an_expiry_that_no_back_off_makes_resets_it(ahead: int, is_kept: bool) -> None:
    known = begun(make_rules(), attempt_number=9, expiry_at=NOW + 16 * DAY_SECS + 6 * HOUR + ahead)
    expected = known if is_kept else dataclasses.replace(known, expiry_at=0)
    assert make_rules().begin(known, now=NOW) == expected


# Waiting


@pytest.mark.parametrize(("expiry", "must_wait"), [(0, False), (NOW - 1, False), (NOW, False), (NOW + 1, True)])
def test_must_wait_until_the_expiry(expiry: int, must_wait: bool) -> None:
    assert make_rules().must_wait(begun(make_rules(), expiry_at=expiry), now=NOW) is must_wait


@pytest.mark.parametrize(
    "rules",
    [make_rules(is_delta=True), make_rules(disable_backoff=True), make_rules(is_test_image=True)],
    ids=["delta", "disabled", "test image"],
)
def test_must_wait_never_for_the_exempt(rules: BackoffRules) -> None:
    assert not rules.must_wait(begun(rules, expiry_at=NOW + DAY_SECS), now=NOW)


# Attempts


@pytest.mark.parametrize(
    ("attempts", "days"), [(0, 1), (1, 2), (2, 4), (3, 8), (4, 16), (5, 16), (6, 16), (31, 16), (10**9, 16)]
)
@pytest.mark.parametrize(("random", "fuzz_hours"), [(0.0, -6), (0.5, 0), (1.0, 6)])
def test_finish_download_waits_twice_as_long_each_time(
    attempts: int, days: int, random: float, fuzz_hours: int
) -> None:
    rules = make_rules()
    after = rules.finish_download(begun(rules, attempt_number=attempts), now=NOW, random=random)
    assert after == begun(rules, attempt_number=attempts + 1, expiry_at=NOW + days * DAY_SECS + fuzz_hours * HOUR)
    assert rules.begin(after, now=NOW) == after


def test_finish_download_of_a_delta_counts_nothing() -> None:
    rules = make_rules(is_delta=True)
    assert rules.finish_download(begun(rules), now=NOW, random=0.5) == begun(rules)


@pytest.mark.parametrize(
    "rules", [make_rules(disable_backoff=True), make_rules(is_test_image=True)], ids=["disabled", "test image"]
)
def test_finish_download_of_the_exempt_counts_and_does_not_wait(rules: BackoffRules) -> None:
    after = rules.finish_download(begun(rules, expiry_at=5), now=NOW, random=0.5)
    assert after == begun(rules, attempt_number=1, expiry_at=0)


# Failures


def test_every_code_of_update_engine_is_in_one_group() -> None:
    assert sorted(NEXT_URL + COUNTED + IGNORED) == sorted({*range(1, 45)} - {6, 37})


@pytest.mark.parametrize("code", NEXT_URL)
def test_fail_because_of_the_content_moves_to_the_next_url_at_once(code: int) -> None:
    rules = make_rules()
    after = rules.fail(begun(rules, url_failure_count=1), code, now=NOW, random=0.5)
    assert after == begun(rules, url_index=1)


@pytest.mark.parametrize("code", COUNTED)
def test_fail_on_the_way_moves_to_the_next_url_when_it_happened_often_enough(code: int) -> None:
    rules = make_rules()
    backoff = begun(rules)
    seen = []
    for _ in range(4):
        backoff = rules.fail(backoff, code, now=NOW, random=0.5)
        seen.append((backoff.url_index, backoff.url_failure_count))
    assert seen == [(0, 1), (0, 2), (1, 0), (1, 1)]
    assert (backoff.attempt_number, backoff.expiry_at) == (0, 0)


@pytest.mark.parametrize("code", [*IGNORED, 2500])
def test_fail_for_another_reason_changes_nothing(code: int) -> None:
    rules = make_rules()
    assert rules.fail(begun(rules, url_failure_count=2), code, now=NOW, random=0.5) == begun(rules, url_failure_count=2)


def test_fail_of_the_last_url_begins_again_with_the_first_and_counts_as_an_attempt() -> None:
    rules = make_rules()
    after = rules.fail(begun(rules, url_index=2, attempt_number=1), 29, now=NOW, random=0.5)
    assert after == begun(rules, attempt_number=2, expiry_at=NOW + 2 * DAY_SECS)


def test_fail_of_the_only_url_waits_a_day() -> None:
    rules = make_rules(urls=("http://a/p",))
    assert rules.fail(begun(rules), 10, now=NOW, random=0.5) == begun(rules, attempt_number=1, expiry_at=NOW + DAY_SECS)


def test_receive_any_byte_forgets_the_failures_of_the_url() -> None:
    rules = make_rules()
    assert rules.receive(begun(rules, url_index=1, url_failure_count=2)) == begun(rules, url_index=1)


@pytest.mark.parametrize(("index", "order"), [(0, "abc"), (1, "bca"), (2, "cab"), (3, "abc")])
def test_urls_begin_with_the_one_that_is_next(index: int, order: str) -> None:
    rules = make_rules()
    assert rules.urls(begun(rules, url_index=index)) == tuple(f"http://{name}/p" for name in order)
