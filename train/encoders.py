"""Encoders: small networks that the Edge TPU maps whole, from a crop in [-1, 1] to an embedding.

Input float32 [B, size, size, 3] RGB, `scale` maps bytes to it; output float32 [B, dimension], not normalised. In the
int8 model the scaling is the input's quantisation, so the device feeds the crop's bytes as they are.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
import tf_keras as keras

from device.align import SIZE
from device.program import InputError

L = keras.layers
CENTRE = 127.5
EMBEDDING = "embedding"  # the last convolution
HEAD = "spatial"  # the depthwise layer that reduces the last map to one pixel: the only one whose size follows the input's


def scale(crops: np.ndarray | tf.Tensor) -> np.ndarray | tf.Tensor:
    """uint8 RGB 0..255 to float32 -1..1."""
    if isinstance(crops, np.ndarray):
        return (crops.astype(np.float32) - CENTRE) / CENTRE
    return (tf.cast(crops, tf.float32) - CENTRE) / CENTRE


# What follows a convolution; the layer's name ends with the key. Swish is for benchmarks/quantisation.py, as the example
# of an encoder that 8 bits hurt: no bound above, a dip below zero, and two more passes over every map on the Edge TPU.
ACTIVATIONS: dict[str, Callable[[str], keras.layers.Layer]] = {
    "relu": lambda name: L.ReLU(6.0, name=name),
    "swish": lambda name: L.Activation("swish", name=name),
}


@dataclass(frozen=True)
class Parts:
    """The pieces of every family. `norm=False` builds them as they run on the device: BatchNorm folded into the convolutions."""

    width: float
    norm: bool
    activation: str

    def channels(self, base: int) -> int:
        """`base` channels at this width, a multiple of 8."""
        return max(8, int(base * self.width / 8 + 0.5) * 8)

    def _finished(self, x, layer: keras.layers.Layer, active: bool):
        x = layer(x)
        if self.norm:
            x = L.BatchNormalization(name=f"{layer.name}_norm")(x)
        return ACTIVATIONS[self.activation](f"{layer.name}_{self.activation}")(x) if active else x

    def conv(self, x, name: str, channels: int, kernel: int, stride: int = 1, active: bool = True):
        return self._finished(x, L.Conv2D(channels, kernel, stride, padding="same", use_bias=not self.norm, name=name), active)

    def depthwise(self, x, name: str, stride: int = 1):
        return self._finished(x, L.DepthwiseConv2D(3, stride, padding="same", use_bias=not self.norm, name=name), True)

    def fused_block(self, x, name: str, channels: int, expand: int, stride: int):
        """A dense 3x3 that expands, a 1x1 that projects, a residual (EfficientNet-EdgeTPU, Gupta and Akin 2020, arXiv:2003.02838)."""
        y = self.conv(x, f"{name}_expand", expand * x.shape[-1], 3, stride)
        return self._residual(x, self.conv(y, f"{name}_project", channels, 1, active=False), name, stride)

    def bottleneck(self, x, name: str, channels: int, expand: int, stride: int):
        """A 1x1 that expands, a depthwise 3x3, a 1x1 that projects, a residual (MobileNetV2, Sandler et al. 2018, arXiv:1801.04381)."""
        y = self.conv(x, f"{name}_expand", expand * x.shape[-1], 1) if expand > 1 else x
        y = self.depthwise(y, f"{name}_depthwise", stride)
        return self._residual(x, self.conv(y, f"{name}_project", channels, 1, active=False), name, stride)

    def _residual(self, x, y, name: str, stride: int):
        return L.Add(name=f"{name}_add")([x, y]) if stride == 1 and x.shape[-1] == y.shape[-1] else y

    def head(self, x, channels: int, dimension: int):
        """1x1 to `channels`, a depthwise layer over the whole map, 1x1 to the embedding: each place of the face has its own
        weight, instead of an average (MobileFaceNet, Chen et al. 2018, arXiv:1804.07573)."""
        x = self.conv(x, "widen", channels, 1)
        x = self._finished(x, L.DepthwiseConv2D(x.shape[1:3], use_bias=not self.norm, name=HEAD), False)
        return L.Reshape((dimension,), name="flatten")(L.Conv2D(dimension, 1, name=EMBEDDING)(x))


def fused(parts: Parts, x, dimension: int):
    """Dense 3x3 expansions: more arithmetic, less time on the Edge TPU. 1.44 M parameters, 175 MMAC (docs/design.md)."""
    x = parts.conv(x, "stem", parts.channels(24), 3, 2)
    for stage, (base, blocks) in enumerate(((48, 2), (80, 3), (128, 3)), start=1):
        for block in range(1, blocks + 1):
            first = block == 1
            x = parts.fused_block(x, f"stage{stage}_block{block}", parts.channels(base), 4 if first else 2, 2 if first else 1)
    return parts.head(x, parts.channels(256), dimension)


def mobileface(parts: Parts, x, dimension: int):
    """MobileFaceNet (Chen et al. 2018, arXiv:1804.07573, table 1) with ReLU6 where the paper has PReLU."""
    x = parts.conv(x, "stem", parts.channels(64), 3, 2)
    x = parts.depthwise(x, "stem_depthwise")
    x = _bottlenecks(parts, x, ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)))
    return parts.head(x, parts.channels(512), dimension)


def mobilenetv2(parts: Parts, x, dimension: int):
    """MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381, table 2), its last stride left out: at 112x112 the last map would be
    4x4 otherwise. (Leaving out the stem's, as in MobileFaceNet's comparison, arXiv:1804.07573, section 4.1, costs 2.5 times the
    arithmetic.)"""
    x = parts.conv(x, "stem", parts.channels(32), 3, 2)
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1))
    return parts.head(_bottlenecks(parts, x, stages), parts.channels(1280), dimension)


def _bottlenecks(parts: Parts, x, stages: tuple[tuple[int, int, int, int], ...]):
    """Stages of (expansion, channels, blocks, stride of the first block), as the papers' tables write them."""
    for stage, (expand, base, blocks, stride) in enumerate(stages, start=1):
        for block in range(1, blocks + 1):
            x = parts.bottleneck(x, f"stage{stage}_block{block}", parts.channels(base), expand, stride if block == 1 else 1)
    return x


