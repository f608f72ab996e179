from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from faults import faulty
from hypothesis import given, settings
from hypothesis import strategies as st

from device import bundle
from device.program import MissingError
from device.runtime import Model
from device.supervisor import ALIKE, Patience, Supervisor, alike, specimens
from device.worker import Lost


class Scripted:
    """A worker in this very process. `fate` is what becomes of it; its answers are the CPU's, turned a little."""

    def __init__(self, models, fate="serves"):
        self.models, self.fate, self.asked, self.ended = models, fate, None, 0

    def ask(self, number, inputs):
        self.asked = number, inputs

    def answer(self, limit):
        if self.fate == "refuses":
            raise Lost("it refuses")
        if self.fate == "is slow":
            return None
        number, inputs = self.asked
        wrong = self.fate == "is wrong" or self.fate == f"is wrong of {number}"
        return self.turned(number, inputs[::-1] if wrong else inputs)

    def check(self):
        if self.fate == "has died":
            raise Lost("it has died")

    def run(self, number, inputs, limit):
        if self.fate == "dies":
            raise Lost("it dies")
        return self.turned(number, inputs)

    def turned(self, number, inputs):
        return [output ^ 1 for output in self.models[number].run_here(inputs)]

    def end(self, wait):
        self.ended += 1
        return self.fate != "is stuck"

    def close(self):
        self.end(1.0)


class Scene:
    """A Supervisor of an encoder and a detector, with scripted workers and a clock that stands until it is moved."""

    def __init__(self, paths, *fates, **settings):
        self.now, self.workers, self.notices, self.fates = 0.0, [], [], list(fates)
        self.models = [Model(path) for path in paths]
        self.supervisor = Supervisor(self.models, self.start, lambda *news: self.notices.append(news), clock=lambda: self.now, **settings)

    def start(self):
        fate = self.fates.pop(0) if self.fates else "serves"
        if fate == "is absent":
            return None
        self.workers.append(Scripted(self.models, fate))
        return self.workers[-1]

    def frame(self, count=1, number=0):
        """Who answers `count` inputs of a model, "cpu" or "edgetpu", by the answers themselves."""
        model = self.models[number]
        inputs = specimens(model.signature.input)[:count]
        same = [np.array_equal(found, here) for found, here in zip(model.run(inputs), model.run_here(inputs), strict=True)]
        assert all(same) or not any(same)
        return "cpu" if all(same) else "edgetpu"


@pytest.fixture(scope="module")
def paths(bundle_path, own_detector):
    return [bundle_path / bundle.ENCODER, own_detector.model]


@pytest.fixture
def scene(paths):
    return partial(Scene, paths)


def test_pauses_grow_up_to_a_limit_and_start_anew_after_steady_service(scene):
    scene = scene(*["refuses"] * 8, patience=Patience(retry=1, longest=20, steady=60))
    starts = []
    while len(scene.workers) < 9:
        scene.frame()
        if len(scene.workers) > len(starts):
            starts.append(scene.now)
        scene.now += 0.5
    assert np.diff(starts).tolist() == [1, 2, 4, 8, 16, 20, 20, 20]
    assert scene.frame() == "edgetpu"
    scene.now += 61
    scene.workers[-1].fate = "dies"
    assert scene.frame() == "cpu" and "tried again in 1 s" in scene.notices[-1][1]
    scene.now += 1
    assert scene.frame() == "edgetpu"


def test_every_switch_is_told_once(scene):
    scene = scene("refuses", "refuses", "serves", "is wrong", "refuses", "serves", patience=Patience(retry=0, longest=0))
    for _ in range(4):
        scene.frame()
    scene.workers[-1].fate = "has died"
    for _ in range(6):
        scene.frame(0)
    assert [kind for kind, _ in scene.notices] == ["backend-cpu", "backend-edgetpu", "backend-cpu", "backend-edgetpu"]
    assert scene.supervisor.deaths == 5
    assert "it refuses" in scene.notices[0][1] and "it has died" in scene.notices[2][1] and "loss 3" in scene.notices[2][1]


def test_an_accelerator_that_is_plugged_in_later_is_used(scene):
    scene = scene("is absent", "is absent", "serves")
    answers = []
    for scene.now in range(5):
        answers.append(scene.frame())
    assert answers == ["cpu", "cpu", "cpu", "edgetpu", "edgetpu"]
    assert [kind for kind, _ in scene.notices] == ["backend-edgetpu"] and scene.supervisor.deaths == 0


def test_a_start_that_takes_too_long_is_given_up(scene):
    scene = scene("is slow", patience=Patience(start=30))
    for scene.now in (0, 10, 29.9):
        assert scene.frame() == "cpu" and not scene.supervisor.deaths
    scene.now = 30
    scene.frame()
    assert scene.supervisor.deaths == 1 and scene.workers[0].ended == 1
    assert "was not ready within 30 s" in scene.notices[0][1]


