import shutil

import cv2
import numpy as np
import pytest

from device.align import align
from device.detect import Detection, MtcnnDetector
from train import prepare
from train.data import read_crops


def test_photos_become_crops_with_their_names(tmp_path, astronaut, grace_hopper, capsys):
    photos = tmp_path / "photos"
    (photos / "navy").mkdir(parents=True)
    shutil.copy(astronaut, photos / "eileen.png")
    shutil.copy(grace_hopper, photos / "navy" / "grace.jpg")
    cv2.imwrite(str(photos / "wall.png"), np.full((200, 200, 3), 90, np.uint8))
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    assert prepare.main([str(photos), "--out", str(tmp_path / "crops"), "--detector", "mtcnn"]) == 0
    printed = capsys.readouterr()
    assert "2 crops" in printed.out and "2 photos left out" in printed.out
    assert "wall.png: no face" in printed.err and "broken.jpg" in printed.err
    crops = read_crops([tmp_path / "crops"])
    assert crops.names == ["crops/eileen", "crops/navy/grace"]
    photo = cv2.imread(str(astronaut))
    expected = align(photo, MtcnnDetector().detect(photo)[0].landmarks)
    assert np.abs(crops.images[0].astype(int) - expected).mean() < 4, "the crop that enrolment would make, but for WebP"


def test_the_main_face_is_large_and_near_the_middle():
    def face(x, y, side):
        return Detection((x, y, side, side), np.zeros((5, 2), np.float32), 0.9)

    middle, corner, small = face(80, 80, 40), face(0, 0, 44), face(95, 95, 10)
    assert prepare.main_face([corner, middle, small], 200, 200) is middle
    assert prepare.main_face([small, corner], 200, 200) is corner


@pytest.mark.parametrize("content", [None, np.full((100, 100, 3), 40, np.uint8)])
def test_nothing_to_cut_is_status_2_and_writes_nothing(tmp_path, capsys, content):
    photos = tmp_path / "photos"
    photos.mkdir()
    if content is not None:
        cv2.imwrite(str(photos / "wall.png"), content)
    assert prepare.main([str(photos), "--out", str(tmp_path / "crops"), "--detector", "mtcnn"]) == 2
    assert "gave a crop" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "crops").exists()


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert prepare.main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "crops")]) == 2
    assert "is not there" in capsys.readouterr().err


@pytest.mark.slow
def test_crops_are_those_that_the_encoders_were_trained_on(tmp_path, data, yunet):
    """LFW's raw photos against the shared crops, which another program cut: the same pixels, but for compression."""
    import zipfile

    names = [f"{person}/{person}_0001" for person in ("Andy_Roddick", "Colin_Powell", "George_W_Bush")]
    with zipfile.ZipFile(data / "lfw" / "raw.zip") as archive:
        names = [name for name in names if f"{name}.jpg" in archive.namelist()]
        for name in names:
            archive.extract(f"{name}.jpg", tmp_path / "raw")
    assert prepare.main([str(tmp_path / "raw"), "--out", str(tmp_path / "crops"), "--detector-model", str(yunet)]) == 0
    ours = read_crops([tmp_path / "crops"])
    theirs = read_crops([data / "lfw" / "crops.zip"], only={name.replace("crops/", "crops/") for name in ours.names})
    assert ours.names == theirs.names
    assert len(ours) >= 2
    for mine, other in zip(ours.images.astype(int), theirs.images.astype(int), strict=True):
        assert np.abs(mine - other).mean() < 6