FAMILIES = {"fused": fused, "mobileface": mobileface, "mobilenetv2": mobilenetv2}


def build(
    architecture: str, size: int = SIZE, dimension: int = 128, width: float = 1.0, norm: bool = True, activation: str = "relu"
) -> keras.Model:
    """An encoder of the family `architecture` with random weights, for crops of `size` pixels.

    `width` multiplies all channels but the embedding's; `norm=False` builds it as it runs on the device, without BatchNorm.
    Raises InputError for a family, an activation or a width that does not exist.
    """
    if architecture not in FAMILIES:
        raise InputError(f"no encoder is called {architecture}", f"choose one of {', '.join(FAMILIES)}")
    if activation not in ACTIVATIONS:
        raise InputError(f"no activation is called {activation}", f"choose one of {', '.join(ACTIVATIONS)}")
    if not 0.1 <= width <= 8:
        raise InputError(f"there is no encoder of width {width:g}", "give a width from 0.1 to 8; 1 is the family's own")
    name = architecture + (f"-{width:g}" if width != 1 else "") + (f"-{activation}" if activation != "relu" else "")
    inputs = L.Input((size, size, 3), name="crop")
    return keras.Model(inputs, FAMILIES[architecture](Parts(width, norm, activation), inputs, dimension), name=name)


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Layers built in the block compute in `policy` (float32, mixed_bfloat16); weights stay float32."""
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy("float32")


def settings_of(model: keras.Model) -> dict:
    """The arguments of `build` that make a model of this shape again (but for `norm`); the name, e.g. mobilenetv2-0.5-swish,
    tells family, width and activation. Raises InputError for the name of another program's model."""
    parts = re.fullmatch(r"(\w+)(?:-([\d.]+))?(?:-([a-z]+))?", model.name)
    if parts is None:
        raise InputError(f"the encoder {model.name} is of no family of train/encoders.py", "name a .keras file that train/ wrote")
    shape = {"size": model.input_shape[1], "dimension": model.output_shape[-1]}
    return {"architecture": parts[1], **shape, "width": float(parts[2] or 1), "activation": parts[3] or "relu"}


def resized(model: keras.Model, size: int) -> keras.Model:
    """The same encoder for another input size. The head's kernel is resampled, its sum kept.

    Training at a lower size first costs a third of the time (progressive resizing; Touvron et al. 2019, arXiv:1906.06423,
    on why the last layers then want some epochs at the size of use).
    """
    target = build(**{**settings_of(model), "size": size})
    for layer in target.layers:
        weights = model.get_layer(layer.name).get_weights()
        if layer.name == HEAD:
            old, new = weights[0], layer.get_weights()[0]
            kernel = tf.image.resize(old[None, ..., 0], new.shape[:2])[0].numpy()[..., None]
            weights[0] = kernel * old.shape[0] * old.shape[1] / (new.shape[0] * new.shape[1])
        layer.set_weights(weights)
    return target


