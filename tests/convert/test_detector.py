"""A network with random weights all the way to a bundle, and the device's detector on it."""

import json

import cv2
import numpy as np
import pytest

from convert import check, detector, quantize
from device import bundle, detect
from device.camera import read_picture
from device.detect import OmokageDetector
from device.program import InputError, StoredError
from device.runtime import Model
from device.supervisor import ALIKE, alike, specimens
from train import runs
from train.detector import distil, network, photos, scenes
from train.detector.photos import Photo
from train.detector.scenes import Sources
from train.detector.teacher import Faces

FACE = [178, 65, 90, 111, 203, 102, 247, 103, 225, 130, 203, 142, 245, 145, 0.9]


@pytest.fixture(scope="module")
def run_(tmp_path_factory):
    """A run whose network was never trained, but whose heat is that of faces here and there."""
    settings = distil.Settings(photos=("photos.zip",), teacher="yunet.onnx", height=64, width=96, scenes=2, batch=2, epochs=1)
    run_ = runs.Run.create(tmp_path_factory.mktemp("run") / "run", settings)
    net = network.build(64, 96)
    for layer in net.layers:
        if layer.name.startswith("heat"):
            kernel, _ = layer.get_weights()
            layer.set_weights([3 * kernel, np.zeros(1)])
    run_.save(net, distil.KEPT)
    return run_


@pytest.fixture(scope="module")
def made(run_, astronaut, tmp_path_factory):
    image = read_picture(astronaut)
    photo = Photo("her", image, Faces(np.array([FACE], np.float32), np.array([True])))
    nobody = photos.empty({"grey": np.full((90, 120, 3), 80, np.uint8)})
    patch = pytest.MonkeyPatch()
    patch.setattr(distil, "material", lambda given: distil.Material(Sources([photo], nobody), [photo], nobody))
    patch.setattr(detector, "CALIBRATION", 4)
    patch.setattr(detector, "SIZES", {bundle.DETECTOR: (96, 128), "detector_64x80.tflite": (80, 64)})  # the real ones take their time
    out = tmp_path_factory.mktemp("bundles") / "a-detector"
    yield detector.make_bundle(detector.Settings(run_.path), out, quantize.Told("a test", "0", detector.TAUGHT, "none"))
    patch.undo()


@pytest.mark.slow
def test_the_bundle_is_whole(made, validate):
    validate(made.manifest, "detector")
    assert set(made.manifest["files"]) == {"CARD.md", "report.json", "detector.keras", *detector.SIZES}
    report = json.loads((made.path / "report.json").read_text())
    assert 0 < made.score < 1 and report["score"] == made.score
    card = (made.path / "CARD.md").read_text()
    assert f"| {made.score} |" in card and "YuNet" in card


@pytest.mark.slow
def test_everything_maps_and_the_file_is_small(made):
    for name in detector.SIZES:
        report = check.check(made.path / name)
        assert report["maps"] == "all" and report["memory"]["streamed"] == 0
        assert (made.path / name).stat().st_size <= 700_000
    assert check.source_of(str(made.path)) == (made.model, None)


@pytest.mark.slow
def test_int8_says_what_the_float_network_says(made, astronaut):
    """Where it matters: cells that may be faces, and their geometry."""
    net = network.load(str(made.path / "detector.keras"))
    picture = cv2.cvtColor(scenes.faces.framed(read_picture(astronaut), 96, 128)[0], cv2.COLOR_BGR2RGB)
    wanted, found = network.maps(network.folded(net, 96, 128), picture[None]), OmokageDetector(made.model).maps(picture)
    for stride, (heat, far) in wanted.items():
        clipped = np.clip(heat[0], detector.UNLIKELY, None)
        assert np.corrcoef(found[stride][0].ravel(), clipped.ravel())[0, 1] > 0.95
        live = heat[0] > 0
        if live.any():
            assert np.abs(found[stride][1][live] - far[0][live]).mean() < 0.1


