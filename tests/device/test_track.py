import itertools
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.camera import Frame
from device.detect import Detection
from device.quality import Quality
from device.track import CONFIRM, FADE, FIRM, NEAR, Cuts, Evidence, Tracker, assign, distance_iou

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
IMAGE = np.zeros((360, 640, 3), np.uint8)
E1, E2 = np.eye(2, 4, dtype=np.float32)
NOTHING = np.full(4, np.nan, np.float32)


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


def test_a_cut_is_told_from_the_frames_about_it(astronaut: Path, grace_hopper: Path):
    cuts = Cuts()
    assert [i for i in range(12) if cuts(photo(astronaut if i < 6 else grace_hopper))] == [6]


def test_a_camera_that_moves_quickly_makes_no_cut(astronaut: Path):
    cuts = Cuts()
    assert not any(cuts(photo(astronaut, shift=90 * i)) for i in range(12))


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 2000, 3), (2000, 3, 3)])
def test_frames_of_any_shape_make_no_cut(shape):
    cuts = Cuts()
    assert not any(cuts(np.full(shape, 90, np.uint8)) for _ in range(3))


def test_behind_a_cut_a_face_in_the_same_place_is_another_track():
    tracker = Tracker()
    for i in range(6):
        tracker.update([face(100)], frame(i))
    assert [track.id for track in tracker.flush()] == [1]
    for i in range(6, 12):
        tracker.update([face(100)], frame(i))
    assert [(track.id, track.frames) for track in tracker.flush()] == [(2, 6)]


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
    evidence.add(E1, Quality(0.3 / FADE, "blurred"))  # older: it has faded by then
    evidence.add(E2, Quality(0.4, "blurred"))
    assert evidence.embedding == pytest.approx([0.6, 0.8, 0, 0])
    assert evidence.embedding.dtype == np.float32
    assert evidence.crops == 2


def test_the_quality_of_evidence_is_the_mean_of_its_crops():
    evidence = Evidence()
    assert evidence.quality == 0
    evidence.see(Quality(0.1, "too small"))
    assert (evidence.quality, evidence.crops, evidence.best.fault) == (0.1, 0, "too small")
    for value in (0.4, 0.8):
        evidence.add(E1, Quality(value, "blurred"))
    assert 0.6 < evidence.quality < 0.62  # the newer one counts a little more
    assert evidence.best.value == 0.8


def test_old_crops_fade_so_that_another_person_in_the_same_place_shows():
    evidence = Evidence()
    for _ in range(200):
        evidence.add(E1, Quality(1.0, "blurred"))
    for _ in range(15):
        evidence.add(E2, Quality(1.0, "blurred"))
    assert evidence.embedding @ E2 > evidence.embedding @ E1


def seen(tracker: Tracker, looks: dict[float, np.ndarray], index: int) -> list:
    """The tracks of faces that look like this at these places; what they look like becomes evidence."""
    asked: list[int] = []
    rows = np.array([*looks.values()])

    def embed(numbers):
        asked.extend(numbers)
        return rows[list(numbers)]

    tracks, _ = tracker.update([face(x) for x in looks], frame(index), embed)
    for track, row in zip(tracks, rows, strict=True):
        if not np.isnan(row).any():
            track.evidence.add(row, Quality(1.0, "blurred"))
    return [tracks, asked]


def test_faces_that_stand_apart_need_no_look_at_who_they_are():
    tracker = Tracker(like=0.4)
    assert [seen(tracker, {100 + i: E1, 400 - i: E2}, i)[1] for i in range(10)] == [[]] * 10


def test_two_who_cross_keep_their_tracks_by_what_they_look_like():
    """They change places between two looks: by their places alone each would go on as the other."""
    tracker = Tracker(like=0.4)
    (one, two), _ = seen(tracker, {200: E1, 240: E2}, 0)
    (left, right), asked = seen(tracker, {200: E2, 240: E1}, 1)
    assert (left, right) == (two, one)
    assert sorted(asked) == [0, 1]


@pytest.mark.parametrize(("look", "same"), [(E1, True), (E2, False), (NOTHING, True)], ids=["same", "other", "cannot tell"])
def test_a_face_that_jumped_is_the_same_if_it_looks_so(look, same):
    """Where nothing can be said about who it is, the place decides, as without looks."""
    tracker = Tracker(like=0.4)
    (before,), _ = seen(tracker, {100: E1}, 0)
    (after,), asked = seen(tracker, {170: look}, 1)
    assert (after is before) == same
    assert asked == [0]


@pytest.mark.parametrize(("look", "same"), [(E1, True), (E2, False), (NOTHING, False)], ids=["same", "other", "cannot tell"])
def test_a_face_that_was_missed_is_found_elsewhere_if_it_looks_the_same(look, same):
    tracker = Tracker(like=0.4)
    (before,), _ = seen(tracker, {100: E1}, 0)
    tracker.update([], frame(1))
    (after,), _ = seen(tracker, {500: look}, 2)
    assert (after is before) == same


def test_a_face_that_was_not_missed_is_nowhere_else_whatever_it_looks_like():
    tracker = Tracker(like=0.4)
    (before,), _ = seen(tracker, {100: E1}, 0)
    (still, twin), _ = seen(tracker, {100: E1, 500: E1}, 1)
    assert still is before
    assert twin is not before


def test_frames_between_two_looks_count():
    tracker = Tracker(like=0.4)
    for index in (0, 1, 2, 5, 8, 11):
        ((track,), _) = tracker.update([face(100)], frame(index))
    assert (track.frames, track.found) == (12, 6)
    tracker.update([], frame(14))
    tracker.update([face(100)], frame(15))
    assert track.frames == 13  # it may not have been there when it was missed


def test_calm_is_when_all_are_confirmed_and_there():
    tracker = Tracker(like=0.4)
    assert tracker.calm
    calm = []
    for index in range(4):
        tracker.update([face(100)], frame(index))
        calm.append(tracker.calm)
    tracker.update([], frame(4))
    assert [*calm, tracker.calm] == [False, False, True, True, False]


boxes = st.tuples(st.floats(-50, 600), st.floats(-50, 300), st.floats(5, 200), st.floats(5, 200))


@given(st.lists(boxes, min_size=1, max_size=5), st.lists(boxes, min_size=1, max_size=5), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_an_assignment_is_the_best_there_is_by_trying_all(old, new, random):
    near = distance_iou(np.array(old), np.array(new))
    likeness = np.array([[random.choice([np.nan, random.uniform(-1, 1)]) for _ in new] for _ in old])

    def worth(pairs) -> float:
        return sum(max(near[i, j], NEAR) + np.nan_to_num(likeness[i, j]) + 10 for i, j in pairs)

    def allowed(i: int, j: int) -> bool:
        if np.isnan(likeness[i, j]):
            return near[i, j] > NEAR
        return near[i, j] >= FIRM or likeness[i, j] >= 0

    short, long, turned = (old, new, False) if len(old) <= len(new) else (new, old, True)
    best = 0.0
    for order in itertools.permutations(range(len(long)), len(short)):
        pairs = [(b, a) if turned else (a, b) for a, b in zip(range(len(short)), order, strict=True)]
        best = max(best, worth([pair for pair in pairs if allowed(*pair)]))
    found = assign(near, likeness)
    assert all(allowed(*pair) for pair in found)
    assert len({i for i, _ in found}) == len({j for _, j in found}) == len(found)
    assert worth(found) == pytest.approx(best)
