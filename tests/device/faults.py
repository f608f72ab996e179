"""What an accelerator may hand out in place of an answer."""

from collections.abc import Iterator, Sequence

import numpy as np


def faulty(outputs: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Of right answers, uint8 [N, ...] each, wrong ones."""
    yield [output[::-1] for output in outputs]  # those of other inputs
    yield [np.zeros_like(output) for output in outputs]
    yield [output ^ 128 for output in outputs]  # int8 taken for uint8
    yield [np.roll(output, 1, axis=output.ndim - 2) if output.ndim > 2 else np.roll(output, 1, axis=1) for output in outputs]
    for stuck in range(len(outputs)):
        likest = np.broadcast_to(outputs[stuck].mean(axis=0).astype(np.uint8), outputs[stuck].shape)  # of all that are always the same
        yield [likest if number == stuck else output for number, output in enumerate(outputs)]
