import itertools
import logging
from collections import Counter
from datetime import datetime, timedelta, timezone

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.align import TEMPLATE
from device.camera import Frame
from device.decide import HOLD, NearestNeighbours
from device.detect import Detection
from device.pipeline import INTERVAL, STAGES, Recogniser
from device.quality import USEFUL, Quality

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
ADA, BOB = np.eye(2, 8, dtype=np.float32)
STRANGER = np.eye(1, 8, 5, dtype=np.float32)[0]
GREEN, RED, BLUE = (0, 200, 0), (0, 0, 200), (200, 0, 0)
LOOKS = {GREEN: ADA, RED: BOB, BLUE: STRANGER}


class Detector:
    """Finds the plain squares of 112 pixels of a scene that it is told."""

    name, size = "fake", 480

    def __init__(self):
        self.scene: list[tuple[float, float]] = []
        self.looks = 0

    def detect(self, frame: np.ndarray) -> list[Detection]:
        self.looks += 1
        return [Detection((x, y, 112, 112), np.float32(TEMPLATE + np.array((x, y))), 0.9) for x, y in self.scene]


class Encoder:
    """Takes the colour of a crop (RGB) for the person."""

    backend = "cpu"
    dimension = 8

    def __init__(self):
        self.calls: list[int] = []

    def embed(self, crops: np.ndarray) -> np.ndarray:
        self.calls.append(len(crops))
        assert crops.dtype == np.uint8
        assert crops.shape[1:] == (112, 112, 3)
        looks = np.array(list(LOOKS), float)[:, ::-1]
        middle = crops[:, 40:70, 40:70].mean((1, 2))
        return np.array([list(LOOKS.values())[np.abs(looks - m).sum(1).argmin()] for m in middle], np.float32).reshape(-1, 8)


def who(people: dict[str, np.ndarray]) -> NearestNeighbours:
    return NearestNeighbours(np.array([*people.values()], np.float32).reshape(-1, 8), [*people], threshold=0.5)


@pytest.fixture(autouse=True)
def good(monkeypatch):
    """Every crop is a good one: plain squares would be blurred."""
    monkeypatch.setattr("device.pipeline.assess", lambda detection, crop: Quality(1.0, "blurred"))


class Stage:
    """A recogniser on a stage: faces are colours at places."""

    def __init__(self, stills: bool = False, gallery: dict[str, np.ndarray] | None = None, interval: int = 1, **settings):
        self.detector, self.encoder = Detector(), Encoder()
        decider = who({"Ada": ADA, "Bob": BOB} if gallery is None else gallery)
        self.recogniser = Recogniser(self.detector, self.encoder, decider, stills, interval, **{"like": 0.4, **settings})
        self.told: list[dict] = []
        self.index, self.fps = 0, 30
        self.background = np.full((360, 640, 3), 128, np.uint8)

    def show(self, *faces: tuple[tuple[int, int, int], float], frames: int = 1, source: str = "stage.mp4") -> list:
        sightings: list = []
        for _ in range(frames):
            image = self.background.copy()
            for colour, x in faces:
                cv2.rectangle(image, (round(x), 100), (round(x) + 112, 212), colour, cv2.FILLED)
            self.detector.scene = [(x, 100) for _, x in faces]
            time = START + timedelta(seconds=self.index / self.fps)
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


def test_another_person_in_the_same_place_gets_through_once_it_holds():
    stage = Stage()
    stage.show((GREEN, 100), frames=30)
    stage.show((RED, 100), frames=60)
    assert stage.end() == [("seen", 1, "Ada"), ("changed", 1, "Bob"), ("gone", 1, "Bob")]
    assert stage.told[1]["frame"] < 30 + 30 + HOLD + 15  # noticed within a second, outweighed and held for half a second


def test_a_few_odd_crops_do_not_change_a_settled_track():
    stage = Stage(recheck=timedelta())
    stage.show((GREEN, 100), frames=20)
    for _ in range(6):
        stage.show((RED, 100), frames=3)
        stage.show((GREEN, 100), frames=4)
    assert stage.end() == [("seen", 1, "Ada"), ("gone", 1, "Ada")]


def test_a_face_whose_crops_disagree_gets_no_name():
    stage = Stage(recheck=timedelta())
    for _ in range(20):
        stage.show((GREEN, 100))
        stage.show((RED, 100))
    assert "changed" not in {event["event"] for event in stage.told}
    assert len({name for _, _, name in stage.end()}) == 1


