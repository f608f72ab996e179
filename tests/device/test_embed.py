import argparse
import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import cv2
import libedgetpu
import numpy as np
import pytest

from device import accelerator, bundle, detect, worker
from device.align import align
from device.camera import read_picture
from device.detect import OmokageDetector
from device.embed import open_encoder
from device.program import InputError, MissingError, StoredError

pytestmark = pytest.mark.usefixtures("time_to_end")
STANDIN = Path(__file__).with_name("standin.py")
NONE = np.zeros((0, 112, 112, 3), np.uint8)


@pytest.fixture(scope="module")
def encoder(bundle_path):
    return open_encoder(bundle.load(bundle_path), "cpu")


@pytest.fixture(scope="module")
def crops(mtcnn, astronaut, grace_hopper):
    """One of Eileen Collins, one of Grace Hopper: [2, 112, 112, 3]."""
    images = [read_picture(path) for path in (astronaut, grace_hopper)]
    return np.stack([align(image, mtcnn.detect(image)[0].landmarks) for image in images])


def test_embeddings_are_float32_unit_rows(encoder, crops):
    embeddings = encoder.embed(crops)
    assert embeddings.shape == (2, encoder.dimension) and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)


def test_an_embedding_is_what_the_runtime_says_dequantised(encoder, crops, bundle_path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(bundle_path / "encoder.tflite"))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], crops[1:])
    interpreter.invoke()
    stored = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0].astype(np.float64)
    output = json.loads((bundle_path / "manifest.json").read_text())["output"]
    real = (stored - output["zero_point"]) * output["scale"]
    np.testing.assert_allclose(encoder.embed(crops)[1], real / np.linalg.norm(real), atol=1e-6)
    assert (encoder.output.zero_point, encoder.output.scale) == (output["zero_point"], pytest.approx(output["scale"]))


def test_a_crop_has_one_embedding_whatever_came_before_it(encoder, crops):
    together = encoder.embed(crops)
    np.testing.assert_array_equal(encoder.embed(crops[::-1])[::-1], together)
    np.testing.assert_array_equal(encoder.embed(crops[:1]), together[:1])


def test_the_same_face_a_little_changed_is_more_alike_than_another(encoder, crops):
    changed = cv2.GaussianBlur(crops[0], (3, 3), 0)[None]
    same, other = encoder.embed(crops) @ encoder.embed(changed)[0]
    assert same > other + 0.05


def test_no_crops_have_no_embeddings(encoder):
    assert encoder.embed(np.zeros((0, 112, 112, 3), np.uint8)).shape == (0, encoder.dimension)


def test_what_are_no_crops_is_refused(encoder, crops):
    for wrong in (crops.astype(np.float32), crops[0], crops[:, :100], crops[..., :1]):
        with pytest.raises(ValueError, match="crops are uint8"):
            encoder.embed(wrong)


def until(condition, encoder):
    """Frames without a face go on until the condition holds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        encoder.embed(NONE)
        time.sleep(0.005)


def test_without_an_accelerator_auto_is_the_cpu(compiled, bundle_path, capfd, monkeypatch):
    monkeypatch.setattr(accelerator, "find", list)
    monkeypatch.setattr(worker, "PROGRAM", ("/no/worker/is/started",))
    notices = []
    for used in (bundle.load(bundle_path), compiled()):
        with open_encoder(used, notify=lambda *news: notices.append(news)) as encoder:
            assert encoder.embed(NONE).shape == (0, used.dimension)
            assert encoder.backend == "cpu"
    assert notices == [] and capfd.readouterr() == ("", "")


def test_an_accelerator_that_is_plugged_in_is_used_by_the_worker(compiled, plugged_in, monkeypatch, crops, encoder):
    monkeypatch.setattr(worker, "PROGRAM", (sys.executable, str(STANDIN), "nothing", "never"))
    cpu, notices = encoder, []
    with open_encoder(compiled(), notify=lambda *news: notices.append(news)) as encoder:
        until(lambda: encoder.backend == "edgetpu", encoder)
        assert not np.array_equal(encoder.embed(crops), cpu.embed(crops))
    assert [kind for kind, _ in notices] == ["backend-edgetpu"]
    np.testing.assert_array_equal(encoder.embed(crops), cpu.embed(crops))


@pytest.fixture
def workers(monkeypatch):
    """workers("abort", "white"): that is what the Edge TPU's worker does; the list of those that were started."""
    started = []

    def do(what="nothing", when="never"):
        monkeypatch.setattr(worker, "PROGRAM", (sys.executable, str(STANDIN), what, when))
        start = worker.subprocess.Popen
        monkeypatch.setattr(worker.subprocess, "Popen", lambda *args, **settings: started.append(start(*args, **settings)) or started[-1])
        return started

    return do


def test_a_detector_that_was_compiled_with_the_encoder_runs_beside_it(
    compiled, plugged_in, workers, own_detector, encoder, crops, astronaut
):
    """From frame to embedding on the Edge TPU, and both back on the CPU when it is lost; also where the detector is asked in tiles."""
    started, notices = workers(), []
    parser = argparse.ArgumentParser()
    detect.add_arguments(parser)
    own = ["--detector", "omokage", "--detector-model", str(own_detector.path)]
    used, frame, cpu = compiled(detector=own_detector), read_picture(astronaut), encoder
    for options in ([], ["--min-face", "60", "--skip-still"]):
        detector, here = (detect.of_arguments(parser.parse_args([*own, *options])) for _ in range(2))
        with open_encoder(used, "auto", lambda *news: notices.append(news), detector.model) as encoder:
            until(lambda: encoder.backend == "edgetpu", encoder)
            assert detector.model.backend == "edgetpu" and len(started) == 1
            elsewhere = [face.score for face in detector.detect(frame)]
            assert elsewhere and elsewhere != [face.score for face in here.detect(frame)]
            assert not np.array_equal(encoder.embed(crops), cpu.embed(crops))
            os.kill(started[0].pid, signal.SIGKILL)
            until(lambda: encoder.deaths, encoder)
            assert detector.model.backend == "cpu"
            np.testing.assert_array_equal(encoder.embed(crops), cpu.embed(crops))
            assert [face.score for face in detector.detect(frame[::-1])] == [face.score for face in here.detect(frame[::-1])]
        started.clear()
    assert [kind for kind, _ in notices] == ["backend-edgetpu", "backend-cpu"] * 2 and "encoder and detector" in notices[0][1]


