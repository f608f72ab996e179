"""Graph convolutions in plain NumPy: those that the device can run of train/graph/convolutions/, where each has its paper.

Spectral ones are not among them: the eigenvectors of a small graph for every face would take longer than all the rest.

`x` float32 [B, M, F]: the nodes' features; `a` float32 [B, M, M]: who is linked, symmetric, 0 on the diagonal; `w`: the layer's weights
by name, as Keras has them. Returns float32 [B, M, units], without a non-linearity.
"""

from collections.abc import Callable, Mapping

import numpy as np

Weights = Mapping[str, np.ndarray]


def graphsage(x: np.ndarray, a: np.ndarray, w: Weights) -> np.ndarray:
    mean = a / np.maximum(a.sum(axis=-1, keepdims=True), 1)
    kernel, width = w["kernel"], x.shape[-1]
    # The mean of the products, not the product of the means: the same, and the wide features go through once.
    return x @ kernel[:width] + mean @ (x @ kernel[width:]) + w["bias"]


def gcn(x: np.ndarray, a: np.ndarray, w: Weights) -> np.ndarray:
    return normalised(a + np.eye(a.shape[-1], dtype=a.dtype)) @ (x @ w["kernel"]) + w["bias"]


def chebnet(x: np.ndarray, a: np.ndarray, w: Weights) -> np.ndarray:
    scaled = -normalised(a)  # L - I
    terms = [x, scaled @ x]
    while len(terms) < len(w["kernel"]):
        terms.append(2 * scaled @ terms[-1] - terms[-2])
    return np.add.reduce([term @ kernel for term, kernel in zip(terms, w["kernel"], strict=False)]) + w["bias"]


def gat(x: np.ndarray, a: np.ndarray, w: Weights) -> np.ndarray:
    z = np.einsum("bmf,fhe->bhme", x, w["kernel"], optimize=True)
    left, right = (np.einsum("bhme,he->bhm", z, w[side]) for side in ("left", "right"))
    e = left[..., :, None] + right[..., None, :]  # [B, H, M, M]
    e = np.where((a + np.eye(a.shape[-1]) > 0)[:, None], np.where(e > 0, e, 0.2 * e), -np.inf)
    e = np.exp(e - e.max(axis=-1, keepdims=True))
    y = (e / e.sum(axis=-1, keepdims=True)) @ z  # [B, H, M, E]
    return y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1) + w["bias"]


def gin(x: np.ndarray, a: np.ndarray, w: Weights) -> np.ndarray:
    hidden = np.maximum(((1 + w["eps"]) * x + a @ x) @ w["first"] + w["first_bias"], 0)
    return hidden @ w["second"] + w["bias"]


def normalised(a: np.ndarray) -> np.ndarray:
    """D^-1/2 A D^-1/2 of adjacencies [B, M, M]; 0 for nodes without links."""
    degree = a.sum(axis=-1)
    root = np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0).astype(a.dtype)  # a link weighs 1
    return root[:, :, None] * a * root[:, None, :]


CONVOLUTIONS: dict[str, Callable[[np.ndarray, np.ndarray, Weights], np.ndarray]] = {
    "graphsage": graphsage,
    "gcn": gcn,
    "chebnet": chebnet,
    "gat": gat,
    "gin": gin,
}
