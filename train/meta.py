"""Learn to learn: a starting point from which the device's head adapts to a few pictures in a few steps (docs/few-labels.md).

  python train/meta.py --algorithm maml --encoder models/omokage-s
  python train/meta.py --algorithm reptile --encoder models/omokage-s --out build/reptile.npz

Episodes of 5 and 30 people with 1, 3 and 5 pictures each are drawn from the labelled people of CelebA in the shared data; a part of
the people is kept back, and tells how well it does now and then. The first call adds head.npz to the bundle, and
recognize.py --classifier adapted uses it. benchmarks/few_shot.py compares the algorithms with nearest neighbours and SVMs.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device import adapt, bundle
from device.adapt import Adapted, Head
from device.classify import Classifier, Neighbours
from device.demo import shared_data
from device.program import InputError, OmokageError, Parser, run
from train import embedded, evaluate
from train.embedded import Embedded

WAYS, SHOTS, QUERIES = (5, 30), (1, 3, 5), 2
TRIED = 30  # episodes of each kind that validation is made of


@dataclass(frozen=True)
class Settings:
    """`rounds` of `tasks` episodes; `rate` is the outer loop's (Adam's; for Reptile the share of the way to go), `rates` and `steps`
    the inner loop's, `sharpness` multiplies the cosines in the softmax."""

    algorithm: str = "maml"
    rounds: int = 500
    tasks: int = 4
    rate: float = 1e-3
    rates: tuple[float, float] = (0.02, 0.5)
    steps: int = 5
    sharpness: float = 12.0
    seed: int = 0


REPTILE_RATE = 0.5  # of the way at first, falling to 0: an outer rate of Adam would mean something else


def learn(people: Embedded, settings: Settings, tell: Callable[[int, float, Head], None] | None = None) -> Head:
    """The head after all rounds; `tell` gets the round, the mean loss and the head as it is, ten times.

    Raises OmokageError where the loss is no number any more.
    """
    import tensorflow as tf
    import tf_keras as keras

    from train.episodes import ALGORITHMS, Batch, Cosines, Inner, draw

    if settings.algorithm not in ALGORITHMS:
        raise InputError(f"no algorithm is called {settings.algorithm}", f"choose one of {', '.join(ALGORITHMS)}")
    rng = np.random.default_rng(settings.seed)
    centre, dimension = people.rows.mean(axis=0), people.rows.shape[1]
    rows, inner, learner = people.rows - centre, Inner(settings.steps, settings.rates), Cosines(settings.sharpness)
    theta = tf.Variable(np.eye(dimension, dtype=np.float32))
    reptile = settings.algorithm == "reptile"
    outer = keras.optimizers.SGD(keras.optimizers.schedules.PolynomialDecay(REPTILE_RATE, settings.rounds)) if reptile else None
    optimizer = outer or keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(settings.rate, settings.rounds))

    @tf.function(reduce_retracing=True)
    def gradient(support, support_truth, query, query_truth):
        algorithm = ALGORITHMS[settings.algorithm]
        (found,), loss = algorithm(learner, inner, [tf.identity(theta)], Batch(support, support_truth), Batch(query, query_truth))
        return found, loss

    def head() -> Head:
        facts = {"made": asdict(settings), "people": len(np.unique(people.identities))}
        return Head(theta.numpy(), centre, settings.sharpness, settings.rates, settings.steps, facts)

    losses: list[float] = []
    for number in range(1, settings.rounds + 1):
        found = []
        for _ in range(settings.tasks):
            ways, shots = int(rng.choice(WAYS)), int(rng.choice(SHOTS))
            support, query = draw(people.identities, ways, shots, QUERIES, rng)
            truth = np.eye(ways, dtype=np.float32)
            given = rows[support.ravel()], truth.repeat(shots, axis=0), rows[query.ravel()], truth.repeat(QUERIES, axis=0)
            one, loss = gradient(*map(tf.constant, given))
            found.append(one)
            losses.append(float(loss))
        if not np.isfinite(losses[-1]):
            raise OmokageError(f"the loss is {losses[-1]} in round {number}", "lower the rates")
        optimizer.apply_gradients([(tf.add_n(found) / settings.tasks, theta)])
        if tell and number % max(settings.rounds // 10, 1) == 0:
            tell(number, float(np.mean(losses[-50 * settings.tasks :])), head())
    return head()


def accuracy(
    train: Callable[[np.ndarray, list[str]], Classifier], people: Embedded, ways: int, shots: int, episodes: int, seed: int
) -> float:
    """The share of queries that are told rightly over `episodes`, by a classifier that is trained anew on each one's support."""
    from train.episodes import draw

    rng = np.random.default_rng((seed, ways, shots))
    right = []
    for _ in range(episodes):
        support, query = draw(people.identities, ways, shots, QUERIES, rng)
        names = [f"{number:03}" for number in range(ways)]
        classifier = train(people.rows[support.ravel()], [name for name in names for _ in range(shots)])
        right.append((classifier.scores(people.rows[query.ravel()]).argmax(axis=1) == np.arange(ways).repeat(QUERIES)).mean())
    return float(np.mean(right))


def validated(train: Callable[[np.ndarray, list[str]], Classifier], others: Embedded) -> dict[str, float]:
    """Accuracy on people whom nothing was learnt from, by ways and shots."""
    return {f"{ways}-way {shots}-shot": accuracy(train, others, ways, shots, TRIED, 0) for ways in WAYS for shots in SHOTS}


def _main(args: argparse.Namespace) -> int:
    encoder = evaluate.open_encoder(args.encoder or bundle.find(None).path)
    place = embedded.Place.of(args.out, encoder, adapt.FILE)
    people, others = embedded.parted(embedded.celeba(encoder, args.data))
    settings = Settings(args.algorithm, args.rounds, seed=args.seed)

    def tell(number: int, loss: float, head: Head) -> None:
        found = np.mean([*validated(lambda rows, names: Adapted(head, rows, names), others).values()])
        print(f"round {number}: loss {loss:.4f}, {found:.2%} right of people kept back", file=sys.stderr)

    head = learn(people, settings, tell)
    scores: dict[str, Any] = {
        "adapted": validated(lambda rows, names: Adapted(head, rows, names), others),
        "knn": validated(Neighbours, others),
    }
    head.facts.update({"encoder": encoder.identity, "validation": scores})
    place.write(head.save)
    for name, found in scores.items():
        print(f"{name}: " + ", ".join(f"{kind} {share:.2%}" for kind, share in found.items()))
    return 0


def build_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--algorithm", choices=("maml", "fomaml", "reptile"), default="maml", help="(default: %(default)s)")
    parser.add_argument("--encoder", type=Path, help="what evaluate.py takes (default: the newest shipped bundle)")
    parser.add_argument("--data", type=Path, default=shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--out", type=Path, help="the file to write (default: added to the bundle of --encoder)")
    parser.add_argument("--rounds", type=int, default=Settings.rounds, help="of the outer loop (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    return parser


def main(argv: list[str] | None = None) -> int:
    return run(_main, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