def test_no_model_is_served_before_all_have_passed(scene):
    scene = scene("is wrong of 1", "serves", patience=Patience(retry=0, longest=0))
    assert [scene.frame(number=number) for number in (0, 1, 1, 0)] == ["cpu", "edgetpu", "edgetpu", "edgetpu"]
    assert len(scene.workers) == 2 and "self-test of the detector" in scene.notices[0][1]
    assert {model.backend for model in scene.models} == {"edgetpu"}


def test_a_self_test_may_be_slow_at_any_model(scene):
    """Frames go on between the questions, and the time for all of them counts from the start."""
    scene = scene(patience=Patience(start=30))
    scene.fates = ["is slow"]
    scene.frame()
    process = scene.workers[0]
    process.fate = "serves"
    answer = process.answer
    process.answer = lambda limit: answer(limit) if process.asked[0] == 0 else None
    scene.now = 20
    assert scene.frame() == "cpu" and process.asked[0] == 1
    scene.now = 31
    assert scene.frame(number=1) == "cpu" and scene.supervisor.deaths == 1
    assert "was not ready within 30 s" in scene.notices[0][1]


def test_no_worker_is_started_before_the_last_one_is_gone(scene):
    scene = scene(patience=Patience(retry=0, longest=0))
    assert scene.frame() == "edgetpu"
    first = scene.workers[0]
    first.fate, first.check = "is stuck", lambda: (_ for _ in ()).throw(Lost("it hangs in the kernel"))
    for _ in range(5):
        assert scene.frame() == "cpu" and len(scene.workers) == 1
    first.fate = "is gone"
    assert scene.frame() == "edgetpu" and len(scene.workers) == 2


def test_required_means_that_the_cpu_never_answers(scene):
    with pytest.raises(MissingError, match="it refuses"):
        scene("refuses", required=True)
    for fate, name in (("is wrong", "encoder"), ("is wrong of 1", "detector")):
        with pytest.raises(MissingError, match=f"failed the self-test of the {name}"):
            scene(fate, required=True)
    with pytest.raises(MissingError, match="was not ready within 30 s"):
        scene("is slow", required=True)
    scene = scene(required=True)
    scene.workers[0].fate = "dies"
    for told in ("it dies", "any more"):
        with pytest.raises(MissingError, match=told):
            scene.frame()


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["serves", "refuses", "is slow", "is wrong", "is wrong of 1", "is absent"]),
            st.sampled_from(["serves", "serves", "dies", "has died"]),
            st.sampled_from([0.0, 0.4, 1.0, 35.0, 100.0]),
            st.integers(0, 2),
            st.integers(0, 1),
        ),
        max_size=12,
    )
)
def test_whatever_becomes_of_the_workers_every_frame_is_answered(paths, story):
    patience = Patience(retry=1, longest=8)
    scene = Scene(paths, patience=patience)
    for at_start, then, seconds, count, number in story:
        scene.fates = [at_start]
        if scene.supervisor.backend == "edgetpu":
            scene.workers[-1].fate = then
        scene.now += seconds
        answered = scene.frame(count, number)  # raises nothing
        assert answered == (scene.supervisor.backend if count else "cpu")
        assert sum(not each.ended for each in scene.workers) <= 1 and all(each.ended <= 1 for each in scene.workers)
        assert scene.supervisor.deaths == sum(each.ended for each in scene.workers)
    kinds = [kind for kind, _ in scene.notices]
    assert all(kind != following for kind, following in pairwise(kinds))
    assert not kinds or scene.supervisor.backend == kinds[-1].removeprefix("backend-")


@pytest.mark.parametrize("which", ["encoder", "detector"])
def test_the_self_test_tells_other_rounding_from_other_results(paths, which):
    """The detector here is one of random numbers; the network itself: tests/convert/test_detector.py."""
    from ai_edge_litert import interpreter as runtime

    path = paths[which == "detector"]
    model, reference = Model(path), Model(path)
    pictures = specimens(model.signature.input)
    expected = model.run(pictures)
    reference._interpreter = runtime.Interpreter(str(path), experimental_op_resolver_type=runtime.OpResolverType.BUILTIN_REF)
    reference._interpreter.allocate_tensors()
    assert ALIKE + 0.01 < alike(reference.run(pictures), expected) <= 1 + 1e-6
    assert alike([output ^ 1 for output in expected], expected) > ALIKE
    for wrong in faulty(expected):
        assert alike(wrong, expected) < 0.5


def test_an_output_that_tells_nothing_of_the_specimens_is_left_out():
    rng = np.random.default_rng(0)
    lively, flat = rng.integers(0, 256, (4, 50), np.uint8), rng.integers(100, 102, (4, 9), np.uint8)
    assert alike([lively ^ 1, flat ^ 1], [lively, flat]) > ALIKE
    assert alike([lively[::-1], flat], [lively, flat]) < 0.5
    assert alike([flat, flat], [flat, flat]) == 0.0, "there is nothing to go by"
