"""Encoders: small networks that the Edge TPU maps whole, from a crop in [-1, 1] to an embedding.

Input float32 [B, size, size, 3] RGB, `scale` maps bytes to it; output float32 [B, dimension], not normalised. In the
int8 model the scaling is the input's quantisation, so the device feeds the crop's bytes as they are.
"""

import contextlib
from collections.abc import Iterator

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


def _conv(x, name: str, channels: int, kernel: int, stride: int = 1, relu: bool = True, norm: bool = True):
    x = L.Conv2D(channels, kernel, stride, padding="same", use_bias=not norm, name=name)(x)
    if norm:
        x = L.BatchNormalization(name=f"{name}_norm")(x)
    return L.ReLU(6.0, name=f"{name}_relu")(x) if relu else x


def _fused_block(x, name: str, channels: int, expand: int, stride: int, norm: bool):
    """A dense 3x3 that expands, a 1x1 that projects, a residual (EfficientNet-EdgeTPU, Gupta and Akin 2020, arXiv:2003.02838)."""
    y = _conv(x, f"{name}_expand", expand * x.shape[-1], 3, stride, norm=norm)
    y = _conv(y, f"{name}_project", channels, 1, relu=False, norm=norm)
    return L.Add(name=f"{name}_add")([x, y]) if stride == 1 and x.shape[-1] == channels else y


def fused(size: int = SIZE, dimension: int = 128, width: float = 1.0, norm: bool = True) -> keras.Model:
    """The fused family of docs/design.md. At width 1 and size 112: 1.44 M parameters, 175 MMAC.

    `norm=False` builds it as it runs on the device: BatchNorm folded into the convolutions.
    """

    def channels(base: int) -> int:
        return max(8, int(base * width / 8 + 0.5) * 8)

    inputs = L.Input((size, size, 3), name="crop")
    x = _conv(inputs, "stem", channels(24), 3, 2, norm=norm)
    for stage, (base, blocks) in enumerate(((48, 2), (80, 3), (128, 3)), start=1):
        for block in range(1, blocks + 1):
            first = block == 1
            x = _fused_block(x, f"stage{stage}_block{block}", channels(base), 4 if first else 2, 2 if first else 1, norm)
    x = _conv(x, "widen", channels(256), 1, norm=norm)
    # Each place of the face has its own weight, instead of an average (MobileFaceNet, Chen et al. 2018, arXiv:1804.07573).
    x = L.DepthwiseConv2D(x.shape[1:3], use_bias=not norm, name=HEAD)(x)
    if norm:
        x = L.BatchNormalization(name=f"{HEAD}_norm")(x)
    x = L.Conv2D(dimension, 1, name=EMBEDDING)(x)
    return keras.Model(inputs, L.Reshape((dimension,), name="flatten")(x), name="fused" if width == 1 else f"fused-{width:g}")


FAMILIES = {"fused": fused}


def build(architecture: str, **settings) -> keras.Model:
    """An encoder of the family `architecture` with random weights. Raises InputError for a family that does not exist."""
    if architecture not in FAMILIES:
        raise InputError(f"no encoder is called {architecture}", f"choose one of {', '.join(FAMILIES)}")
    return FAMILIES[architecture](**settings)


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Layers built in the block compute in `policy` (float32, mixed_bfloat16); weights stay float32."""
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy("float32")


def settings_of(model: keras.Model) -> dict:
    """The arguments of `build` that make a model of this shape again (but for `norm`); the name tells family and width."""
    family, _, width = model.name.partition("-")
    return {"architecture": family, "size": model.input_shape[1], "dimension": model.output_shape[-1], "width": float(width or 1)}


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


def folded(model: keras.Model) -> keras.Model:
    """The encoder as it runs on the device: every BatchNorm folded into the convolution before it (Jacob et al. 2018,
    arXiv:1712.05877, eq. 14). Same function in inference, to rounding."""
    target = build(**settings_of(model), norm=False)
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
