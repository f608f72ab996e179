import zipfile

import cv2
import numpy as np
import pytest

from device.program import InputError
from train import data


@pytest.fixture
def folder(tmp_path):
    """Three crops, each of one grey value, below faces/."""
    for name, value in (("a", 10), ("sub/b", 20), ("c", 30)):
        path = tmp_path / "faces" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.full((112, 112, 3), value, np.uint8)
        image[..., 2] = 255  # red, in OpenCV's order
        cv2.imwrite(str(path), image)
    return tmp_path / "faces"


def test_a_folder_and_a_zip_give_the_same(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(folder))
    crops = data.read_crops([folder])
    assert crops.names == ["faces/a", "faces/c", "faces/sub/b"]
    assert crops.images[:, 0, 0].tolist() == [[255, 10, 10], [255, 30, 30], [255, 20, 20]]
    zipped = data.read_crops([tmp_path / "faces.zip"])
    assert zipped.names == crops.names
    np.testing.assert_array_equal(zipped.images, crops.images)


def test_lists_leave_out_and_choose(folder):
    assert data.read_crops([folder], without={"faces/c"}).names == ["faces/a", "faces/sub/b"]
    assert data.read_crops([folder], only={"faces/c"}).names == ["faces/c"]


def test_bad_input_says_what_and_what_to_do(folder, tmp_path):
    with pytest.raises(InputError, match="neither a folder nor a zip"):
        data.read_crops([tmp_path / "nothing"])
    with pytest.raises(InputError, match="no crops in"):
        data.read_crops([folder], only=set())
    (folder / "d.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match="faces/d is not a readable picture"):
        data.read_crops([folder])
    cv2.imwrite(str(folder / "d.png"), np.zeros((50, 60, 3), np.uint8))
    with pytest.raises(InputError, match=r"faces/d is 60x50, a crop is 112x112: make crops of your photos with train/prepare\.py"):
        data.read_crops([folder])
    with pytest.raises(InputError, match="cannot read the list"):
        data.read_list(tmp_path / "missing.txt")


def test_pairs_files_are_read_as_the_protocol_says(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("2\t1\nA_B\t1\t4\nA_B\t2\tC\t13\nD\t1\t2\nD\t1\tE\t1\n")
    pairs = data.read_pairs(path)
    assert pairs.left == ["A_B/A_B_0001", "A_B/A_B_0002", "D/D_0001", "D/D_0001"]
    assert pairs.right == ["A_B/A_B_0004", "C/C_0013", "D/D_0002", "E/E_0001"]
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.folds.tolist() == [0, 0, 1, 1]
    path.write_text("1\nA\t1\t2\nA\t1\tB\t1\n")
    assert data.read_pairs(path).folds.tolist() == [0, 0]


@pytest.mark.parametrize("text", ["", "10\t300\n", "x\n", "1\nA\t1\t2\nA\tx\tB\t1\n", "1\nA\t1\nB\t1\n"])
def test_a_damaged_pairs_file(tmp_path, text):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(InputError, match="is not an LFW protocol file"):
        data.read_pairs(tmp_path / "pairs.txt")


def test_the_real_protocol(request):
    pairs = data.read_pairs(request.getfixturevalue("data") / "lfw" / "pairs.txt")
    assert len(pairs.same) == 6000
    assert pairs.same.sum() == 3000
    assert np.bincount(pairs.folds).tolist() == [600] * 10
