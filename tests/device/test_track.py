from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from device.camera import Frame
from device.detect import Detection
from device.track import CONFIRM, Evidence, Tracker, distance_iou

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
IMAGE = np.zeros((360, 640, 3), np.uint8)


def frame(index: int, fps: float = 30, image: np.ndarray = IMAGE) -> Frame:
    return Frame(image, index, START + timedelta(seconds=index / fps), "door.mp4")


def face(x: float, y: float = 100, size: float = 60) -> Detection:
    return Detection((x, y, size, size), np.zeros((5, 2), np.float32), 0.9)


def follow(tracker: Tracker, scene: dict[int, list[Detection]], frames: int, fps: float = 30) -> tuple[list, list]:
    """The tracks of each frame, and the ended tracks, flush included."""
    found, ended = [], []
    for index in range(frames):
        tracks, over = tracker.update(scene.get(index, []), frame(index, fps))
        found.append(tracks)
        ended += over
    return found, ended + tracker.flush()


def test_a_still_face_is_one_track_with_times_and_frames():
    found, ended = follow(Tracker(), {i: [face(100)] for i in range(10)}, 10)
    assert [track.id for track in ended] == [1]
    assert all(tracks == ended for tracks in found)
    (track,) = ended
    assert (track.frames, track.first_time, track.last_time) == (10, START, frame(9).time)
    assert track.box == (100, 100, 60, 60)


def test_two_faces_keep_their_tracks_whatever_the_order_of_the_detections():
    scene = {i: [face(100 + i), face(300 - i)][:: 1 if i % 2 else -1] for i in range(20)}
    found, ended = follow(Tracker(), scene, 20)
    assert sorted(track.id for track in ended) == [1, 2]
    left = {tracks[0 if i % 2 else 1].id for i, tracks in enumerate(found)}
    assert len(left) == 1


def test_a_face_missed_for_a_few_frames_keeps_its_track():
    scene = {i: [face(100 + i)] for i in range(40) if i not in range(10, 22)}
    assert [track.frames for track in follow(Tracker(), scene, 40)[1]] == [28]


def test_a_face_that_comes_back_after_a_second_is_a_new_track():
    scene = {i: [face(100)] for i in [*range(10), *range(40, 50)]}
    _, ended = follow(Tracker(), scene, 50)
    assert [(track.id, track.frames) for track in ended] == [(1, 10), (2, 10)]


def test_a_slow_source_may_miss_a_frame_too():
    """At two frames a second one miss lasts longer than the patience."""
    scene = {i: [face(100)] for i in range(10) if i != 5}
    assert len(follow(Tracker(), scene, 10, fps=2)[1]) == 1


def test_an_end_is_told_in_the_frame_where_patience_is_over():
    tracker = Tracker()
    for i in range(5):
        tracker.update([face(100)], frame(i))
    ends = [i for i in range(5, 60) if tracker.update([], frame(i))[1]]
    assert ends == [20]  # 4 was the last, 15 frames are half a second, the next one is longer
    assert tracker.flush() == []


def test_a_clock_that_is_set_back_keeps_no_track_alive():
    tracker = Tracker()
    for i in range(5):
        tracker.update([face(100)], frame(i))
    back = [Frame(IMAGE, i, START - timedelta(hours=1), "door.mp4") for i in range(5, 15)]
    assert sum(len(tracker.update([], late)[1]) for late in back) == 1


@pytest.mark.parametrize("step", [20, 60, 80])
def test_a_fast_face_keeps_its_track(step: int):
    """Up to 1.3 times its own width from one frame to the next."""
    scene = {i: [face(step * i)] for i in range(8)}
    assert len(follow(Tracker(), scene, 8)[1]) == 1


@pytest.mark.parametrize("other", [face(400), face(100, size=150)], ids=["far", "much larger"])
def test_another_face_is_another_track(other: Detection):
    scene = {i: [face(100)] if i < 6 else [other] for i in range(12)}
    assert len(follow(Tracker(), scene, 12)[1]) == 2


def test_when_one_of_two_neighbours_is_missed_the_other_keeps_its_track():
    scene = {i: [face(100), face(165)] if i != 10 else [face(165)] for i in range(20)}
    found, _ = follow(Tracker(), scene, 20)
    assert found[10] == [found[9][1]]


def photo(path: Path, shift: int = 0) -> np.ndarray:
    return np.roll(cv2.resize(cv2.imread(str(path)), (640, 360)), shift, axis=1)


def test_behind_a_cut_a_face_in_the_same_place_is_another_track(astronaut: Path, grace_hopper: Path):
    tracker, ended = Tracker(), []
    for i in range(12):
        _, over = tracker.update([face(100)], frame(i, image=photo(astronaut if i < 6 else grace_hopper)))
        ended += [(i, track.id) for track in over]
    assert ended == [(6, 1)]
    assert [(track.id, track.frames) for track in tracker.flush()] == [(2, 6)]


def test_a_camera_that_moves_quickly_makes_no_cut(astronaut: Path):
    tracker = Tracker()
    ended = [tracker.update([face(100)], frame(i, image=photo(astronaut, shift=90 * i)))[1] for i in range(12)]
    assert not any(ended)


@pytest.mark.parametrize("detections", range(1, CONFIRM))
def test_a_brief_false_detection_is_never_told(detections: int):
    found, ended = follow(Tracker(), {i: [face(100)] for i in range(detections)}, 30)
    assert ended == []
    assert found[0][0].id == 0


def test_now_and_then_a_false_detection_in_one_place_is_never_told():
    assert follow(Tracker(), {i: [face(100)] for i in range(0, 60, 6)}, 60)[1] == []


def test_ids_count_confirmed_tracks_only():
    scene = {i: [face(400)] if i == 0 else [face(100)] for i in range(10)}
    assert [track.id for track in follow(Tracker(), scene, 10)[1]] == [1]


def test_the_overlap_follows_its_definition_in_slow_loops():
    rng = np.random.default_rng(0)
    a, b = (np.hstack([rng.uniform(0, 50, (n, 2)), rng.uniform(5, 40, (n, 2))]) for n in (4, 3))
    for i, (ax, ay, aw, ah) in enumerate(a):
        for j, (bx, by, bw, bh) in enumerate(b):
            inner = max(0, min(ax + aw, bx + bw) - max(ax, bx)) * max(0, min(ay + ah, by + bh) - max(ay, by))
            iou = inner / (aw * ah + bw * bh - inner)
            apart = (ax + aw / 2 - bx - bw / 2) ** 2 + (ay + ah / 2 - by - bh / 2) ** 2
            diagonal = (max(ax + aw, bx + bw) - min(ax, bx)) ** 2 + (max(ay + ah, by + bh) - min(ay, by)) ** 2
            assert distance_iou(a, b)[i, j] == pytest.approx(iou - apart / diagonal)
    assert distance_iou(a, a).diagonal() == pytest.approx(np.ones(4))


def test_evidence_is_the_weighted_mean_as_a_unit_vector():
    evidence = Evidence()
    evidence.add(np.array([1, 0], np.float32), 3.0)
    evidence.add(np.array([0, 1], np.float32), 4.0)
    assert evidence.embedding == pytest.approx([0.6, 0.8])
    assert evidence.embedding.dtype == np.float32
    assert evidence.crops == 2