@pytest.mark.slow
def test_the_self_test_on_the_edge_tpu_tells_other_rounding_from_other_results(made):
    from ai_edge_litert import interpreter as runtime

    for name in detector.SIZES:
        model, reference = Model(made.path / name), Model(made.path / name)
        pictures = specimens(model.signature.input)
        expected = model.run(pictures)
        plain = runtime.OpResolverType.BUILTIN_REF
        reference._interpreter = runtime.Interpreter(str(made.path / name), experimental_op_resolver_type=plain)
        reference._interpreter.allocate_tensors()
        assert ALIKE + 0.01 < alike(reference.run(pictures), expected) <= 1 + 1e-6
        for stuck in range(len(expected)):
            likest = np.broadcast_to(expected[stuck].mean(axis=0).astype(np.uint8), expected[stuck].shape)
            assert alike([*expected[:stuck], likest, *expected[stuck + 1 :]], expected) < 0.5
        assert alike([output[::-1] for output in expected], expected) < 0.5
        assert alike([np.roll(output, 1, axis=2) for output in expected], expected) < 0.5


@pytest.mark.slow
def test_it_takes_any_frame(made, astronaut):
    image = read_picture(astronaut)
    for name in detector.SIZES:
        device = OmokageDetector(made.path / name, 0.3)
        rng = np.random.default_rng(0)
        shapes = [(1, 1, 3), (2, 3), (1, 3000, 3), (700, 1, 3), (12, 12, 3), (480, 640, 4), (480, 640, 1)]
        for frame in [image, np.zeros((9000, 12000, 3), np.uint8), *(rng.integers(0, 256, shape, np.uint8) for shape in shapes)]:
            for found in device.detect(frame):
                assert np.isfinite(found.row).all() and 0.3 <= found.score <= 1
        colour, transparent = device.detect(image), device.detect(cv2.cvtColor(image, cv2.COLOR_BGR2BGRA))
        assert [found.box for found in colour] == [found.box for found in transparent]
        for wrong in (np.zeros((9, 9, 3), np.float32), np.zeros((0, 9, 3), np.uint8), np.zeros(9, np.uint8)):
            with pytest.raises(ValueError, match="a frame is uint8"):
                device.detect(wrong)


@pytest.mark.slow
def test_the_device_opens_it_and_nothing_else(made, bundle_path, tmp_path, monkeypatch):
    assert detect.open_detector("omokage", made.path).name == "omokage"
    assert detect.open_detector("omokage", made.path, 64).size == 64
    assert made.sized(320) == made.model
    with pytest.raises(InputError, match="no model for 100 pixels: choose one of 64, 320"):
        detect.open_detector("omokage", made.path, 100)
    with pytest.raises(InputError, match="is not a detector of ours"):
        OmokageDetector(bundle_path / bundle.ENCODER)
    with pytest.raises(InputError, match="not a bundle"):
        detect.open_detector("omokage", tmp_path)
    with pytest.raises(StoredError, match="is damaged"):
        detect.open_detector("omokage", bundle_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in made.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / bundle.DETECTOR).write_bytes(made.model.read_bytes()[:-1] + b"?")
    with pytest.raises(StoredError, match="sha256"):
        detect.open_detector("omokage", copy)


@pytest.mark.slow
def test_nothing_is_overwritten(made, run_):
    with pytest.raises(InputError, match="never changed in place"):
        detector.make_bundle(detector.Settings(run_.path), made.path, quantize.Told())


def test_bad_settings_are_told(tmp_path, capsys):
    assert detector.main(["--run", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert detector.main(["--run", str(tmp_path), "--out", str(tmp_path / "out"), "--epochs", "-1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert not (tmp_path / "out").exists()


def test_the_score_is_the_least_that_is_quiet():
    judged = detector.Judged({}, {0.3: 9, 0.35: 2, 0.4: 0, 0.45: 0, 0.5: 0})
    assert judged.best() == 0.45
    assert detector.Judged({}, {0.3: 9, 0.35: 2}).best() == 0.35
