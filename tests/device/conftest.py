"""What the tests of device/ share: detectors, bundles that are nearly the shipped one, and one without a model."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import small_detector
from clock import Clock
from pretended_broker import Pretended

from device import accelerator, bundle, enroll, recognize, worker
from device.bundle import Bundle, DetectorBundle
from device.detect import Detector, MtcnnDetector, YunetDetector

SIDE = 16


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pretended() -> Iterator[Pretended]:
    """A broker of MQTT that does what the test wants."""
    broker = Pretended()
    yield broker
    broker.close()


class PixelEncoder:
    """The embedding of a crop is the crop itself, small and grey. It tells two photos apart."""

    backend = "cpu"
    dimension = SIDE * SIDE

    def embed(self, crops: np.ndarray) -> np.ndarray:
        grey = [cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for crop in crops]
        rows = np.array(grey, np.float32).reshape(-1, self.dimension)
        rows -= rows.mean(1, keepdims=True)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def close(self) -> None:
        pass


@pytest.fixture
def pixels(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """enroll.py and recognize.py use this bundle whatever they are asked for."""
    facts = {
        "name": "pixels",
        "encoder": "0123456789abcdef",
        "dimension": PixelEncoder.dimension,
        "preprocessing": {"version": 1, "detector": "mtcnn"},
        "thresholds": [{"far": bundle.FAR, "threshold": 0.8}],
    }
    used = Bundle(tmp_path, facts)
    monkeypatch.setattr(bundle, "find", lambda name: used)
    for program in (enroll, recognize):
        monkeypatch.setattr(program, "open_encoder", lambda used, backend, notify=None, beside=None: PixelEncoder())
    return used


@pytest.fixture
def copied_bundle(bundle_path: Path, tmp_path: Path) -> Callable[..., Path]:
    """copied_bundle("name", key=value, ...): the shipped bundle in another folder, with other values in its manifest."""

    def copy(name: str = "copy", **changes: Any) -> Path:
        path = shutil.copytree(bundle_path, tmp_path / "bundles" / name)
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps(manifest | changes))
        return path

    return copy


@pytest.fixture
def other_encoder(copied_bundle: Callable[..., Path]) -> Path:
    """A valid bundle whose encoder has another id than the shipped one: a byte at the end of its file differs."""
    path = copied_bundle("other")
    with (path / bundle.ENCODER).open("ab") as file:
        file.write(b"\0")
    manifest = json.loads((path / "manifest.json").read_text())
    digest = bundle.sha256(path / bundle.ENCODER)
    manifest["files"][bundle.ENCODER] |= {"sha256": digest}
    (path / "manifest.json").write_text(json.dumps(manifest | {"encoder": digest[:16]}))
    return path


@pytest.fixture(scope="session")
def own_detector(tmp_path_factory: pytest.TempPathFactory) -> DetectorBundle:
    """A bundle of a detector like ours, which finds faces where chance wants them."""
    folder = tmp_path_factory.mktemp("detector")
    facts = {"name": "small", "version": "1", "score": 0.99, "made": {"time": "2026-01-01T00:00:00Z"}, "licence": "none"}
    return bundle.write_detector(folder / "small", [small_detector.write(folder / bundle.DETECTOR)], facts)


@pytest.fixture
def compiled(copied_bundle: Callable[..., Path]) -> Callable[..., Bundle]:
    """compiled(file, detector): the shipped bundle, with a copy of this file (its own encoder) that claims to be compiled for the Edge
    TPU, and of the detector of this bundle the same."""

    def make(file: Path | None = None, detector: DetectorBundle | None = None, name: str = "compiled") -> Bundle:
        path = copied_bundle(name)
        manifest = json.loads((path / "manifest.json").read_text())
        sources = {bundle.ENCODER_EDGETPU: file or path / bundle.ENCODER}
        if detector:
            sources["detector_edgetpu.tflite"] = detector.model
        for target, source in sources.items():
            digest = bundle.sha256(shutil.copyfile(source, path / target))
            manifest["files"][target] = {"sha256": digest, "bytes": source.stat().st_size}
        manifest["edgetpu"] = {"models": {target: {"source": bundle.sha256(source)} for target, source in sources.items()}}
        (path / "manifest.json").write_text(json.dumps(manifest))
        return bundle.load(path)

    return make


@pytest.fixture
def plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Edge TPU is plugged in, as far as /sys tells."""
    monkeypatch.setattr(accelerator, "find", lambda: [accelerator.Accelerator("usb", "/sys/bus/usb/devices/2-1", 5000)])


@pytest.fixture
def time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that ends is waited for, so that how it ended is known however busy the machine is."""
    monkeypatch.setattr(worker, "BURIAL_S", 30.0)


@pytest.fixture(scope="session")
def mtcnn() -> MtcnnDetector:
    return MtcnnDetector()


@pytest.fixture(params=["mtcnn", "yunet"])
def detector(request: pytest.FixtureRequest) -> Detector:
    """Each of the detectors."""
    return request.getfixturevalue("mtcnn") if request.param == "mtcnn" else YunetDetector(request.getfixturevalue("yunet"))
