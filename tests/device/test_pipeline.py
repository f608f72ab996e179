from collections import Counter
from datetime import datetime, timedelta, timezone

import cv2
import numpy as np
import pytest

from device.align import TEMPLATE
from device.camera import Frame
from device.decide import HOLD, NearestNeighbours
from device.detect import Detection
from device.pipeline import STAGES, Recogniser

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
ADA, BOB = np.eye(2, 8, dtype=np.float32)
STRANGER = np.eye(1, 8, 5, dtype=np.float32)[0]
GREEN, RED, BLUE = (0, 200, 0), (0, 0, 200), (200, 0, 0)
LOOKS = {GREEN: ADA, RED: BOB, BLUE: STRANGER}


class Detector:
    """Finds the plain squares of 112 pixels of a scene that it is told."""

    name = "fake"

    def __init__(self):
        self.scene: list[tuple[float, float]] = []

    def detect(self, frame: np.ndarray) -> list[Detection]:
        return [Detection((x, y, 112, 112), np.float32(TEMPLATE + np.array((x, y))), 0.9) for x, y in self.scene]


class Encoder:
    """Takes the colour of a crop (RGB) for the person."""

    backend = "cpu"

    def embed(self, crops: np.ndarray) -> np.ndarray:
        assert crops.dtype == np.uint8
        assert crops.shape[1:] == (112, 112, 3)
        looks = np.array(list(LOOKS), float)[:, ::-1]
        middle = crops[:, 40:70, 40:70].mean((1, 2))
        return np.array([list(LOOKS.values())[np.abs(looks - m).sum(1).argmin()] for m in middle], np.float32).reshape(-1, 8)


class Stage:
    """A recogniser on a stage: faces are colours at places."""

    def __init__(self, stills: bool = False, gallery: dict[str, np.ndarray] | None = None):
        people = {"Ada": ADA, "Bob": BOB} if gallery is None else gallery
        decider = NearestNeighbours(np.array([*people.values()], np.float32).reshape(-1, 8), [*people], threshold=0.5)
        self.detector = Detector()
        self.recogniser = Recogniser(self.detector, Encoder(), decider, stills)
        self.told: list[dict] = []
        self.index = 0

    def show(self, *faces: tuple[tuple[int, int, int], float], frames: int = 1, source: str = "stage.mp4") -> list:
        sightings: list = []
        for _ in range(frames):
            image = np.full((360, 640, 3), 128, np.uint8)
            for colour, x in faces:
                cv2.rectangle(image, (round(x), 100), (round(x) + 112, 212), colour, cv2.FILLED)
            self.detector.scene = [(x, 100) for _, x in faces]
            time = START + timedelta(seconds=self.index / 30)
            news, sightings = self.recogniser.process(Frame(image, self.index, time, source))
            self.told += news
            self.index += 1
        return sightings

    def end(self) -> list[tuple[str, int, str | None]]:
        """All that was told: event, track, name."""
        self.told += self.recogniser.finish()
        return [(event["event"], event["track"], event["name"]) for event in self.told]


def test_a_known_face_is_seen_in_its_third_frame_and_gone_half_a_second_after_its_last(validate):
    stage = Stage()
    stage.show((GREEN, 100), frames=10)
    stage.show(frames=30)
    assert stage.end() == [("seen", 1, "Ada"), ("gone", 1, "Ada")]
    seen, gone = stage.told
    for event in stage.told:
        validate(event, "event")
    assert (seen["frame"], seen["score"], seen["box"]) == (2, pytest.approx(1.0), [100, 100, 112, 112])
    assert (gone["frames"], gone["first"], gone["last"]) == (10, "2026-01-01T00:00:00.000Z", "2026-01-01T00:00:00.300Z")
    assert gone["frame"] == 25


def test_a_source_that_ends_closes_its_tracks():
    stage = Stage()
    stage.show((GREEN, 100), (BLUE, 400), frames=5)
    assert Counter(stage.end()) == Counter([("seen", 1, "Ada"), ("seen", 2, None), ("gone", 1, "Ada"), ("gone", 2, None)])


def test_a_face_of_two_frames_is_not_told():
    stage = Stage()
    stage.show((GREEN, 100), frames=2)
    stage.show(frames=30)
    assert stage.end() == []


