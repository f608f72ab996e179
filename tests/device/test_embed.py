import contextlib
import ctypes
import json
import re
import shutil
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import libedgetpu
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device import accelerator, bundle, worker
from device.align import align
from device.camera import read_picture
from device.embed import ALIKE, Encoder, Patience, SupervisedEncoder, alike, open_encoder, specimens
from device.program import InputError, MissingError, StoredError
from device.worker import Lost

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


def test_other_models_are_told_what_was_found_and_wanted(data, astronaut, tmp_path):
    pairs = data / "edgetpu" / "pairs"
    for model, wrong in (
        (pairs / "gc_mobilenet_v1_0.25_128_quant" / "model.tflite", r"maps uint8 \[1, 128, 128, 3\] to .*, an encoder maps uint8 \[1, 112"),
        (pairs / "zye_face_landmark_192_full_integer_quant" / "model.tflite", "maps float32"),
        (pairs / "gc_mobilenet_v1_0.25_128_quant" / "model_edgetpu.tflite", r"does not run on the cpu \(.*edgetpu-custom-op"),
        (astronaut, "is not a TFLite model"),
        (tmp_path / "none.tflite", "cannot be read"),
    ):
        with pytest.raises(InputError, match=wrong):
            Encoder(model)


def test_a_damaged_model_is_told(bundle_path, tmp_path):
    whole = (bundle_path / "encoder.tflite").read_bytes()
    for content in (b"", whole[:4], whole[:2000], whole[:8] + bytes(100)):
        (tmp_path / "cut.tflite").write_bytes(content)
        with pytest.raises(InputError, match=r"cut\.tflite"):
            Encoder(tmp_path / "cut.tflite")


@pytest.fixture(autouse=True)
def _time_to_end(monkeypatch):
    """A worker that ends is waited for, so that how it ended is known however busy the machine is."""
    monkeypatch.setattr(worker, "BURIAL_S", 30.0)


@pytest.fixture
def compiled(copied_bundle):
    """compiled(file): the shipped bundle, with a copy of this file that claims to be compiled for the Edge TPU."""

    def make(file=None):
        path = copied_bundle()
        target = shutil.copyfile(file or path / bundle.ENCODER, path / bundle.ENCODER_EDGETPU)
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["files"][target.name] = {"sha256": bundle.sha256(target), "bytes": target.stat().st_size}
        (path / "manifest.json").write_text(json.dumps(manifest))
        return bundle.load(path)

    return make


@pytest.fixture
def plugged_in(monkeypatch):
    """An Edge TPU is plugged in, as far as /sys tells."""
    monkeypatch.setattr(accelerator, "find", lambda: [accelerator.Accelerator("usb", "/sys/bus/usb/devices/2-1", 5000)])


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


def test_an_accelerator_that_is_plugged_in_is_used_by_the_worker(compiled, plugged_in, monkeypatch, crops):
    monkeypatch.setattr(worker, "PROGRAM", (sys.executable, str(STANDIN), "nothing", "never"))
    notices = []
    with open_encoder(compiled(), notify=lambda *news: notices.append(news)) as encoder:
        until(lambda: encoder.backend == "edgetpu", encoder)
        assert not np.array_equal(encoder.embed(crops), Encoder.embed(encoder, crops))
    assert [kind for kind, _ in notices] == ["backend-edgetpu"]


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
    program = "from device.embed import Encoder; from device.worker import serve; raise SystemExit(serve(Encoder))"
    monkeypatch.setattr(worker, "PROGRAM", (sys.executable, "-c", program))
    used = compiled(data / "edgetpu" / "pairs" / "gc_mobilenet_v1_0.25_128_quant" / "model_edgetpu.tflite")
    with pytest.raises(MissingError, match=r"does not run on the cpu \(.*edgetpu-custom-op"):
        open_encoder(used, "edgetpu")


class Scripted:
    """A worker in this very process. `fate` is what becomes of it; its embeddings are the CPU's, turned a little."""

    def __init__(self, cpu, fate="serves"):
        self.cpu, self.fate, self.asked, self.ended = cpu, fate, None, 0

    def ask(self, crops):
        self.asked = crops

    def answer(self, limit):
        if self.fate == "refuses":
            raise Lost("it refuses")
        return None if self.fate == "is slow" else self.turned(specimens()[::-1] if self.fate == "is wrong" else self.asked)

    def check(self):
        if self.fate == "has died":
            raise Lost("it has died")

    def embed(self, crops, limit):
        if self.fate == "dies":
            raise Lost("it dies")
        return self.turned(crops)

    def turned(self, crops):
        rows = Encoder.embed(self.cpu, crops) + 0.01 / np.sqrt(self.cpu.dimension)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def end(self, wait):
        self.ended += 1
        return self.fate != "is stuck"

    def close(self):
        self.end(1.0)


class Scene:
    """A SupervisedEncoder with scripted workers and a clock that stands until it is moved."""

    def __init__(self, cpu, model, *fates, **settings):
        self.now, self.workers, self.notices, self.fates = 0.0, [], [], list(fates)
        self.cpu = cpu
        self.encoder = SupervisedEncoder(model, self.start, lambda *news: self.notices.append(news), clock=lambda: self.now, **settings)

    def start(self):
        fate = self.fates.pop(0) if self.fates else "serves"
        if fate == "is absent":
            return None
        self.workers.append(Scripted(self.cpu, fate))
        return self.workers[-1]

    def frame(self, crops):
        """Who answers: "cpu" or "edgetpu", by the embeddings themselves."""
        rows, expected = self.encoder.embed(crops), Encoder.embed(self.cpu, crops)
        return "cpu" if np.array_equal(rows, expected) else "edgetpu"


@pytest.fixture
def scene(encoder, bundle_path):
    return partial(Scene, encoder, bundle_path / bundle.ENCODER)