def test_useless_crops_are_not_embedded_and_name_nobody(monkeypatch, caplog):
    monkeypatch.setattr("device.pipeline.assess", lambda detection, crop: Quality(USEFUL / 2, "too small"))
    stage = Stage()
    with caplog.at_level(logging.INFO, "omokage"):
        stage.show((GREEN, 100), frames=4)
    assert stage.end() == [("seen", 1, None), ("gone", 1, None)]
    assert sum(stage.encoder.calls) == stage.recogniser.crops == 0
    assert stage.told[0]["quality"] == USEFUL / 2
    assert caplog.messages == [f"#1 is not named: its pictures are too small (0 crops of quality {USEFUL / 2:.2f})"]


def test_a_useful_crop_after_useless_ones_names(monkeypatch):
    values = iter([0.1] * 4 + [0.8] * 99)
    monkeypatch.setattr("device.pipeline.assess", lambda detection, crop: Quality(next(values), "blurred"))
    stage = Stage()
    stage.show((GREEN, 100), frames=4 + HOLD)
    assert stage.end() == [("seen", 1, None), ("changed", 1, "Ada"), ("gone", 1, "Ada")]


def test_a_better_crop_weighs_more(monkeypatch):
    qualities = iter([0.3, 0.3, 0.9] + [0.3] * 5)
    monkeypatch.setattr("device.pipeline.assess", lambda detection, crop: Quality(next(qualities), "blurred"))
    stage = Stage()
    stage.show((RED, 100), frames=2)
    stage.show((GREEN, 100))
    assert ("gone", 1, "Bob") not in stage.end()  # two against one, and yet not Bob's
    assert stage.told[0]["runner_up"]["name"] == "Ada"


def test_a_settled_track_is_embedded_once_a_second_instead_of_in_every_frame():
    stage = Stage()
    stage.show((GREEN, 100), frames=3 + 5 * 30)
    assert sum(stage.encoder.calls) == 3 + 5
    assert stage.recogniser.crops == 3 + 5
    assert stage.recogniser.faces == 153


def test_a_re_check_waits_for_a_fair_crop_though_not_for_ever(monkeypatch):
    quality = [0.9]
    monkeypatch.setattr("device.pipeline.assess", lambda detection, crop: Quality(quality[0], "blurred"))
    stage = Stage()
    stage.show((GREEN, 100), frames=3)
    quality[0] = 0.3
    stage.show((GREEN, 100), frames=58)
    assert stage.recogniser.crops == 3
    quality[0] = 0.6
    stage.show((GREEN, 100))
    assert stage.recogniser.crops == 4
    quality[0] = 0.3
    stage.show((GREEN, 100), frames=60)
    assert stage.recogniser.crops == 5  # the face may have changed for good


def test_what_does_not_fit_in_is_looked_at_again_at_once():
    stage = Stage()
    stage.show((GREEN, 100), frames=30)
    before = stage.recogniser.crops
    stage.show((RED, 100), frames=10)  # one of them is the re-check, and the next ones follow it
    assert stage.recogniser.crops - before >= 6


def test_a_face_that_was_missed_is_looked_at_again_at_once():
    stage = Stage()
    stage.show((GREEN, 100), frames=10)
    stage.show(frames=2)
    before = stage.recogniser.crops
    stage.show((GREEN, 100))
    assert stage.recogniser.crops == before + 1


def test_the_encoder_hears_of_every_frame_even_without_a_face():
    """It may watch over a worker (device/embed.py)."""
    stage = Stage(interval=3)
    stage.show(frames=7)
    assert stage.encoder.calls == [0] * 7


def test_at_rest_faces_are_looked_for_in_every_third_frame_only():
    stage = Stage(interval=3)
    stage.show(frames=30)
    assert stage.detector.looks == stage.recogniser.looks == 10
    stage.show((GREEN, 100), frames=30)
    assert stage.detector.looks == 10 + 2 + 10  # the two frames after the first look, until it is settled
    assert stage.end() == [("seen", 1, "Ada"), ("gone", 1, "Ada")]
    assert stage.told[1]["frames"] >= 28


@pytest.mark.parametrize("first", range(6))
def test_a_face_of_five_frames_is_found_whenever_it_comes(first):
    stage = Stage(interval=INTERVAL)
    stage.show(frames=10 + first)
    stage.show((GREEN, 100), frames=5)
    stage.show(frames=30)
    assert stage.end() == [("seen", 1, "Ada"), ("gone", 1, "Ada")]