def folded(model: keras.Model, target: keras.Model | None = None) -> keras.Model:
    """The encoder as it runs on the device: every BatchNorm folded into the convolution before it (Jacob et al. 2018,
    arXiv:1712.05877, eq. 14). Same function in inference, to rounding. `target`, for networks that `build` does not make, is one
    of the same layers without BatchNorm."""
    target = target or build(**settings_of(model), norm=False)
    norms = {layer.name.removesuffix("_norm"): layer for layer in model.layers if isinstance(layer, L.BatchNormalization)}
    for layer in target.layers:
        weights = model.get_layer(layer.name).get_weights()
        if layer.name in norms:
            gamma, beta, mean, variance = norms[layer.name].get_weights()
            factor = gamma / np.sqrt(variance + norms[layer.name].epsilon)
            kernel = weights[0]
            depthwise = isinstance(layer, L.DepthwiseConv2D)
            weights = [kernel * (factor[:, None] if depthwise else factor), beta - mean * factor]
        layer.set_weights(weights)
    return target


def whitened(model: keras.Model, crops: np.ndarray, shrink: float = 0.1) -> keras.Model:
    """The same encoder with its last layer turned and scaled so that its embeddings of `crops` have mean 0 and equal
    variances: principal components whitening (Jegou and Chum 2012, "Negative evidences and co-occurences in image
    retrieval", section 3).

    SimSiam's loss sees the projector's output only, which normalises every channel; how far the embedding itself
    stretches along each direction is left to chance, and one direction (light, mostly) drowns the cosine. `shrink`, as
    a share of the mean variance, keeps directions without content from being blown up.
    """
    raw = outputs(model, crops)
    mean = raw.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov((raw - mean).T))
    matrix = directions / np.sqrt(np.maximum(variances, 0) + shrink * variances.mean())  # [D, D]
    target = resized(model, model.input_shape[1])
    kernel, bias = target.get_layer(EMBEDDING).get_weights()
    target.get_layer(EMBEDDING).set_weights([kernel @ matrix, (bias - mean) @ matrix])
    return target


def fitted(model: keras.Model, crops: np.ndarray, wanted: np.ndarray, shrink: float | None = None) -> keras.Model:
    """The same encoder with its last layer replaced by the ridge regression of `wanted` float32 [N, D] on `crops`.

    So a tuning does not spend its first steps, and the layers below, on the scale and turn of the new targets (linear
    probing, then fine-tuning: Kumar et al. 2022, arXiv:2202.10054). `shrink` is a share of the features' mean variance, by
    default the features for each crop: with few crops there is little to learn. Not for a network that has learnt nothing:
    its BatchNorm statistics are still those of no data, and its features another function than in training.
    """
    features = outputs(keras.Model(model.input, model.get_layer(EMBEDDING).input), crops).reshape(len(crops), -1)
    centre, middle = features.mean(axis=0), wanted.mean(axis=0)
    moments = (features - centre).T @ (features - centre)
    penalty = len(moments) / len(crops) if shrink is None else shrink
    moments += penalty * np.trace(moments) / len(moments) * np.eye(len(moments))
    kernel = np.linalg.solve(moments, (features - centre).T @ (wanted - middle))
    target = resized(model, model.input_shape[1])
    last = target.get_layer(EMBEDDING)
    last.set_weights([kernel.reshape(last.get_weights()[0].shape), middle - centre @ kernel])
    return target


def embed(model: keras.Model, crops: np.ndarray) -> np.ndarray:
    """Unit embeddings float32 [N, D] of crops uint8 [N, 112, 112, 3] (resized where the model wants another size)."""
    rows = outputs(model, crops)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def outputs(model: keras.Model, crops: np.ndarray, batch: int = 256) -> np.ndarray:
    """What the encoder gives for the same crops, float32 [N, D], not normalised."""
    size = model.input_shape[1]
    rows = []
    for start in range(0, len(crops), batch):
        x = scale(tf.constant(crops[start : start + batch]))
        if size != SIZE:
            x = tf.image.resize(x, (size, size), antialias=True)
        rows.append(tf.cast(model(x, training=False), tf.float32).numpy())
    return np.concatenate(rows)


def load(path: str) -> keras.Model:
    """An encoder from a .keras file. Raises InputError if it is none."""
    try:
        model = keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not a Keras encoder ({type(error).__name__})", "name a .keras file that train/ wrote") from error
    if len(model.inputs) != 1 or len(model.input_shape) != 4 or len(model.output_shape) != 2:
        found = f"{model.input_shape} to {model.output_shape}"
        raise InputError(f"{path} maps {found}, an encoder maps crops to embeddings", "name a .keras file that train/ wrote")
    return model
