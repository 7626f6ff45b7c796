from update_agent.domain.rate import RateMeter


def test_rate_needs_two_points_at_different_times() -> None:
    meter = RateMeter()
    assert meter.bytes_per_sec == 0
    meter.add(1.0, 100)
    assert meter.bytes_per_sec == 0
    meter.add(1.0, 200)
    assert meter.bytes_per_sec == 0
    meter.add(2.0, 300)
    assert meter.bytes_per_sec == 200


def test_rate_forgets_what_was_long_ago() -> None:
    meter = RateMeter()
    for second in range(20):
        meter.add(float(second), 0 if second < 10 else (second - 10) * 50)
    assert meter.bytes_per_sec == 50


def test_rate_of_a_new_phase_starts_from_nothing() -> None:
    meter = RateMeter()
    meter.add(1.0, 100)
    meter.add(2.0, 900)
    meter.reset()
    meter.add(3.0, 0)
    assert meter.bytes_per_sec == 0