def test_a_detector_that_was_not_compiled_with_the_encoder_stays_on_the_cpu(
    compiled, plugged_in, workers, own_detector, tmp_path, copied_bundle
):
    workers()
    other = tmp_path / bundle.DETECTOR
    other.write_bytes(own_detector.model.read_bytes() + b"\0")
    both, alone = compiled(detector=own_detector), compiled(name="alone")
    for used, beside in ((both, None), (both, OmokageDetector(other).model), (alone, OmokageDetector(own_detector.model).model)):
        with open_encoder(used, "edgetpu", beside=beside) as encoder:
            assert encoder.backend == "edgetpu"
            assert beside is None or (beside.supervisor is None and beside.backend == "cpu")
    beside = OmokageDetector(own_detector.model).model
    with open_encoder(both, "cpu", beside=beside) as encoder:
        assert encoder.backend == beside.backend == "cpu" and beside.supervisor is None


def test_edgetpu_means_the_detector_too(compiled, workers, own_detector):
    workers("abort", "white")
    used, detector = compiled(detector=own_detector), OmokageDetector(own_detector.model)
    with open_encoder(used, "edgetpu", beside=detector.model) as encoder:
        assert encoder.backend == detector.model.backend == "edgetpu"
        for told in (r"ended by SIGABRT: .*--backend cpu", "any more"):
            with pytest.raises(MissingError, match=told):
                detector.detect(np.full((96, 128, 3), 255, np.uint8))
    workers("garbage", "detector")
    with pytest.raises(MissingError, match="failed the self-test of the detector"):
        open_encoder(used, "edgetpu", beside=OmokageDetector(own_detector.model).model)


def test_edgetpu_waits_for_the_worker_and_fails_with_it(compiled, monkeypatch):
    monkeypatch.setattr(worker, "PROGRAM", (sys.executable, str(STANDIN), "abort", "white"))
    with open_encoder(compiled(), "edgetpu") as encoder:
        assert encoder.backend == "edgetpu"
        with pytest.raises(MissingError, match=r"the Edge TPU does not answer \(its worker was ended by SIGABRT: .*--backend cpu"):
            encoder.embed(np.full((1, 112, 112, 3), 255, np.uint8))


def test_edgetpu_without_the_library(compiled):
    with contextlib.suppress(OSError):
        ctypes.CDLL(accelerator.LIBEDGETPU)
        pytest.skip("libedgetpu is installed here")
    with pytest.raises(MissingError, match=r"\(libedgetpu.so.1 is not installed: install libedgetpu1-std\): .*--backend cpu"):
        open_encoder(compiled(), "edgetpu")


@pytest.mark.parametrize(
    ("create", "told"),
    [
        ('report("no device"); return NULL;', "no Edge TPU answers: plug it in again"),
        ("return (void*)64;", "its worker was ended by SIGSEGV"),  # what a library does that was built for another runtime
        ('write(2, "F usb.cc:9] no bulk endpoint\\n", 29); abort();', r"its worker was ended by SIGABRT: F usb.cc:9\] no bulk endpoint"),
    ],
)
def test_what_the_real_runtime_says_of_a_library_reaches_the_user(create, told, compiled, plugged_in, tmp_path, monkeypatch):
    libedgetpu.build(tmp_path, create)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    used, notices = compiled(), []
    with pytest.raises(MissingError, match=told):
        open_encoder(used, "edgetpu")
    with open_encoder(used, notify=lambda *news: notices.append(news)) as encoder:
        until(lambda: encoder.deaths, encoder)
        assert encoder.backend == "cpu"
    assert len(notices) == 1 and notices[0][0] == "backend-cpu" and re.search(told, notices[0][1])


def test_a_compiled_model_without_the_delegate(compiled, data, monkeypatch):
    program = "from device.runtime import Model; from device.worker import serve; raise SystemExit(serve(Model))"
    monkeypatch.setattr(worker, "PROGRAM", (sys.executable, "-c", program))
    used = compiled(data / "edgetpu" / "pairs" / "gc_mobilenet_v1_0.25_128_quant" / "model_edgetpu.tflite")
    with pytest.raises(MissingError, match=r"does not run on the cpu \(.*edgetpu-custom-op"):
        open_encoder(used, "edgetpu")


def test_a_bundle_that_was_not_compiled_does_not_run_on_the_accelerator(copied_bundle):
    path = copied_bundle()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"].pop("encoder_edgetpu.tflite", None)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MissingError, match=r"holds no encoder_edgetpu.tflite: .*convert/compile"):
        open_encoder(bundle.load(path), "edgetpu")


def test_bad_choices_are_told(bundle_path, copied_bundle):
    with pytest.raises(InputError, match="no backend gpu: choose one of auto, cpu, edgetpu"):
        open_encoder(bundle.load(bundle_path), "gpu")
    with pytest.raises(StoredError, match="wants crops of preprocessing 2, this program makes 1"):
        open_encoder(bundle.load(copied_bundle(preprocessing={"version": 2, "detector": "yunet"})))
