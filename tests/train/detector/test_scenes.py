import cv2
import numpy as np
import pytest

from device import boxes
from train.detector import scenes
from train.detector.photos import Photo
from train.detector.scenes import DOUBT, FACE, MOST, Sources
from train.detector.teacher import NOBODY, Faces, mirrored

MARKS = [(0.3, 0.4), (0.7, 0.38), (0.5, 0.6), (0.35, 0.8), (0.68, 0.82)]  # shares of the face's box


def face_row(x, y, width, height, score=0.9):
    points = [(x + a * width, y + b * height) for a, b in MARKS]
    return np.array([x, y, width, height, *np.ravel(points), score], np.float32)


def spotted(rows, height=300, width=400):
    """A dark picture with a bright spot on every landmark."""
    image = np.full((height, width, 3), 20, np.uint8)
    for row in rows:
        for x, y in row[4:14].reshape(5, 2):
            cv2.circle(image, (round(float(x)), round(float(y))), max(int(row[2] / 12), 2), (255, 255, 255), -1)
    return image


@pytest.fixture(scope="module")
def sources():
    rows = np.stack([face_row(40, 60, 60, 70), face_row(240, 90, 90, 110), face_row(330, 20, 20, 24)])
    photo = Photo("spots", spotted(rows), Faces(rows, np.array([True, True, False])))
    return Sources([photo], [Photo("nobody", np.full((200, 300, 3), 90, np.uint8), NOBODY)])


def test_a_scene_is_the_same_for_the_same_seed(sources):
    first, again = (scenes.batch(sources, (3, 1), 4, 96, 128) for _ in range(2))
    other = scenes.batch(sources, (3, 2), 4, 96, 128)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[0], other[0])
    pictures, rows, kinds = first
    assert (pictures.shape, pictures.dtype) == ((4, 96, 128, 3), np.uint8)
    assert (rows.shape, rows.dtype, kinds.shape) == ((4, MOST, boxes.ROW), np.float32, (4, MOST))


def test_landmarks_stay_on_their_spots(sources, monkeypatch):
    """Whatever turned, scaled, mirrored or moved a face moved its landmarks."""
    monkeypatch.setattr(scenes, "_shot", lambda picture, rng: picture)
    monkeypatch.setattr(scenes, "_cover", lambda picture, faces, rng: None)
    pictures, rows, kinds = scenes.batch(sources, (0, 0), 60, 240, 320)
    seen = 0
    for picture, row in ((picture, row) for picture, each, kind in zip(pictures, rows, kinds, strict=True) for row in each[kind == FACE]):
        for x, y in np.round(row[4:14].reshape(5, 2)).astype(int):
            if row[2] >= 40 and 2 <= x < 318 and 2 <= y < 238:
                seen += 1
                assert picture[y - 2 : y + 3, x - 2 : x + 3].max() > 150
    assert seen > 100


def test_small_hidden_and_doubted_faces_are_no_faces(sources):
    _, rows, kinds = scenes.batch(sources, (1, 0), 80, 240, 320)
    sizes = np.sqrt(rows[..., 2] * rows[..., 3])
    assert sizes[kinds == FACE].min() >= scenes.SMALLEST
    assert (kinds == DOUBT).any()
    centres = rows[..., :2] + rows[..., 2:4] / 2
    inside = ((centres >= 0) & (centres <= (320, 240))).all(-1)
    assert inside[kinds == FACE].all()


def test_the_mirror_swaps_left_and_right():
    row = face_row(10, 20, 30, 40)[None]
    (turned,) = mirrored(row, 100)
    assert turned[0] == 100 - 10 - 30
    left_eye, right_eye = turned[4:6], turned[6:8]
    assert left_eye[0] < right_eye[0]
    np.testing.assert_allclose(left_eye, (100 - row[0, 6], row[0, 7]))
    np.testing.assert_allclose(mirrored(mirrored(row, 100), 100), row)


def test_a_turned_box_holds_the_turned_ellipse():
    row = face_row(10, 20, 30, 40)[None]
    angle = np.radians(35)
    turn = 2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    (found,) = scenes.moved(row, np.hstack([turn, [[5.0], [-7.0]]]))
    around = np.linspace(0, 2 * np.pi, 3600)
    ellipse = np.stack([25 + 15 * np.cos(around), 40 + 20 * np.sin(around)], axis=1) @ turn.T + (5, -7)
    np.testing.assert_allclose(found[:2], ellipse.min(0), atol=1e-2)
    np.testing.assert_allclose(found[:2] + found[2:4], ellipse.max(0), atol=1e-2)


def test_without_photos_of_nobody_or_crops(sources):
    alone = Sources(sources.photos, ())
    assert scenes.batch(alone, (0, 0), 3, 96, 128)[0].shape == (3, 96, 128, 3)


def test_varied_scenes_are_the_same_faces_elsewhere(sources, monkeypatch):
    """No scene is lost, landmarks stay on their spots, and faces that a part of the scene cuts off are none."""
    monkeypatch.setattr(scenes, "_shot", lambda picture, rng: picture)
    monkeypatch.setattr(scenes, "_cover", lambda picture, faces, rng: None)
    monkeypatch.setattr(scenes, "_light", lambda rng, share: np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)[:, None])
    given = scenes.batch(sources, (2, 0), 60, 240, 320)
    found = scenes.varied(*given, (2, 1))
    assert [(array.shape, array.dtype) for array in found] == [(array.shape, array.dtype) for array in given]
    for one, two in zip(found, scenes.varied(*given, (2, 1)), strict=True):
        np.testing.assert_array_equal(one, two)
    seen = 0
    for picture, rows, kinds in zip(*found, strict=True):
        for row in rows[kinds == FACE]:
            for x, y in np.round(row[4:14].reshape(5, 2)).astype(int):
                if row[2] >= 40 and 2 <= x < 318 and 2 <= y < 238:
                    seen += 1
                    assert picture[y - 2 : y + 3, x - 2 : x + 3].max() > 150
    assert seen > 100
    assert 0.7 < (found[2] == FACE).sum() / (given[2] == FACE).sum() <= 1


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0])
def test_what_is_warped_lies_where_its_row_says(scale):
    """To a tenth of a pixel, at every scale: the landmarks of small faces are a few pixels apart."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[16:32, 40:56] = 255
    onto = np.zeros((128, 192, 3), np.uint8)
    scenes._warp(image, np.array([[scale, 0, 3], [0, scale, 5]]), onto, cv2.BORDER_CONSTANT)
    weights = onto[..., 0] / onto[..., 0].sum()
    y, x = np.indices(weights.shape) + 0.5
    assert ((weights * x).sum(), (weights * y).sum()) == pytest.approx((48 * scale + 3, 24 * scale + 5), abs=0.1)


def test_a_photo_is_shown_from_the_level_of_its_scale(sources):
    photo = sources.photos[0]  # 400x300
    shapes = [photo.level(scale).shape[:2] for scale in (3.0, 1.0, 0.6, 0.5, 0.3, 0.25, 1e-4)]
    assert shapes == [(300, 400), (300, 400), (300, 400), (150, 200), (150, 200), (75, 100), (18, 25)]
