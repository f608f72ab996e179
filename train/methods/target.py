"""A momentum target: a second network that follows the first as a moving average and learns nothing itself."""

import tensorflow as tf
import tf_keras as keras

from train.methods import base


class Followed(base.Method):
    """A method with a target: `target` and `target_projector` start as copies of encoder and projector and follow their weights.

    Only weights follow; BatchNorm's moving statistics are the target's own, as in the authors' codes of BYOL and MoCo.
    """

    def __init__(self, encoder: keras.Model, options: base.Options):
        super().__init__(encoder, options)
        self.target, self.target_projector = twin(self.encoder), twin(self.projector)

    def kept(self) -> tf.Tensor:
        """The share of the target that a step keeps, 0..1."""
        return tf.constant(self.options.target_momentum)

    def aim(self, views: tf.Tensor) -> tf.Tensor:
        """The target's projections float32 [N, D] of views [N, H, W, 3]; no gradient flows through them."""
        return tf.stop_gradient(tf.cast(self.target_projector(self.target(views, training=True), training=True), tf.float32))

    def pairs(self) -> list[tuple[tf.Variable, tf.Variable]]:
        """Each weight of the target and the one that it follows."""
        mine, theirs = (self.target, self.target_projector), (self.encoder, self.projector)
        return [pair for a, b in zip(mine, theirs, strict=True) for pair in zip(a.trainable_variables, b.trainable_variables, strict=True)]

    def follow(self) -> None:
        """target = kept x target + (1 - kept) x online, on every replica."""
        kept = self.kept()

        def update(strategy: tf.distribute.Strategy) -> None:
            for target, online in self.pairs():
                strategy.extended.update(target, lambda t, o: t.assign(kept * t + (1 - kept) * o), args=(online,))

        tf.distribute.get_replica_context().merge_call(update)

    def begin_at(self, other: base.Method, encoder: keras.Model) -> None:
        super().begin_at(other, encoder)
        self.target.set_weights(self.encoder.get_weights())
        self.target_projector.set_weights(self.projector.get_weights())


def twin(model: keras.Model) -> keras.Model:
    """A copy of `model` with weights of its own, which start as the same."""
    result = keras.models.clone_model(model)
    result.set_weights(model.get_weights())
    return result