def test_between_two_looks_the_faces_of_the_last_one_are_shown():
    stage = Stage(interval=3)
    stage.show((GREEN, 100), frames=3)
    ((track, verdict),) = stage.show((GREEN, 100))
    assert (track.id, verdict.name) == (1, "Ada")


def test_a_slow_source_is_looked_at_more_often():
    stage = Stage(interval=30)
    stage.fps = 5
    stage.show(frames=10)
    assert stage.detector.looks == 10


def test_at_a_cut_faces_are_looked_for_at_once_and_all_tracks_end():
    stage = Stage(interval=3)
    stage.show((GREEN, 100), frames=4)
    stage.background = np.random.default_rng(0).integers(0, 255, (360, 640, 3), np.uint8) // 4
    stage.show((RED, 100), frames=3)
    assert stage.end() == [("seen", 1, "Ada"), ("gone", 1, "Ada"), ("seen", 2, "Bob"), ("gone", 2, "Bob")]
    assert (stage.told[1]["frame"], stage.told[2]["frame"]) == (4, 6)


def test_two_tracks_never_carry_one_name():
    stage = Stage()
    stage.show((GREEN, 100), frames=10)
    sightings = stage.show((GREEN, 100), (GREEN, 400), frames=20)
    assert sorted(verdict.name or "" for _, verdict in sightings) == ["", "Ada"]
    assert stage.end() == [("seen", 1, "Ada"), ("seen", 2, None), ("gone", 1, "Ada"), ("gone", 2, None)]
    assert stage.told[1]["runner_up"]["name"] == "Ada"


def test_a_name_that_becomes_free_goes_to_who_was_refused_it():
    stage = Stage()
    stage.show((GREEN, 100), frames=10)
    stage.show((GREEN, 100), (GREEN, 400), frames=5)
    stage.show((GREEN, 400), frames=25)
    assert [entry for entry in stage.end() if entry[0] != "gone"] == [("seen", 1, "Ada"), ("seen", 2, None), ("changed", 2, "Ada")]


def test_a_seen_too_briefly_face_is_told_at_its_end():
    """Its crops did not agree, and then it left."""
    stage = Stage()
    stage.show((GREEN, 100))
    stage.show((RED, 100), frames=2)
    stage.show(frames=30)
    assert stage.end() == [("seen", 1, None), ("gone", 1, None)]


def test_another_decider_judges_everybody_anew():
    stage = Stage()
    stage.show((GREEN, 100), (RED, 400), frames=10)
    stage.recogniser.decider = who({"Adele": ADA, "Bob": BOB})
    stage.show((GREEN, 100), (RED, 400), frames=HOLD)
    assert stage.end()[2:] == [("changed", 1, "Adele"), ("gone", 1, "Adele"), ("gone", 2, "Bob")]


def test_the_log_says_why_somebody_was_named(caplog):
    stage = Stage()
    with caplog.at_level(logging.INFO, "omokage"):
        stage.show((GREEN, 100), (BLUE, 400), frames=4)
    assert caplog.messages == [
        "#1 is named Ada: 1.00 reaches the threshold 0.50, next Bob 0.00 (3 crops of quality 1.00)",
        "#2 is not named: the best guess is below the threshold 0.50, at best Ada 0.00 (3 crops of quality 1.00)",
    ]


faces = st.lists(st.tuples(st.sampled_from([GREEN, RED, BLUE]), st.sampled_from([0, 60, 130, 260, 400, 520])), max_size=3)


@given(st.lists(st.tuples(faces, st.integers(1, 8)), max_size=12), st.integers(1, 3))
@settings(deadline=None, max_examples=40)
def test_whatever_happens_names_are_unique_and_stories_are_whole(scenes, interval):
    stage = Stage(interval=interval)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("device.pipeline.assess", lambda detection, crop: Quality(1.0, "blurred"))
        for people, frames in scenes:
            for _ in range(frames):
                names = [verdict.name for _, verdict in stage.show(*people) if verdict and verdict.name]
                assert len(set(names)) == len(names)
    stories: dict[int, list[tuple[str, str | None]]] = {}
    for kind, track, name in stage.end():
        stories.setdefault(track, []).append((kind, name))
    for story in stories.values():
        kinds = [kind for kind, _ in story]
        assert (kinds[0], kinds[-1]) == ("seen", "gone")
        assert set(kinds[1:-1]) <= {"changed"}
        names = [name for _, name in story]
        assert all(a != b for a, b in itertools.pairwise(names[:-1]))
        assert names[-1] == names[-2]


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
    assert Counter(stage.end()) == Counter((kind, track, None) for kind in ("seen", "gone") for track in (1, 2))


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
