"""What the self-supervised methods have in common: an encoder, a projector, two views of each picture, one descent.

A method computes its loss from two views; everything else (the step, weight decay, figures, starting from another run) is
here, once.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import tensorflow as tf
import tf_keras as keras

from device.program import InputError
from train.runs import Cosine

L = keras.layers


@dataclass(frozen=True)
class Options:
    """What every method is told; each has a subclass with its paper's figures.

    `rate` is for a batch of 256 and grows with the batch (Goyal et al. 2017, arXiv:1706.02677); SGD with `momentum`.
    `projection` is the width of the projector's output; 0: no projector, the embedding itself is compared.
    """

    rate: float
    weight_decay: float
    projection: int
    momentum: float = 0.9

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (value == 0 and field.name not in MAY_BE_ZERO):
                raise InputError(f"{option(field.name)} is {value}", "give a number above 0")
        for name in ("momentum", "target_momentum"):
            if getattr(self, name, 0) > 1:
                raise InputError(f"{option(name)} is {getattr(self, name)}", "give a number from 0 to 1")


MAY_BE_ZERO = {"weight_decay", "projection", "momentum", "target_momentum", "stop_gradient", "predictor"}


def option(name: str, value: Any = None) -> str:
    """The option of the program that sets the field `name`; those that are on unless refused start with no."""
    return f"--{'no-' if isinstance(value, bool) else ''}{name.replace('_', '-')}"


def mlp(name: str, inputs: int, hidden: int, width: int, norm: bool = True) -> keras.Model:
    """A head of two layers, [N, inputs] to [N, width], ReLU between them; `norm`: with BatchNorm before the ReLU. Of width 0: none."""
    layers = [L.Input((inputs,))]
    if width:
        layers += [L.Dense(hidden, use_bias=not norm), *([L.BatchNormalization()] if norm else []), L.ReLU(), L.Dense(width)]
    return keras.Sequential(layers, name=name)


def output_std(z: tf.Tensor) -> tf.Tensor:
    """Mean over channels of the standard deviation of the unit rows of z [N, D]: 1/sqrt(D) healthy, 0 collapsed (SimSiam,
    arXiv:2011.10566, section 4.1)."""
    return tf.reduce_mean(tf.math.reduce_std(tf.math.l2_normalize(z, axis=1), axis=0))


class Method(keras.Model):
    """An encoder, a projector (`heads` has it and what else a method adds to the gradient's way), and the training step.

    A subclass builds its heads and says what the loss of two views is (`compare`). `ready` sets the optimisers.
    """

    takes: type[Options]

    def __init__(self, encoder: keras.Model, options: Any):
        super().__init__(name=type(self).__name__.lower())
        self.encoder = encoder
        self.options = options
        self.projector = self.make_projector(encoder.output_shape[-1])
        self.steps = 1  # of the whole training
        self.accumulate = 1  # how many parts a batch is taken in
        self.loss_mean = keras.metrics.Mean("loss")
        self.std_mean = keras.metrics.Mean("std")

    def make_projector(self, inputs: int) -> keras.Model:
        raise NotImplementedError

    def compare(self, view1: tf.Tensor, view2: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The loss, a scalar, of two views [N, H, W, 3] in -1..1 of the same pictures, and their projections float32 [N, D]."""
        raise NotImplementedError

    @property
    def heads(self) -> list[keras.Model]:
        """What learns beside the encoder."""
        return [self.projector]

    @property
    def healthy_std(self) -> float:
        """`output_std` of projections that spread over the whole sphere."""
        return self.projector.output_shape[-1] ** -0.5

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.loss_mean, self.std_mean]

    def ready(self, batch: int, steps: int, warmup: int = 0, accumulate: int = 1) -> None:
        """Set the optimisers for `steps` steps on batches of `batch` pictures, the rate rising over the first `warmup` of them
        and then falling to 0 along half a cosine. Each batch is taken in `accumulate` equal parts."""
        self.steps = steps
        self.accumulate = accumulate
        rate = self.options.rate * batch / 256
        self.compile(**{name: self._optimizer(schedule) for name, schedule in self.rates(rate, Cosine(rate, steps, warmup)).items()})

    def rates(self, rate: float, falling: Cosine) -> dict[str, Any]:
        """The rate of each of the method's optimisers, by name."""
        return {"optimizer": falling}

    def _optimizer(self, rate: Any) -> keras.optimizers.Optimizer:
        return keras.optimizers.SGD(rate, momentum=self.options.momentum)

    @property
    def optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        """By name, as a checkpoint keeps them."""
        return {name: getattr(self, name) for name in self.rates(0.0, Cosine(0.0, 1))}

    def groups(self) -> list[tuple[keras.optimizers.Optimizer, list[tf.Variable]]]:
        """Each optimiser and what it moves."""
        return [(self.optimizer, [v for part in (self.encoder, *self.heads) for v in part.trainable_variables])]

    def call(self, views: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Projections float32 [N, D] of views [N, H, W, 3] in -1..1."""
        return tf.cast(self.projector(self.encoder(views, training=training), training=training), tf.float32)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        gradients, loss, std = self._learnt(*data) if self.accumulate == 1 else self._accumulated(*data)
        self._descend(gradients)
        self.follow()
        self.loss_mean.update_state(loss)
        self.std_mean.update_state(std)
        return {metric.name: metric.result() for metric in self.metrics}

    def _learnt(self, *views: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """The gradients for the variables of `groups`, the loss, and the std of the projections, of two views [N, H, W, 3]."""
        scaling = isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer)  # of mixed_float16, whose range is small
        with tf.GradientTape() as tape:
            loss, z1, z2 = self.compare(*views)  # z: [N, D]
            scaled = self.optimizer.get_scaled_loss(loss) if scaling else loss
        gradients = tape.gradient(scaled, [v for _, own in self.groups() for v in own])
        if scaling:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        return gradients, loss, (output_std(z1) + output_std(z2)) / 2

    def _accumulated(self, *views: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """The means of `_learnt` over `accumulate` equal parts, one after the other: the memory of one part is enough."""
        parts = tuple(tf.reshape(view, (self.accumulate, -1, *view.shape[1:])) for view in views)
        none = [tf.zeros_like(v) for _, own in self.groups() for v in own], tf.constant(0.0), tf.constant(0.0)
        add = partial(tf.nest.map_structure, tf.add)
        sums = tf.foldl(lambda sums, part: add(sums, self._learnt(*part)), parts, none, parallel_iterations=1, back_prop=False)
        return tf.nest.map_structure(lambda each: each / self.accumulate, sums)

    def _descend(self, gradients: list[tf.Tensor]) -> None:
        """One step of all optimisers. Weight decay is part of the gradient, as in the papers' SGD."""
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync  # whose gradients the optimisers sum
        rest = iter(gradients)
        for optimizer, own in self.groups():
            optimizer.apply_gradients([((next(rest) + self._decay(v)) / replicas, v) for v in own])

    def _decay(self, variable: tf.Variable) -> tf.Tensor:
        return self.options.weight_decay * variable

    def follow(self) -> None:
        """What happens after a step: a momentum target follows."""
        return  # AutoGraph wants a body

    def begin_at(self, other: "Method", encoder: keras.Model) -> None:
        """Start from `other`: its `encoder`, resized to this one's size, and, of the same method and shape, its heads."""
        self.encoder.set_weights(encoder.get_weights())
        if type(self) is type(other) and self.options.projection == other.options.projection:
            for mine, theirs in zip(self.heads, other.heads, strict=True):
                mine.set_weights(theirs.get_weights())


def gathered(rows: tf.Tensor) -> tf.Tensor:
    """The rows [N, D] of all replicas, so that a loss over a batch is over the whole of it; differentiable."""
    context = tf.distribute.get_replica_context()
    return context.all_gather(rows, axis=0) if context.num_replicas_in_sync > 1 else rows


def decay_of_kernels(variable: tf.Variable, weight_decay: float) -> tf.Tensor:
    """Weight decay that leaves biases and BatchNorm alone, as SimCLR (arXiv:2002.05709, appendix B) and BYOL (section 3.3) have it."""
    return weight_decay * variable if len(variable.shape) > 1 else tf.zeros_like(variable)
