"""The worker as a process: standin.py takes the place of device/edgetpu.py, and does wrong what it is told."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from standin import Turned

from device import bundle, worker
from device.detect import OmokageDetector
from device.embed import Encoder
from device.runtime import Tensor
from device.supervisor import Patience, Supervisor
from device.worker import CAPACITY, Lost, Worker

pytestmark = pytest.mark.usefixtures("time_to_end")
STANDIN = Path(__file__).with_name("standin.py")
WHITE = np.full((1, 112, 112, 3), 255, np.uint8)
WHITE_FRAME = np.full((96, 128, 3), 255, np.uint8)
FRAME = np.random.default_rng(1).integers(0, 255, (96, 128, 3), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 255, (40, 112, 112, 3), np.uint8)
AT_ONCE = Patience(answer=60.0, retry=0.0, longest=0.0)
HASTY = replace(AT_ONCE, answer=1.0)  # for what hangs anyway


@pytest.fixture(scope="module")
def model(bundle_path):
    return bundle_path / bundle.ENCODER


@pytest.fixture(scope="module")
def cpu(model):
    return Encoder(model)


@pytest.fixture(scope="module")
def cpu_detector(own_detector):
    return OmokageDetector(own_detector.model)


@pytest.fixture(scope="module")
def turned(model):
    """What standin.py makes of the CPU's embeddings."""
    encoder = Encoder(model)
    encoder.model = Turned(model)
    return encoder


@pytest.fixture
def signatures(model, cpu):
    return {model: cpu.model.signature}


@pytest.fixture
def begin(model, own_detector):
    """begin("abort", "white"): an encoder whose workers abort at a white crop, and .detector, which they run too; .notices and .pids
    are all, .last the last worker."""
    begun = []

    def begin(what="nothing", when="never", patience=AT_ONCE):
        def start():
            signatures = {each.path: each.signature for each in models}
            encoder.last = Worker(signatures, (sys.executable, str(STANDIN), what, when))
            encoder.pids.append(encoder.last.pid)
            return encoder.last

        encoder = Encoder(model)
        encoder.detector = OmokageDetector(own_detector.model)
        models = [encoder.model, encoder.detector.model]
        Supervisor(models, start, lambda *news: encoder.notices.append(news), patience=patience)
        encoder.pids, encoder.notices = [], []
        begun.append(encoder)
        return encoder

    yield begin
    for encoder in begun:
        encoder.close()
        assert not any(lives(pid) for pid in encoder.pids)


