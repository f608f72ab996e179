"""Crops into embeddings."""

import math
from pathlib import Path

import numpy as np

from device import accelerator, worker
from device.align import SIZE, VERSION
from device.bundle import ENCODER, ENCODER_EDGETPU, Bundle
from device.program import InputError, MissingError, StoredError
from device.runtime import Model
from device.supervisor import Notify, Supervisor
from device.worker import Worker

BACKENDS = ("auto", "cpu", "edgetpu")


class Encoder:
    """A full-int8 encoder.

    Its model has one input uint8 [1, 112, 112, 3], the bytes of an RGB crop, and one output uint8 [1, D]. `dimension` is D;
    `input` and `output` say what the stored bytes mean.
    Raises InputError (not such a model) or MissingError (no runtime, no accelerator).
    """

    def __init__(self, model: Path, backend: str = "cpu", threads: int = 2):
        self.model = Model(model, backend, threads)
        signature = self.model.signature
        self.dimension = math.prod(signature.outputs[0].shape)
        if str(signature) != f"uint8 [1, {SIZE}, {SIZE}, 3] to uint8 [1, {self.dimension}]":
            wanted = f"uint8 [1, {SIZE}, {SIZE}, 3] to uint8 [1, D]"
            raise InputError(f"{model} maps {signature}, an encoder maps {wanted}", "name an encoder made by convert/quantize.py")
        self.input, self.output = signature.input.quantisation, signature.outputs[0].quantisation

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def backend(self) -> str:
        """What answers now, "cpu" or "edgetpu"."""
        return self.model.backend

    @property
    def deaths(self) -> int:
        """How many workers were lost (device/supervisor.py)."""
        return self.model.supervisor.deaths if self.model.supervisor else 0

    def close(self) -> None:
        """Let go of all but memory."""
        if self.model.supervisor:
            self.model.supervisor.close()

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """The embeddings of RGB `crops` uint8 [N, 112, 112, 3]: float32 unit rows [N, D]."""
        if crops.dtype != np.uint8 or crops.shape[1:] != (SIZE, SIZE, 3):
            raise ValueError(f"crops are uint8 [N, {SIZE}, {SIZE}, 3], not {crops.dtype} {list(crops.shape)}")
        (stored,) = self.model.run(crops)
        real = self.model.signature.outputs[0].real(stored)  # [N, D]
        return real / np.maximum(np.linalg.norm(real, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def open_encoder(bundle: Bundle, backend: str = "auto", notify: Notify | None = None, beside: Model | None = None) -> Encoder:
    """The encoder of `bundle`; close it after use. `notify` is told which backend answers whenever that changes.

    "auto" has a supervisor where the bundle holds a model compiled for the Edge TPU: it starts on the CPU, and uses an Edge TPU
    whenever one is plugged in and works. "edgetpu" waits for it, and raises MissingError if it is not to be had or lost, then from
    `embed`. A model `beside` it (a detector's) goes where the encoder goes, if it was compiled together with it.
    Raises StoredError where the bundle wants other crops.
    """
    if bundle.preprocessing != VERSION:
        wanted = f"{bundle.path} wants crops of preprocessing {bundle.preprocessing}"
        raise StoredError(f"{wanted}, this program makes {VERSION}", "update Omokage, or name another bundle with --encoder")
    if backend not in BACKENDS:
        raise InputError(f"there is no backend {backend}", f"choose one of {', '.join(BACKENDS)}")
    required, is_compiled = backend == "edgetpu", ENCODER_EDGETPU in bundle.manifest["files"]
    if required and not is_compiled:
        raise MissingError(f"{bundle.path} holds no {ENCODER_EDGETPU}", "compile it with convert/compile.py, or use --backend cpu")
    encoder = Encoder(bundle.path / ENCODER)
    if backend == "cpu" or not is_compiled:
        return encoder
    models = {bundle.path / ENCODER_EDGETPU: encoder.model}
    if beside is not None and (compiled := bundle.compiled(beside.path)) is not None:
        models[compiled] = beside
    signatures = {path: model.signature for path, model in models.items()}

    def start() -> Worker | None:
        return Worker(signatures, worker.PROGRAM) if required or accelerator.find() else None

    Supervisor(list(models.values()), start, notify, required)  # the models know it from now on
    return encoder
