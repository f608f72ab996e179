import argparse

import cv2
import numpy as np
import pytest

from device.align import align
from device.boxes import iou
from device.camera import open_source, read_picture
from device.detect import BlazefaceDetector, Detection, YunetDetector, add_arguments, differs, of_arguments, open_detector
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


@pytest.fixture(scope="module")
def blazeface(data):
    return BlazefaceDetector(data / "edgetpu" / "pairs" / "zye_face_detection_front_128_full_integer_quant" / "model.tflite")


@pytest.mark.parametrize("photo", ["astronaut", "grace_hopper"])
def test_blazeface_agrees_with_mtcnn(blazeface, mtcnn, photo, request):
    """Its mouth is one point, of which the corners are made."""
    image = np.ascontiguousarray(read_picture(request.getfixturevalue(photo))[:320, 90:410])  # it is for faces near the camera
    (face,), (other,) = blazeface.detect(image), mtcnn.detect(image)
    apart = np.linalg.norm(face.landmarks - other.landmarks, axis=1) / np.linalg.norm(other.landmarks[1] - other.landmarks[0])
    assert apart.max() < 0.3
    assert iou(np.array([face.box]), np.array([other.box]))[0, 0] > 0.4


def test_blazeface_takes_any_frame(blazeface):
    rng = np.random.default_rng(0)
    for shape in ((1, 1, 3), (2, 3), (1, 3000, 3), (700, 1, 3), (480, 640, 4)):
        for face in blazeface.detect(rng.integers(0, 256, shape, np.uint8)):
            assert np.isfinite(face.row).all()


def test_a_detection_comes_back_from_its_row():
    face = Detection((1.5, 2.0, 30.0, 40.0), np.arange(10, dtype=np.float32).reshape(5, 2), 0.5)
    again = Detection.of(face.row)
    assert (again.box, again.score) == (face.box, face.score)
    np.testing.assert_array_equal(again.landmarks, face.landmarks)


def test_models_that_are_others_are_told(data, bundle_path, tmp_path):
    for name, model, wrong in (
        ("blazeface", None, "BlazeFace needs its model"),
        ("blazeface", bundle_path / "encoder.tflite", "is not BlazeFace"),
        ("blazeface", tmp_path / "none.tflite", "cannot be read"),
        ("omokage", tmp_path, "is not a bundle"),
    ):
        with pytest.raises(InputError, match=wrong):
            open_detector(name, model)


def test_the_working_size_is_chosen(yunet, astronaut):
    image = read_picture(astronaut)
    for name, model in (("yunet", yunet), ("mtcnn", None)):
        detector = open_detector(name, model, 320)
        assert detector.size == 320
        (face,) = detector.detect(image)
        np.testing.assert_allclose(face.landmarks[2], (228, 130), atol=8)
    for name, size, wrong in (("yunet", 63, "at least 64"), ("mtcnn", -1, "at least 64"), ("blazeface", 320, "128 pixels only")):
        with pytest.raises(InputError, match=wrong):
            open_detector(name, astronaut if name == "blazeface" else None, size)


def test_templates_of_another_detector_are_told_of(mtcnn):
    assert differs({}, mtcnn) is None and differs({"mtcnn": 4}, mtcnn) is None
    told = differs({"mtcnn": 4, "yunet": 3, "omokage": 1}, mtcnn)
    assert told and "of 8 templates 1 with omokage and 3 with yunet" in told and "with mtcnn now" in told


def test_options_for_small_faces_and_still_scenes():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["--detector", "mtcnn", "--min-face", "30", "--skip-still"])
    detector = of_arguments(args)
    assert (detector.name, detector.size) == ("mtcnn", 640)
    assert detector.detect(np.zeros((90, 120, 3), np.uint8)) == []
    with pytest.raises(InputError, match="--min-face"):
        of_arguments(parser.parse_args(["--detector", "mtcnn", "--min-face", "0"]))
