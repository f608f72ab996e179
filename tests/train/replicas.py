"""A few steps of training without labels, by one device or by several as one: what test_devices.py starts as processes of its own.

python tests/train/replicas.py mirrored      prints the losses of each method as JSON
"""

import json
import sys
from functools import partial

import numpy as np
import tensorflow as tf
import tf_keras as keras

from train import devices
from train.methods import METHODS, Method, options
from train.views import Views, pairs

TOLD = {"simsiam": {"projection": 16, "rate": 3.0}, "simclr": {"projection": 8, "hidden": 16}}
BATCH, STEPS = 8, 4


def encoder() -> keras.Model:
    inputs = keras.layers.Input((8, 8, 3))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(keras.layers.Conv2D(6, 3, use_bias=False)(inputs)))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def made(method: str) -> Method:
    model = METHODS[method](encoder(), options(method, TOLD[method]))
    model.ready(BATCH, STEPS)
    return model


def losses(strategy: tf.distribute.Strategy) -> dict[str, list[float]]:
    """The loss of each step, and last the sum of the encoder's weights without their signs, by method."""
    found = {}
    crops = np.random.default_rng(0).integers(0, 256, (BATCH * STEPS, 16, 16, 3), np.uint8)
    given = pairs(tf.constant(crops), Views(size=8), BATCH, seed=0, epoch=0, share=devices.share(strategy, BATCH))
    for method in TOLD:
        keras.utils.set_random_seed(0)
        model = devices.replicated(strategy, partial(made, method))
        rows: list[float] = []
        told = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs, rows=rows: rows.append(logs["loss"]))
        model.fit(devices.dealt(model, given), steps_per_epoch=STEPS, verbose=0, callbacks=[told])
        found[method] = [*map(float, rows), float(sum(np.abs(weight).sum() for weight in model.encoder.get_weights()))]
    return found


if __name__ == "__main__":
    if sys.argv[1] == "mirrored":
        processor = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    print(json.dumps(losses(devices.strategy(sys.argv[1]))))
