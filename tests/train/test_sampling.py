from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from device.program import InputError
from train.sampling import identity_batches, passes, random_batches

counts_of = st.lists(st.integers(1, 12), min_size=2, max_size=15)


def shuffled(counts: list[int], seed: int = 0) -> np.ndarray:
    """Labels, in any order and with gaps, of people with so many pictures."""
    labels = np.repeat(7 * np.arange(len(counts)) + 3, counts)
    return np.random.default_rng(seed).permutation(labels)


@given(counts_of, st.integers(2, 5), st.integers(2, 5), st.integers(0, 2**31), st.integers(0, 50))
def test_every_batch_is_people_times_pictures(counts, people, pictures, seed, epoch):
    assume(sum(count > 1 for count in counts) >= people)
    labels = shuffled(counts)
    batches = identity_batches(labels, people, pictures, seed, epoch)
    assert batches.shape[0] >= 1 and batches.shape[1] == people * pictures
    assert np.issubdtype(batches.dtype, np.integer)
    for batch in batches:
        groups = batch.reshape(people, pictures)
        assert [len(set(labels[group])) for group in groups] == [1] * people
        assert len({labels[group[0]] for group in groups}) == people
        for group in groups:
            own = (labels == labels[group[0]]).sum()
            assert own > 1, "one picture has no positive"
            times = Counter(group.tolist())
            assert len(times) == min(own, pictures), "other pictures before the same ones again"
            assert max(times.values()) - min(times.values()) <= 1
    for person in np.unique(labels[batches]):
        rows = np.flatnonzero(labels == person)
        used = Counter(batches[np.isin(batches, rows)].tolist())
        assert sum(used.values()) <= -(-len(rows) // pictures) * pictures, "no picture more than once an epoch, but to fill up"
    np.testing.assert_array_equal(batches, identity_batches(labels, people, pictures, seed, epoch))


def test_an_epoch_shows_nearly_every_picture_once():
    labels = shuffled([20] * 30)
    batches = identity_batches(labels, people=8, pictures=4, seed=0, epoch=0)
    assert len(set(batches.ravel())) == batches.size, "no picture twice"
    assert batches.size >= 0.9 * len(labels)


def test_few_large_people_among_many_small_ones_are_used_up():
    """Drawn by what is left of them, not all alike: otherwise most pictures of the large would remain."""
    labels = shuffled([40] * 4 + [2] * 60)
    batches = identity_batches(labels, people=8, pictures=2, seed=0, epoch=0)
    large = np.unique(labels)[:4]
    assert np.isin(labels[batches], large).sum() >= 0.5 * 160


def test_epochs_and_seeds_differ():
    labels = shuffled([5] * 20)
    drawn = [identity_batches(labels, 4, 3, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert not any(np.array_equal(drawn[0], other) for other in drawn[1:])


@pytest.mark.parametrize(
    ("counts", "people", "pictures", "said"),
    [
        ([1, 1, 1, 5], 2, 2, "^1 people have two pictures or more, a batch wants 2: add pictures"),
        ([], 2, 2, "^0 people have two pictures or more"),
        ([4, 4], 1, 4, "a batch of 1 people x 4 pictures has nothing to compare: give 2 or more"),
        ([4, 4], 2, 1, "a batch of 2 people x 1 pictures has nothing to compare"),
    ],
)
def test_labels_that_fill_no_batch(counts, people, pictures, said):
    with pytest.raises(InputError, match=said):
        identity_batches(np.repeat(np.arange(len(counts)), counts), people, pictures, seed=0, epoch=0)


def test_random_batches_show_every_crop_once():
    batches = random_batches(103, 10, seed=0, epoch=0)
    assert batches.shape == (10, 10)
    assert len(set(batches.ravel())) == 100 and set(batches.ravel()) <= set(range(103))
    np.testing.assert_array_equal(batches, random_batches(103, 10, 0, 0))
    assert not np.array_equal(batches, random_batches(103, 10, 0, 1))
    with pytest.raises(InputError, match="9 crops do not fill a batch of 10"):
        random_batches(9, 10, seed=0, epoch=0)


@given(st.integers(1, 40), st.integers(0, 5))
def test_an_epoch_of_a_fixed_number_of_steps(steps, epoch):
    """Few crops are passed as often as it takes, each one as often as any other, to one pass; no two epochs are alike."""
    rows = passes(lambda number: random_batches(12, 4, 0, number), steps, epoch)
    assert rows.shape == (steps, 4)
    times = np.bincount(rows.ravel(), minlength=12)
    assert times.max() - times.min() <= 1
    following = passes(lambda number: random_batches(12, 4, 0, number), steps, epoch + 1)
    assert not np.array_equal(rows, following)
