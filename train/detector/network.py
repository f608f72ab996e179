"""The detector's network: from a picture in [-1, 1] to maps of faces, every operation one that the Edge TPU maps.

Anchor-free and single-shot, a face is its centre (CenterNet, Zhou et al. 2019, arXiv:1904.07850; with landmarks CenterFace,
Xu et al. 2019, arXiv:1911.03599). Two strides instead of the papers' one: small faces are told by the map of stride 8, large
ones by that of stride 16. What surrounds a small face is known at stride 16 only, and added to stride 8 (Lin et al. 2017,
arXiv:1612.03144, section 3), by a transposed convolution, which the compiler maps where it does not map enlarging with half
pixels. device/faces.py says what the maps mean.
"""

import numpy as np
import tensorflow as tf
import tf_keras as keras

from device.faces import GEOMETRY, STRIDES
from device.program import InputError
from train import encoders

L = keras.layers
# Multiples of 16: on a CPU with AVX-512 fewer channels train no faster.
STEM, QUARTER, HEAD = 16, 32, 48  # channels of the two first convolutions and of the heads' own
STAGES = ((48, 2, 3), (64, 2, 4))  # for each stride channels, expansion of the first block (2 of the others), blocks
CONTEXT = "context"
RARE = 0.01  # what the heat maps say before training: faces are rare (Lin et al. 2017, arXiv:1708.02002, section 3.3)
FIRST_BOX = 1.4  # asinh of 1.9 strides: every face has a box before training, so that its overlap has a gradient


def build(height: int, width: int, norm: bool = True) -> keras.Model:
    """The network for float32 [B, height, width, 3] RGB in -1..1, with random weights.

    For each stride s it gives heat`s` [B, height/s, width/s, 1] and geometry`s` [..., 14], float32. `norm=False` builds it as it
    runs on the device. Raises InputError for a size that the strides do not divide.
    """
    if height % STRIDES[-1] or width % STRIDES[-1] or min(height, width) <= 0:
        raise InputError(f"there is no detector for {width}x{height}", f"give multiples of {STRIDES[-1]} pixels")
    parts = encoders.Parts(1.0, norm, "relu")
    picture = L.Input((height, width, 3), name="picture")
    x = parts.conv(picture, "stem", STEM, 3, 2)
    x = parts.conv(x, "quarter", QUARTER, 3, 2)
    seen = {}
    for stride, (channels, expand, blocks) in zip(STRIDES, STAGES, strict=True):
        for block in range(1, blocks + 1):
            first = block == 1
            x = parts.fused_block(x, f"stride{stride}_block{block}", channels, expand if first else 2, 2 if first else 1)
        seen[stride] = x
    fine, coarse = STRIDES
    around = L.Conv2DTranspose(seen[fine].shape[-1], 2, 2, name=CONTEXT)(seen[coarse])
    seen[fine] = L.Add(name=f"{CONTEXT}_add")([seen[fine], around])
    outputs = {}
    for stride, x in seen.items():
        y = parts.conv(x, f"head{stride}", HEAD, 3)
        # float32 whatever the training's precision: bfloat16 knows a landmark to a 256th only.
        for name, start in (("heat", [np.log(RARE / (1 - RARE))]), ("geometry", [FIRST_BOX] * 4 + [0.0] * (GEOMETRY - 4))):
            bias = keras.initializers.Constant(start)
            outputs[f"{name}{stride}"] = L.Conv2D(len(start), 1, bias_initializer=bias, dtype="float32", name=f"{name}{stride}")(y)
    return keras.Model(picture, outputs, name="faces")


def sized(model: keras.Model, height: int, width: int) -> keras.Model:
    """The same network, in float32, for pictures of another size: it has convolutions only."""
    target = build(height, width)
    target.set_weights(model.get_weights())
    return target


def folded(model: keras.Model, height: int, width: int) -> keras.Model:
    """The network as it runs on the device, for pictures of that size: without BatchNorm."""
    return encoders.folded(model, build(height, width, norm=False))


def load(path: str) -> keras.Model:
    """A network from a .keras file. Raises InputError if it is none of ours."""
    try:
        model = keras.models.load_model(path, compile=False)
        return sized(model, *model.input_shape[1:3])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a detector ({type(error).__name__})", "name a detector.keras that train/detector wrote") from error


def maps(model: keras.Model, pictures: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """What the network says of pictures uint8 RGB [B, H, W, 3], by stride, as device.faces.decode wants it, but for the batch."""
    told = model(encoders.scale(tf.constant(pictures)), training=False)
    return {stride: (told[f"heat{stride}"].numpy()[..., 0], told[f"geometry{stride}"].numpy()) for stride in STRIDES}