def test_what_is_shown_of_a_track_follows_its_verdict():
    stage = Stage()
    ((track, verdict),) = stage.show((GREEN, 100))
    assert verdict is None
    ((same, verdict),) = stage.show((GREEN, 100), frames=2)
    assert same is track
    assert (verdict.name, track.id) == ("Ada", 1)
    assert stage.show() == []


def test_a_wrong_first_impression_is_outweighed_by_later_evidence():
    stage = Stage()
    stage.show((GREEN, 100), frames=3)
    stage.show((RED, 100), frames=20)
    assert stage.end() == [("seen", 1, "Ada"), ("changed", 1, "Bob"), ("gone", 1, "Bob")]
    # Bob outweighs Ada from his fourth crop on (frame 6), and has to hold.
    assert stage.told[1]["frame"] == 6 + HOLD - 1


def test_a_few_odd_crops_do_not_change_a_settled_track():
    stage = Stage()
    stage.show((GREEN, 100), frames=20)
    stage.show((RED, 100), frames=10)
    assert stage.end() == [("seen", 1, "Ada"), ("gone", 1, "Ada")]


def test_a_crop_of_quality_nought_still_counts(monkeypatch):
    monkeypatch.setattr("device.pipeline.quality", lambda detection, crop: 0.0)
    stage = Stage()
    stage.show((GREEN, 100), frames=4)
    assert stage.end() == [("seen", 1, "Ada"), ("gone", 1, "Ada")]


def test_a_better_crop_weighs_more(monkeypatch):
    qualities = iter([0.1, 0.1, 0.9] + [0.1] * 5)
    monkeypatch.setattr("device.pipeline.quality", lambda detection, crop: next(qualities))
    stage = Stage()
    stage.show((RED, 100), frames=2)
    stage.show((GREEN, 100))
    assert stage.end() == [("seen", 1, "Ada"), ("gone", 1, "Ada")]


def test_with_an_empty_gallery_everyone_is_unknown(validate):
    stage = Stage(gallery={})
    stage.show((GREEN, 100), frames=4)
    assert stage.end() == [("seen", 1, None), ("gone", 1, None)]
    for event in stage.told:
        validate(event, "event")
        assert (event["decision"], event["score"], event["runner_up"]) == ("unknown", None, None)


def test_each_photo_is_a_scene_of_its_own():
    """The same face in the same place of two photos is two tracks, told at once and under the photo's name."""
    stage = Stage(stills=True)
    stage.show((GREEN, 100), (BLUE, 400), source="a.jpg")
    assert Counter((e["event"], e["track"], e["name"], e["source"]) for e in stage.told) == Counter(
        [("seen", 1, "Ada", "a.jpg"), ("seen", 2, None, "a.jpg"), ("gone", 1, "Ada", "a.jpg"), ("gone", 2, None, "a.jpg")]
    )
    stage.show(source="nobody.jpg")
    ((_, verdict),) = stage.show((GREEN, 100), source="b.jpg")
    assert verdict.name == "Ada"
    assert [(e["event"], e["track"], e["frames"]) for e in stage.told[4:] if e["event"] == "gone"] == [("gone", 3, 1)]
    assert len(stage.end()) == 6


def test_an_interrupt_within_a_frame_leaves_nothing_to_stumble_over(monkeypatch):
    def interrupt(probe):
        raise KeyboardInterrupt

    stage = Stage()
    stage.show((BLUE, 400), frames=3)
    stage.show((BLUE, 400), (GREEN, 100), frames=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage.recogniser.decider, "decide", interrupt)
        stage.show((BLUE, 400), (GREEN, 100))
    assert stage.end() == [("seen", 1, None), ("gone", 1, None)]  # nothing had been decided about the second


def test_the_summary_follows_its_contract_and_counts(validate):
    stage = Stage()
    validate(stage.recogniser.summary("0123456789abcdef", 0.0), "summary")
    stage.show((GREEN, 100), (BLUE, 400), frames=5)
    stage.show(frames=5)
    summary = stage.recogniser.summary("0123456789abcdef", 0.5)
    validate(summary, "summary")
    assert (summary["frames"], summary["faces"], summary["fps"]) == (10, 10, 20)
    assert set(summary["ms"]) == set(STAGES)
    assert summary["ms"]["align"] > 0
