"""A network and pictures that are small enough for many trainings."""

import numpy as np
import tensorflow as tf
import tf_keras as keras


def encoder(size: int = 8) -> keras.Model:
    inputs = keras.layers.Input((size, size, 3))
    x = keras.layers.Conv2D(6, 3, use_bias=False, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def views(seed: int = 0, n: int = 128) -> tuple[tf.Tensor, tf.Tensor]:
    rng = np.random.default_rng(seed)
    faces = rng.normal(size=(n, 1, 1, 3)) + 0.3 * rng.normal(size=(n, 8, 8, 3))
    return tuple(tf.constant(faces + 0.1 * rng.normal(size=faces.shape), tf.float32) for _ in range(2))
