"""What is asked of an encoder while it trains."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train import data, metrics


@dataclass(frozen=True)
class VerificationProbe:
    """Verification on a development protocol, e.g. LFW's pairsDevTest (never on the test pairs)."""

    crops: data.Crops
    pairs: data.Pairs

    @classmethod
    def read(cls, crops: Path, pairs: Path) -> "VerificationProbe":
        """`crops`: a zip or folder of Person/Person_0001 pictures; `pairs`: a protocol file."""
        protocol = data.read_pairs(pairs)
        stem = Path(crops).stem
        wanted = {f"{stem}/{name}" for name in protocol.left + protocol.right}
        return cls(data.read_crops([crops], only=wanted), protocol)

    def scores(self, embed: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Cosines [M] of the pairs whose crops are there, and which pairs these are (bool [N])."""
        rows = {name.split("/", 1)[1]: row for row, name in enumerate(self.crops.names)}
        there = np.array([a in rows and b in rows for a, b in zip(self.pairs.left, self.pairs.right, strict=True)])
        embeddings = embed(self.crops.images)
        left = embeddings[[rows[n] for n, ok in zip(self.pairs.left, there, strict=True) if ok]]
        right = embeddings[[rows[n] for n, ok in zip(self.pairs.right, there, strict=True) if ok]]
        return (left * right).sum(axis=1), there

    def __call__(self, embed: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        """Accuracy at the best threshold and area under the ROC."""
        scores, there = self.scores(embed)
        result = metrics.verification(scores, self.pairs.same[there], self.pairs.folds[there])
        return {"accuracy": result.accuracy, "auc": result.auc}


def effective_rank(embeddings: np.ndarray) -> float:
    """RankMe: the exponential of the entropy of the singular values of [N, D] (Garrido et al. 2022, arXiv:2210.02885, eq. 1 and 2)."""
    values = np.linalg.svd(embeddings, compute_uv=False)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))
