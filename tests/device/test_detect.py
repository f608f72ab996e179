import argparse

import cv2
import numpy as np
import pytest

from device.align import align
from device.camera import open_source, read_picture
from device.detect import YunetDetector, add_arguments, open_detector
from device.program import InputError

MIRRORED = [1, 0, 2, 4, 3]  # what a landmark becomes in a mirror


def test_finds_the_landmarks_of_a_face(detector, astronaut):
    (face,) = detector.detect(read_picture(astronaut))
    eyes_nose_mouth = [(207, 103), (250, 104), (228, 130), (205, 142), (247, 145)]  # read off the picture by eye
    assert face.landmarks.dtype == np.float32
    np.testing.assert_allclose(face.landmarks, eyes_nose_mouth, atol=5)
    x, y, width, height = face.box
    assert (x < face.landmarks[:, 0]).all() and (face.landmarks[:, 0] < x + width).all()
    assert (y < face.landmarks[:, 1]).all() and (face.landmarks[:, 1] < y + height).all()
    assert 0.6 < face.score <= 1


@pytest.mark.parametrize("photo", ["astronaut", "grace_hopper"])
def test_mtcnn_leans_to_neither_side(mtcnn, photo, request):
    """The engine of OpenCV 5.0 alone would move all its landmarks by a 48th of the face."""
    image = read_picture(request.getfixturevalue(photo))
    (face,), (mirrored,) = mtcnn.detect(image), mtcnn.detect(np.ascontiguousarray(image[:, ::-1]))
    back = image.shape[1] - 1 - mirrored.landmarks[MIRRORED, 0]
    assert abs((face.landmarks[:, 0] - back).mean() / 2) < face.box[2] / 100


def test_landmarks_follow_the_size_of_the_picture(detector, astronaut):
    image = read_picture(astronaut)
    (small,), (large,) = detector.detect(image), detector.detect(cv2.resize(image, None, fx=8, fy=8))
    np.testing.assert_allclose(large.landmarks / 8, small.landmarks, atol=0.04 * small.box[2])


def test_several_faces_come_best_first(detector, astronaut, grace_hopper):
    both = np.hstack([read_picture(astronaut), read_picture(grace_hopper)[:512]])
    faces = detector.detect(both)
    assert sorted(face.landmarks[2, 0] > 512 for face in faces) == [False, True]
    assert faces[0].score >= faces[1].score


def test_a_face_that_fills_the_picture_is_found(detector, mtcnn, astronaut):
    image = read_picture(astronaut)
    crop = cv2.cvtColor(align(image, mtcnn.detect(image)[0].landmarks), cv2.COLOR_RGB2BGR)
    (face,) = detector.detect(crop)
    np.testing.assert_allclose(face.landmarks[:2], [(38, 52), (74, 52)], atol=4)


def test_grey_and_transparent_frames_are_frames(detector, astronaut):
    image = read_picture(astronaut)
    for frame in (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]):
        assert len(detector.detect(frame)) == 1
    (face,), (same,) = detector.detect(image), detector.detect(cv2.cvtColor(image, cv2.COLOR_BGR2BGRA))
    assert face.box == same.box


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 3), (1, 3000, 3), (700, 1, 3), (12, 12, 3), (480, 640, 3)])
def test_no_face_in_noise_of_any_shape(detector, shape):
    assert detector.detect(np.random.default_rng(0).integers(0, 256, shape, np.uint8)) == []


def test_a_huge_frame_is_no_trouble(detector):
    assert detector.detect(np.zeros((9000, 12000, 3), np.uint8)) == []


def test_what_is_no_frame_is_refused(detector):
    for wrong in (np.zeros((9, 9, 3), np.float32), np.zeros((0, 9, 3), np.uint8), np.zeros(9, np.uint8)):
        with pytest.raises(ValueError, match="a frame is uint8"):
            detector.detect(wrong)


def test_every_frame_of_the_clips_shows_its_face(data, yunet):
    """The working size was chosen for speed; this is what it may not cost."""
    detector = YunetDetector(yunet)
    for clip in ("p2-a.mp4", "p4-a.mp4", "p6-a.mpg"):
        with open_source(str(data / "clips" / clip)) as source:
            faces = [len(detector.detect(frame.image)) for frame in source if frame.index % 10 == 0]
        assert faces == [1] * len(faces)


def test_auto_is_yunet_where_its_model_is_named(yunet, monkeypatch):
    assert open_detector().name == "mtcnn"
    assert open_detector("auto", yunet).name == "yunet"
    monkeypatch.setenv("OMOKAGE_YUNET", str(yunet))
    assert open_detector().name == "yunet"
    assert open_detector("mtcnn").name == "mtcnn"


def test_bad_choices_are_told(astronaut, tmp_path):
    for name, model, wrong in (
        ("yunet", None, "YuNet needs its model"),
        ("mtcnn", astronaut, "brings its own model"),
        ("yunet", tmp_path / "none.onnx", "is not there"),
        ("auto", astronaut, "cannot load .*astronaut.png as YuNet"),
        ("haar", None, "no detector haar"),
    ):
        with pytest.raises(InputError, match=wrong):
            open_detector(name, model)


def test_options_lead_to_a_detector(tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([])
    assert open_detector(args.detector, args.detector_model).name == "mtcnn"
    args = parser.parse_args(["--detector", "yunet", "--detector-model", str(tmp_path / "x")])
    with pytest.raises(InputError, match="is not there"):
        open_detector(args.detector, args.detector_model)


def test_mtcnn_gets_rgb(mtcnn, monkeypatch):
    class Spy:
        def detect_faces(self, image: np.ndarray) -> list:
            assert image[300, 300].tolist() == [10, 100, 250]
            return []

    monkeypatch.setattr(mtcnn, "_net", Spy())
    assert mtcnn.detect(np.full((600, 600, 3), (250, 100, 10), np.uint8)) == []
