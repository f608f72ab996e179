import numpy as np
import pytest

from device.detect import Detection
from device.motion import LONGEST, GatedDetector

FACE = Detection((1.0, 2.0, 3.0, 4.0), np.zeros((5, 2), np.float32), 0.9)


class Counting:
    name, size, smallest, model = "counting", 320, 12, None

    def __init__(self):
        self.looks = 0

    def detect(self, frame: np.ndarray) -> list[Detection]:
        self.looks += 1
        return [FACE] if self.looks == 1 else []


@pytest.fixture
def scene():
    return np.random.default_rng(0).integers(0, 200, (360, 640, 3), np.uint8)


def test_a_still_scene_is_looked_at_once(scene):
    gated = GatedDetector(Counting())
    rng = np.random.default_rng(1)
    for _ in range(LONGEST):
        noisy = np.clip(scene + rng.normal(0, 5, scene.shape), 0, 255).astype(np.uint8)
        assert gated.detect(noisy) == [FACE]
    assert gated.looks == 1
    gated.detect(scene)
    assert gated.looks == 2  # after a while whatever it shows


def test_what_moves_is_looked_at(scene):
    gated = GatedDetector(Counting())
    gated.detect(scene)
    moved = scene.copy()
    moved[100:130, 200:230] = 255  # a small face
    gated.detect(moved)
    assert gated.looks == 2


def test_a_slow_change_adds_up(scene):
    gated = GatedDetector(Counting())
    for step in range(20):
        gated.detect(scene + np.uint8(step))
    assert gated.looks > 3


def test_frames_of_another_shape_are_others(scene):
    gated = GatedDetector(Counting())
    for frame in (scene, scene[:300], scene[..., 0], np.zeros((1, 1, 3), np.uint8)):
        gated.detect(frame)
    assert gated.looks == 4


def test_the_answer_is_the_callers_own(scene):
    gated = GatedDetector(Counting())
    gated.detect(scene).clear()
    assert gated.detect(scene) == [FACE]
