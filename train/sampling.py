"""Which crops make the batches of an epoch: rows of all crops, int [steps, batch], the same for the same seed and epoch."""

from collections.abc import Callable

import numpy as np

from device.program import InputError


def random_batches(count: int, batch: int, seed: int, epoch: int) -> np.ndarray:
    """Rows of `count` crops in random order; the last, smaller batch is left out. Raises InputError if no batch is full."""
    steps = count // batch
    if not steps:
        raise InputError(f"{count} crops do not fill a batch of {batch}", "lower --batch or add photos")
    return np.random.default_rng((seed, epoch)).permutation(count)[: steps * batch].reshape(steps, batch)


def passes(draw: Callable[[int], np.ndarray], steps: int, epoch: int) -> np.ndarray:
    """An epoch of exactly `steps` batches: several passes over few crops, a part of one over many.

    `draw(number)` gives the batches of a pass; no two epochs share one.
    """
    drawn: list[np.ndarray] = []
    while sum(map(len, drawn)) < steps:  # of people's batches no pass is as long as another
        drawn.append(draw(epoch * 2**20 + len(drawn)))
    return np.concatenate(drawn)[:steps]


def identity_batches(labels: np.ndarray, people: int, pictures: int, seed: int, epoch: int) -> np.ndarray:
    """Batches of `people` x `pictures`, so that each holds positives and negatives (Hermans et al. 2017, arXiv:1703.07737,
    section 2): int [steps, people * pictures], the pictures of a person side by side.

    `labels` int [N], any numbers. Every picture of a person with two or more occurs once an epoch: a person's pictures
    are shuffled and cut into groups of `pictures`, the last one filled up from the front. So somebody with fewer than
    `pictures` is kept, with pictures that occur twice (in another view): most people of a small collection have two or
    three. Who has a single picture is left out, there is no positive for it. A batch is `people` different people, the
    likelier the more groups are left of them; what cannot fill a batch at the end is left out of this epoch. Same seed
    and epoch, same batches.

    Raises InputError if a batch has no negatives or no positives, or if too few people have two pictures.
    """
    if people < 2 or pictures < 2:
        raise InputError(f"a batch of {people} people x {pictures} pictures has nothing to compare", "give 2 or more of both")
    rng = np.random.default_rng((seed, epoch))
    groups = [_groups(rng.permutation(rows), pictures) for rows in _people(np.asarray(labels), people)]
    left = np.array([len(own) for own in groups])
    batches = []
    while (left > 0).sum() >= people:
        # The largest of log(left) + Gumbel noise: people drawn without replacement, by the groups that they have left.
        keys = np.where(left > 0, np.log(np.maximum(left, 1)) + rng.gumbel(size=len(left)), -np.inf)
        drawn = np.argpartition(-keys, people - 1)[:people]
        left[drawn] -= 1
        batches.append(np.concatenate([groups[person][left[person]] for person in drawn]))
    return np.stack(batches)


def _people(labels: np.ndarray, least: int) -> list[np.ndarray]:
    """The rows of every person with two pictures or more."""
    order = np.argsort(labels, kind="stable")
    everybody = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    found = [rows for rows in everybody if len(rows) > 1]
    if len(found) < least:
        raise InputError(
            f"{len(found)} people have two pictures or more, a batch wants {least}",
            "add pictures of the others, or lower the people a batch",
        )
    return found


def _groups(rows: np.ndarray, pictures: int) -> np.ndarray:
    """`rows` in groups [G, pictures], filled up from the front."""
    groups = -(-len(rows) // pictures)
    return np.resize(rows, (groups, pictures))
