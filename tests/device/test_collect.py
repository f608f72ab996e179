import numpy as np
import pytest

from device.collect import Candidate, Spread


def candidate(quality: float) -> Candidate:
    return Candidate(np.zeros((112, 112, 3), np.uint8), quality, "video")


@pytest.mark.parametrize("length", [1, 5, 8, 9, 16, 17, 100, 1000])
def test_spread_keeps_the_best_of_every_stretch(length):
    quality = np.random.default_rng(length).random(length)
    spread = Spread(8)
    for index in range(length):
        spread.add(index, candidate(quality[index]))
    kept = [int(np.flatnonzero(quality == best.quality)[0]) for best in spread.candidates()]
    assert kept == sorted(kept) and min(length, 4) <= len(kept) <= 8
    assert quality.argmax() in kept
    assert np.diff([-1, *kept, length]).max() <= 2 * -(-length // 4)  # no long gap


def test_spread_follows_time_not_number():
    """A face that is there for the first moments of a long video does not fill all places."""
    spread = Spread(8)
    for index in (*range(10), 1000, 2000):
        spread.add(index, candidate(0.5 + index / 10_000))
    assert len(spread.candidates()) == 3
