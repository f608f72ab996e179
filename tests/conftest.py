"""What the tests share: real photos, the shared data where it is there, the shipped bundle, the contracts."""

import json
import os
import signal
from importlib import util
from pathlib import Path

import cv2
import pytest

from device import bundle

CONTRACTS = Path(__file__).parent / "contracts"
SHARED = Path(os.environ.get("OMOKAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


# A shell that starts the tests in the background has them ignore Ctrl-C, and the programs that they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _package_file(package: str, *parts: str) -> Path:
    spec = util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(spec.origin).parent.joinpath(*parts)


@pytest.fixture(scope="session")
def astronaut() -> Path:
    """Eileen Collins, 512x512 (NASA, public domain; comes with scikit-image)."""
    return _package_file("skimage", "data", "astronaut.png")


@pytest.fixture(scope="session")
def grace_hopper() -> Path:
    """Grace Hopper, 512x600 (US Navy, public domain; comes with matplotlib)."""
    return _package_file("matplotlib", "mpl-data", "sample_data", "grace_hopper.jpg")


@pytest.fixture(scope="session")
def data() -> Path:
    """The shared data ($OMOKAGE_DATA, default ../shared/data); the test is skipped where it is not there."""
    if not (SHARED / "README.md").is_file():
        pytest.skip("the shared data is not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def yunet(data: Path) -> Path:
    """YuNet's model; its input size is dynamic, which OpenCV 4 cannot load."""
    if int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip("this YuNet model needs OpenCV 5")
    return data / "detectors" / "yunet_n_dynamic.onnx"


@pytest.fixture(scope="session")
def bundle_path() -> Path:
    """The newest bundle in models/."""
    return bundle.find(None).path


@pytest.fixture(scope="session")
def validate():
    """validate(instance, "event"): the instance follows tests/contracts/event.schema.json, or the test fails."""
    import jsonschema

    def check(instance: object, contract: str) -> None:
        schema = json.loads((CONTRACTS / f"{contract}.schema.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(instance)

    return check


@pytest.fixture(autouse=True)
def _own_gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own gallery."""
    monkeypatch.setenv("OMOKAGE_GALLERY", str(tmp_path / "gallery.db"))
    monkeypatch.delenv("OMOKAGE_YUNET", raising=False)