def until(condition, encoder=None):
    """Frames go on until the condition holds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        if encoder:
            encoder.embed(NOISE[:1])
        time.sleep(0.005)


def serving(encoder):
    until(lambda: encoder.backend == "edgetpu", encoder)
    return encoder


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_worker_answers_once_it_has_passed_its_self_test(begin, cpu, turned):
    encoder = begin()
    np.testing.assert_array_equal(encoder.embed(NOISE[:3]), cpu.embed(NOISE[:3]))
    assert encoder.backend == "cpu"
    serving(encoder)
    np.testing.assert_array_equal(encoder.embed(NOISE[:3]), turned.embed(NOISE[:3]))
    ((kind, text),) = encoder.notices
    assert kind == "backend-edgetpu" and text.startswith("the Edge TPU runs encoder and detector (self-test passed: cosine 0.9")
    assert encoder.deaths == 0


def test_one_worker_runs_both_models(begin, turned, own_detector, cpu_detector):
    encoder = serving(begin())
    detector = OmokageDetector(own_detector.model)
    detector.model = Turned(own_detector.model)
    for _ in range(3):
        np.testing.assert_array_equal(encoder.embed(NOISE[:3]), turned.embed(NOISE[:3]))
        for stride, maps in encoder.detector.maps(FRAME).items():
            for found, wanted, here in zip(maps, detector.maps(FRAME)[stride], cpu_detector.maps(FRAME)[stride], strict=True):
                np.testing.assert_array_equal(found, wanted)
                assert (found != here).any()
    assert len(encoder.pids) == 1 and encoder.detector.model.backend == encoder.backend == "edgetpu"


def test_a_frame_that_the_worker_was_lost_over_is_looked_at_by_the_cpu(begin, cpu, cpu_detector):
    encoder = serving(begin("abort", "white"))
    assert [face.box for face in encoder.detector.detect(WHITE_FRAME)] == [face.box for face in cpu_detector.detect(WHITE_FRAME)]
    assert encoder.detector.model.backend == encoder.backend == "cpu" and encoder.deaths == 1
    until(lambda: encoder.detector.detect(FRAME) is not None and encoder.backend == "edgetpu")  # looking for faces is enough to come back
    assert len(encoder.pids) == 2


def test_a_worker_that_is_wrong_about_one_model_runs_neither(begin, cpu):
    encoder = begin("garbage", "detector")
    until(lambda: encoder.deaths, encoder)
    np.testing.assert_array_equal(encoder.embed(NOISE[:1]), cpu.embed(NOISE[:1]))
    assert re.search(r"failed the self-test of the detector: cosine -?0\.\d\d to the CPU", encoder.notices[0][1])


def test_a_frame_may_have_any_number_of_crops(begin, turned):
    encoder = serving(begin())
    for number in (0, 1, CAPACITY, CAPACITY + 1, len(NOISE)):
        np.testing.assert_array_equal(encoder.embed(NOISE[:number]), turned.embed(NOISE[:number]))
    with pytest.raises(ValueError, match="crops are uint8"):
        encoder.embed(NOISE[:1].astype(np.float32))
    assert encoder.backend == "edgetpu"


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("abort", r"ended by SIGABRT: F driver.cc:42\] USB transfer error 2"),
        ("segfault", "ended by SIGSEGV"),
        ("leave", "ended with status 0"),
        ("hang", r"did not answer within 1 s"),
        ("babble", "answers what it was not asked"),
    ],
)
def test_the_crops_that_the_worker_was_lost_over_are_answered_by_the_cpu(begin, cpu, what, told):
    encoder = serving(begin(what, "white", HASTY if what == "hang" else AT_ONCE))
    np.testing.assert_array_equal(encoder.embed(WHITE), cpu.embed(WHITE))
    assert encoder.backend == "cpu" and encoder.deaths == 1
    kind, text = encoder.notices[-1]
    assert kind == "backend-cpu"
    assert re.search(told, text), text
    until(lambda: not lives(encoder.pids[0]))
    serving(encoder)
    assert [kind for kind, _ in encoder.notices] == ["backend-edgetpu", "backend-cpu", "backend-edgetpu"]
    assert len(encoder.pids) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_a_worker_that_is_ended_or_stopped_between_two_frames_is_noticed(begin, cpu, number):
    encoder = serving(begin(patience=HASTY if number == signal.SIGSTOP else AT_ONCE))
    os.kill(encoder.pids[0], number)
    until(lambda: encoder.backend == "cpu", encoder)
    assert encoder.deaths == 1
    until(lambda: not lives(encoder.pids[0]))


def test_a_death_is_noticed_without_any_face(begin):
    encoder = serving(begin())
    os.kill(encoder.pids[0], signal.SIGKILL)
    until(lambda: encoder.embed(NOISE[:0]) is not None and encoder.deaths)
    until(lambda: encoder.embed(NOISE[:0]) is not None and not Path(f"/proc/{encoder.pids[0]}").exists())  # buried


@pytest.mark.parametrize(
    ("what", "when", "told"),
    [
        ("refuse", "open", "no Edge TPU answers: plug it in again"),
        ("segfault", "open", "SIGSEGV"),
        ("garbage", "test", r"failed the self-test of the encoder: cosine -?0\.\d\d"),
        ("hang", "test", r"was not ready within 0.2 s"),
    ],
)
def test_a_worker_that_does_not_come_up_is_told_once_and_tried_again(begin, what, when, told):
    patience = Patience(start=0.2 if what == "hang" else 30.0, retry=0.0, longest=0.0)
    encoder = begin(what, when, patience)
    until(lambda: encoder.deaths == 2, encoder)
    assert [kind for kind, _ in encoder.notices] == ["backend-cpu"] and len(encoder.pids) >= 2
    assert re.search(told, encoder.notices[0][1]), encoder.notices


def test_frames_go_on_while_a_worker_starts(begin, cpu):
    encoder = begin("hang", "open", Patience(start=1e6))
    expected = cpu.embed(NOISE[:1])
    for _ in range(50):
        np.testing.assert_array_equal(encoder.embed(NOISE[:1]), expected)
    assert len(encoder.pids) == 1 and lives(encoder.pids[0]) and encoder.deaths == 0


@pytest.mark.slow
def test_nothing_grows_over_many_frames_and_deaths(begin):
    encoder = serving(begin("abort", "white"))
    maps = Path("/proc/self/maps")
    before = open_files(), maps.read_text().count("omokage-worker")
    for _ in range(2):
        for _ in range(150):
            encoder.embed(NOISE[:1])
        encoder.embed(WHITE)
        serving(encoder)
    assert (open_files(), maps.read_text().count("omokage-worker")) == before > (0, 0)
    encoder.close()
    assert "omokage-worker" not in maps.read_text() and encoder.backend == "cpu"


def test_after_close_the_cpu_answers_and_no_worker_is_started(begin, cpu):
    encoder = serving(begin())
    encoder.close()
    np.testing.assert_array_equal(encoder.embed(NOISE[:1]), cpu.embed(NOISE[:1]))
    assert len(encoder.pids) == 1


def test_a_worker_is_no_child_of_ctrl_c(begin):
    encoder = serving(begin())
    pid = encoder.pids[0]
    assert os.getpgid(pid) == pid != os.getpgrp()


PARENT = """
import sys, time
from pathlib import Path
from device.runtime import Model
from device.worker import Worker
import numpy as np
model = Model(sys.argv[1])
worker = Worker({model.path: model.signature}, (sys.executable, *sys.argv[2:], "white"))
worker.run(0, np.zeros((1, 112, 112, 3), np.uint8), 60)
worker.ask(0, np.full((1, 112, 112, 3), 255, np.uint8))
print(worker.pid, flush=True)
print(sys.stdin.readline(), end="", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("what", ["nothing", "hang"])
def test_a_worker_dies_with_its_parent_and_leaves_its_streams_alone(model, what):
    call = [sys.executable, "-c", PARENT, str(model), str(STANDIN), what]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        parent.stdin.write("for the parent\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "for the parent\n"
        assert lives(pid)
        parent.kill()
        assert parent.stdout.read() == ""
    until(lambda: not lives(pid))


def test_a_worker_that_cannot_be_started_is_told(signatures):
    before = open_files()
    with pytest.raises(Lost, match="cannot be started: No such file"):
        Worker(signatures, ("/no/such/program",))
    assert open_files() == before


def test_where_no_file_can_be_opened_the_cpu_answers(begin, cpu):
    encoder = begin()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        np.testing.assert_array_equal(encoder.embed(NOISE[:1]), cpu.embed(NOISE[:1]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert encoder.deaths == 1 and "cannot be started: Too many open files" in encoder.notices[0][1]
    serving(encoder)


def test_a_model_of_another_dimension_is_refused(model, cpu):
    other = replace(cpu.model.signature, outputs=(Tensor("uint8", (1, cpu.dimension + 1), cpu.output),))
    process = Worker({model: other}, (sys.executable, str(STANDIN), "nothing", "never"))
    with pytest.raises(Lost, match=rf"\[1, {cpu.dimension}\], the model it was compiled from .*\[1, {cpu.dimension + 1}\]"):
        process.run(0, NOISE[:1], 60)
    assert process.end(30.0)


def test_an_answer_that_was_not_waited_for_is_no_answer_to_the_next_question(begin):
    process = serving(begin()).last
    process.ask(0, NOISE[:1])
    for number, inputs in ((0, NOISE[1:2]), (1, FRAME[None])):
        with pytest.raises(Lost, match="interrupted"):
            process.run(number, inputs, 60)


def test_a_worker_that_is_closed_ends_by_itself(signatures, monkeypatch):
    monkeypatch.setattr(worker, "FAREWELL_S", 30.0)
    process = Worker(signatures, (sys.executable, str(STANDIN), "nothing", "never"))
    process.run(0, NOISE[:1], 60)
    process.close()
    assert process.status == 0