def test_pauses_grow_up_to_a_limit_and_start_anew_after_steady_service(scene, crops):
    scene = scene(*["refuses"] * 8, patience=Patience(retry=1, longest=20, steady=60))
    starts = []
    while len(scene.workers) < 9:
        scene.frame(crops[:1])
        if len(scene.workers) > len(starts):
            starts.append(scene.now)
        scene.now += 0.5
    assert np.diff(starts).tolist() == [1, 2, 4, 8, 16, 20, 20, 20]
    assert scene.frame(crops[:1]) == "edgetpu"
    scene.now += 61
    scene.workers[-1].fate = "dies"
    assert scene.frame(crops[:1]) == "cpu" and "tried again in 1 s" in scene.notices[-1][1]
    scene.now += 1
    assert scene.frame(crops[:1]) == "edgetpu"


def test_every_switch_is_told_once(scene, crops):
    scene = scene("refuses", "refuses", "serves", "is wrong", "refuses", "serves", patience=Patience(retry=0, longest=0))
    for _ in range(4):
        scene.frame(crops[:1])
    scene.workers[-1].fate = "has died"
    for _ in range(6):
        scene.frame(crops[:0])
    assert [kind for kind, _ in scene.notices] == ["backend-cpu", "backend-edgetpu", "backend-cpu", "backend-edgetpu"]
    assert scene.encoder.deaths == 5
    assert "it refuses" in scene.notices[0][1] and "it has died" in scene.notices[2][1] and "loss 3" in scene.notices[2][1]


def test_an_accelerator_that_is_plugged_in_later_is_used(scene, crops):
    scene = scene("is absent", "is absent", "serves")
    answers = []
    for scene.now in range(5):
        answers.append(scene.frame(crops))
    assert answers == ["cpu", "cpu", "cpu", "edgetpu", "edgetpu"]
    assert [kind for kind, _ in scene.notices] == ["backend-edgetpu"] and scene.encoder.deaths == 0


def test_a_start_that_takes_too_long_is_given_up(scene, crops):
    scene = scene("is slow", patience=Patience(start=30))
    for scene.now in (0, 10, 29.9):
        assert scene.frame(crops[:1]) == "cpu" and not scene.encoder.deaths
    scene.now = 30
    scene.frame(crops[:1])
    assert scene.encoder.deaths == 1 and scene.workers[0].ended == 1
    assert "was not ready within 30 s" in scene.notices[0][1]


def test_no_worker_is_started_before_the_last_one_is_gone(scene, crops):
    scene = scene(patience=Patience(retry=0, longest=0))
    assert scene.frame(crops[:1]) == "edgetpu"
    first = scene.workers[0]
    first.fate, first.check = "is stuck", lambda: (_ for _ in ()).throw(Lost("it hangs in the kernel"))
    for _ in range(5):
        assert scene.frame(crops[:1]) == "cpu" and len(scene.workers) == 1
    first.fate = "is gone"
    assert scene.frame(crops[:1]) == "edgetpu" and len(scene.workers) == 2


def test_required_means_that_the_cpu_never_answers(scene, crops):
    with pytest.raises(MissingError, match="it refuses"):
        scene("refuses", required=True)
    with pytest.raises(MissingError, match="failed the self-test"):
        scene("is wrong", required=True)
    with pytest.raises(MissingError, match="was not ready within 30 s"):
        scene("is slow", required=True)
    scene = scene(required=True)
    scene.workers[0].fate = "dies"
    for told in ("it dies", "any more"):
        with pytest.raises(MissingError, match=told):
            scene.frame(crops)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["serves", "refuses", "is slow", "is wrong", "is absent"]),
            st.sampled_from(["serves", "serves", "dies", "has died"]),
            st.sampled_from([0.0, 0.4, 1.0, 35.0, 100.0]),
            st.integers(0, 2),
        ),
        max_size=12,
    )
)
def test_whatever_becomes_of_the_workers_every_frame_is_answered(encoder, bundle_path, crops, story):
    patience = Patience(retry=1, longest=8)
    scene = Scene(encoder, bundle_path / bundle.ENCODER, patience=patience)
    for at_start, then, seconds, number in story:
        scene.fates = [at_start]
        if scene.encoder.backend == "edgetpu":
            scene.workers[-1].fate = then
        scene.now += seconds
        answered = scene.frame(crops[:number])  # raises nothing
        assert answered == (scene.encoder.backend if number else "cpu")
        assert sum(not each.ended for each in scene.workers) <= 1 and all(each.ended <= 1 for each in scene.workers)
        assert scene.encoder.deaths == sum(each.ended for each in scene.workers)
    kinds = [kind for kind, _ in scene.notices]
    assert all(kind != following for kind, following in pairwise(kinds))
    assert not kinds or scene.encoder.backend == kinds[-1].removeprefix("backend-")


def test_the_self_test_tells_other_rounding_from_other_results(encoder, bundle_path):
    from ai_edge_litert import interpreter as runtime

    crops, expected = specimens(), encoder.embed(specimens())
    reference = Encoder(bundle_path / bundle.ENCODER)
    reference._interpreter = runtime.Interpreter(
        str(bundle_path / bundle.ENCODER), experimental_op_resolver_type=runtime.OpResolverType.BUILTIN_REF
    )
    reference._interpreter.allocate_tensors()
    rounded = alike(reference.embed(crops), expected)
    assert ALIKE + 0.01 < rounded < 1
    constant = expected.mean(0) / np.linalg.norm(expected.mean(0))  # of all constant answers the likest
    assert alike(np.tile(constant, (len(expected), 1)), expected) < 0.5
    assert alike(expected[::-1], expected) < 0.5, "the right embeddings of the wrong crops"


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
