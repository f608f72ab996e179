"""SimSiam: Chen and He 2020, "Exploring simple Siamese representation learning", https://arxiv.org/abs/2011.10566."""

import tensorflow as tf
import tf_keras as keras

L = keras.layers


def negative_cosine(p: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
    """D(p, stopgrad(z)), equations 1 and 3: p and z [N, D]; a scalar, -1 where all agree."""
    z = tf.stop_gradient(z)
    p = tf.math.l2_normalize(p, axis=1)  # [N, D]
    z = tf.math.l2_normalize(z, axis=1)  # [N, D]
    return -tf.reduce_mean(tf.reduce_sum(p * z, axis=1))


def projector(inputs: int, width: int, depth: int = 3) -> keras.Model:
    """The projection MLP, section 3: BatchNorm after every layer, also the last, ReLU after all but the last."""
    model = keras.Sequential([L.Input((inputs,))], name="projector")
    for layer in range(1, depth + 1):
        model.add(L.Dense(width, use_bias=False))
        # The output's BatchNorm has no scale and shift in the authors' code: a constant output is no way out.
        model.add(L.BatchNormalization(center=layer < depth, scale=layer < depth))
        if layer < depth:
            model.add(L.ReLU())
    return model


def predictor(width: int) -> keras.Model:
    """The prediction MLP, section 3: a bottleneck of a quarter; neither BatchNorm nor ReLU at its output."""
    layers = [L.Input((width,)), L.Dense(width // 4, use_bias=False), L.BatchNormalization(), L.ReLU(), L.Dense(width)]
    return keras.Sequential(layers, name="predictor")


def output_std(z: tf.Tensor) -> tf.Tensor:
    """Mean over channels of the standard deviation of the unit rows of z [N, D]: 1/sqrt(D) healthy, 0 collapsed (section 4.1)."""
    return tf.reduce_mean(tf.math.reduce_std(tf.math.l2_normalize(z, axis=1), axis=0))


class SimSiam(keras.Model):
    """Encoder, projector and predictor with SimSiam's training step.

    `compile` takes two optimisers: the predictor's rate does not decay (section 4.2 and table 1), the rest's does.
    """

    def __init__(self, encoder: keras.Model, width: int = 2048, weight_decay: float = 1e-4):
        super().__init__(name="simsiam")
        self.encoder = encoder
        self.projector = projector(encoder.output_shape[-1], width)
        self.predictor = predictor(width)
        self.weight_decay = weight_decay
        self.loss_mean = keras.metrics.Mean("loss")
        self.std_mean = keras.metrics.Mean("std")

    def compile(self, optimizer: keras.optimizers.Optimizer, predictor_optimizer: keras.optimizers.Optimizer, **kwargs) -> None:
        super().compile(optimizer=optimizer, **kwargs)
        self.predictor_optimizer = predictor_optimizer

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.loss_mean, self.std_mean]

    def call(self, views: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """(z, p), both float32 [N, D], of views [N, H, W, 3] in -1..1."""
        z = tf.cast(self.projector(self.encoder(views, training=training), training=training), tf.float32)
        return z, tf.cast(self.predictor(z, training=training), tf.float32)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        view1, view2 = data  # [N, H, W, 3] each
        with tf.GradientTape() as tape:
            z1, p1 = self(view1, training=True)  # [N, D]; BatchNorm sees one view at a time, as in the authors' code
            z2, p2 = self(view2, training=True)
            loss = (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2  # equation 4
        self._descend(tape, loss)
        self.loss_mean.update_state(loss)
        self.std_mean.update_state((output_std(z1) + output_std(z2)) / 2)
        return {metric.name: metric.result() for metric in self.metrics}

    def _descend(self, tape: tf.GradientTape, loss: tf.Tensor) -> None:
        """One step of both optimisers. Weight decay is part of the gradient, on every parameter, as in the paper's SGD."""
        decaying = self.encoder.trainable_variables + self.projector.trainable_variables
        fixed = self.predictor.trainable_variables
        variables = decaying + fixed
        gradients = [g + self.weight_decay * v for g, v in zip(tape.gradient(loss, variables), variables, strict=True)]
        self.optimizer.apply_gradients(zip(gradients[: len(decaying)], decaying, strict=True))
        self.predictor_optimizer.apply_gradients(zip(gradients[len(decaying) :], fixed, strict=True))
