import cv2
import numpy as np
import pytest

from device.camera import read_picture
from device.program import InputError
from train.detector import photos, teacher
from train.detector.agreement import agreement
from train.detector.teacher import Faces


@pytest.fixture(scope="module")
def sees(data):
    if int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip("this YuNet model needs OpenCV 5")
    return teacher.Teacher(data / "detectors" / "yunet_n_dynamic.onnx")


def test_it_sees_faces_of_all_sizes_and_nobody_in_noise(sees, astronaut):
    image = read_picture(astronaut)
    whole, small, close = image, cv2.resize(image, (150, 150), interpolation=cv2.INTER_AREA), image[40:200, 150:310]
    left, right = 204, 247  # where YuNet has the eyes
    for picture, eyes in ((whole, (left, right)), (small, (left * 150 / 512, right * 150 / 512)), (close, (left - 150, right - 150))):
        found = sees.see(picture)
        assert found.sure.sum() == 1
        np.testing.assert_allclose(found.rows[found.sure][0, [4, 6]], eyes, atol=0.02 * picture.shape[1])
    assert not sees.see(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)).sure.any()


def test_answers_are_kept_and_go_on_where_they_broke_off(sees, astronaut, tmp_path, monkeypatch):
    image = cv2.resize(read_picture(astronaut), (256, 256), interpolation=cv2.INTER_AREA)
    pictures = [image, image[::-1].copy(), np.ascontiguousarray(image[:, ::-1])]
    monkeypatch.setattr(teacher, "SAVED_EVERY", 1)
    calls = []

    class Broken:
        identity = sees.identity

        def see(self, photo):
            calls.append(photo)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return sees.see(photo)

    with pytest.raises(KeyboardInterrupt):
        teacher.labels(Broken(), pictures, tmp_path)
    found = teacher.labels(Broken(), pictures, tmp_path)
    assert len(calls) == 4  # the two that were done are not asked again
    again = teacher.labels(Broken(), pictures, tmp_path)
    assert len(calls) == 4
    for one, two, picture in zip(found, again, pictures, strict=True):
        np.testing.assert_array_equal(one.rows, two.rows)
        np.testing.assert_array_equal(one.sure, sees.see(picture).sure)
    teacher.labels(Broken(), pictures[:1], tmp_path)
    assert len(calls) == 5  # other photos are other answers


def named(tmp_path, *names):
    for name in names:
        (tmp_path / "set").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "set" / name), np.zeros((8, 9, 3), np.uint8))
    return tmp_path / "set"


def test_photos_that_are_left_out_stay_out(tmp_path):
    """noface_test.txt names them as they are called in the zip, cohort.txt as train/data.py calls them."""
    folder = named(tmp_path, "a.png", "b.png", "c.chip.png", "d.png")
    assert set(photos.read([folder], {"a.png", "set/b", "c.chip"})) == {"set/d"}
    assert set(photos.read([folder], every=2)) == {"set/a", "set/c.chip"}


def test_the_photos_for_tests_are_never_read(data, monkeypatch):
    """All 300 of them, and no other, whatever their names look like."""
    monkeypatch.setattr(photos.cv2, "imdecode", lambda encoded, flags: np.zeros((1, 1, 3), np.uint8))  # which takes its time
    without = {line.strip() for line in (data / "noface_test.txt").read_text().splitlines() if line.strip()}
    found = set(photos.read([data / "noface.zip"], without))
    assert len(found) == 846 - len(without)
    assert not {name.split("/")[1] for name in found} & {name.removesuffix(".webp") for name in without}


def test_unreadable_photos_are_told(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match="broken is not a readable picture"):
        photos.read([tmp_path])
    with pytest.raises(InputError, match="neither a folder nor a zip"):
        photos.read([tmp_path / "none.zip"])


def test_what_is_kept_back_depends_on_the_name_alone(tmp_path):
    every = photos.empty({f"set/{number}": np.zeros((1, 1, 3), np.uint8) for number in range(500)})
    kept, aside = photos.kept_back(every)
    assert 20 < len(aside) < 80 and len(kept) + len(aside) == 500
    assert {photo.name for photo in photos.kept_back(every[:250])[1]} == {p.name for p in aside} & {p.name for p in every[:250]}


def row(x, y, side, score=0.9):
    points = [(x + a * side, y + b * side) for a, b in ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))]
    return np.array([x, y, side, side, *np.ravel(points), score], np.float32)


def test_agreement_counts_what_a_person_would():
    seen = Faces(np.stack([row(0, 0, 50), row(100, 0, 50), row(200, 0, 50)]), np.array([True, True, False]))
    moved = row(0, 0, 50)
    moved[4:14] += 2.0  # every landmark by 2 pixels right and 2 down; the eyes are 20 apart
    found = np.stack([moved, row(130, 0, 50), row(203, 0, 50), row(300, 100, 50)])
    told = agreement([(found, seen), (np.empty((0, 15), np.float32), seen)])
    assert (told.photos, told.wanted, len(told.errors)) == (2, 4, 1)
    assert told.recall == 0.25
    assert told.landmarks == pytest.approx(np.sqrt(8) / 20, rel=1e-5)
    assert told.false == 2  # the one beside its face, and the one where nobody is; on a doubt it is not counted


def test_agreement_about_nobody():
    told = agreement([(np.empty((0, 15), np.float32), teacher.NOBODY)])
    assert (told.recall, told.false) == (1.0, 0) and np.isnan(told.landmarks)
