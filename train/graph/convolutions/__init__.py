"""Graph convolutions, one a file and interchangeable: keras layers from [x, a] to y, over dense batches of small graphs.

`x` float32 [B, M, F]: the nodes' features; `a` float32 [B, M, M]: who is linked, symmetric, not negative, 0 on the diagonal; a node
without links is padding or alone. `y` float32 [B, M, units], without a non-linearity. No layer knows the order of the nodes.
"""

from collections.abc import Callable

import tf_keras as keras

from train.graph.convolutions.chebnet import ChebNet
from train.graph.convolutions.gat import Gat
from train.graph.convolutions.gcn import Gcn
from train.graph.convolutions.gin import Gin
from train.graph.convolutions.graphsage import GraphSage
from train.graph.convolutions.graphwavelet import GraphWavelet
from train.graph.convolutions.spectral import Spectral

CONVOLUTIONS: dict[str, Callable[..., keras.layers.Layer]] = {
    "graphsage": GraphSage,
    "gat": Gat,
    "gin": Gin,
    "gcn": Gcn,
    "chebnet": ChebNet,
    "graphwavelet": GraphWavelet,
    "spectral": Spectral,
}
