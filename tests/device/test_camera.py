import shutil
from datetime import timedelta, timezone

import cv2
import numpy as np
import pytest

from device.camera import open_camera, open_source, pictures_in, read_picture
from device.program import InputError, MissingError


@pytest.fixture
def video(tmp_path):
    """Twelve frames of 64x48 at 8 frames a second, each brighter than the one before."""
    path = tmp_path / "grey.avi"
    noise = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 8.0, (64, 48))
    for index in range(12):
        writer.write(np.clip(20 * index + noise.normal(0, 9, (48, 64, 3)), 0, 255).astype(np.uint8))
    writer.release()
    return path


def test_a_video_gives_its_frames_in_order_with_times(video):
    with open_source(str(video)) as source:
        frames = list(source)
    assert (source.live, source.stills, source.fps, source.name) == (False, False, 8.0, str(video))
    assert [frame.index for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.image.mean() for frame in frames], [20 * index for index in range(12)], atol=4)
    assert frames[0].image.shape == (48, 64, 3)
    assert frames[8].time - frames[0].time == timedelta(seconds=1)
    assert frames[0].time.tzinfo == timezone.utc


def test_a_cut_video_just_ends(video, tmp_path, capfd):
    whole = video.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: whole.rindex(b"00dc", 0, len(whole) // 2)])
    with open_source(str(cut)) as source:
        assert 0 < len(list(source)) < 12
    cut.write_bytes(whole[:1000])  # in its header
    with pytest.raises(InputError, match=r"cut\.avi cannot be read"):
        open_source(str(cut))
    assert capfd.readouterr().err == ""


def test_a_picture_is_a_source_of_one_frame(astronaut):
    with open_source(str(astronaut)) as source:
        (frame,) = source
    assert source.stills and not source.live
    np.testing.assert_array_equal(frame.image, read_picture(astronaut))


def test_a_folder_gives_its_pictures_by_name(astronaut, grace_hopper, tmp_path):
    shutil.copy(grace_hopper, tmp_path / "b.JPG")
    shutil.copy(astronaut, tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._a.png").write_text("what another system leaves behind")
    with open_source(str(tmp_path)) as source:
        shapes = [frame.image.shape for frame in source]
    assert source.stills
    assert shapes == [(512, 512, 3), (600, 512, 3)]


def test_a_damaged_picture_in_a_folder_is_told_and_passed_over(astronaut, tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(b"damaged")
    shutil.copy(astronaut, tmp_path / "b.png")
    with open_source(str(tmp_path)) as source:
        assert [frame.index for frame in source] == [0]
    assert "a.png cannot be read" in caplog.text
    (tmp_path / "b.png").unlink()
    with pytest.raises(InputError, match=r"no picture in .* can be read"):
        open_source(str(tmp_path))


def test_grey_and_transparent_pictures_become_colour(tmp_path):
    for name, image in (("grey.png", np.full((5, 7), 90, np.uint8)), ("alpha.png", np.full((5, 7, 4), 90, np.uint8))):
        cv2.imwrite(str(tmp_path / name), image)
        picture = read_picture(tmp_path / name)
        assert picture.shape == (5, 7, 3) and picture.dtype == np.uint8


def test_pictures_are_turned_as_their_exif_data_says(tmp_path):
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :40] = 255
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"  # orientation 6: to be turned by 90 degrees, clockwise
    exif = b"Exif\0\0MM\x00\x2a\x00\x00\x00\x08\x00\x01" + entry + b"\x00\x00\x00\x00"
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    picture = read_picture(tmp_path / "turned.jpg")
    assert picture.shape == (80, 40, 3)
    assert picture[:30].mean() > 250 and picture[50:].mean() < 5


@pytest.mark.parametrize(
    "name, content", [("empty.jpg", b""), ("text.png", b"hello"), ("empty.mp4", b""), ("noise.mp4", b"\x01\x7f" * 999), ("x", b"hello")]
)
def test_unreadable_files_are_told_and_nothing_else_is_said(tmp_path, name, content, capfd):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} cannot be read"):
        open_source(str(tmp_path / name))
    assert capfd.readouterr() == ("", "")


def test_a_picture_cut_short_is_unreadable_without_a_word_of_libpng(astronaut, tmp_path, capfd):
    (tmp_path / "cut.png").write_bytes(astronaut.read_bytes()[:50_000])
    with pytest.raises(InputError, match=r"cut\.png cannot be read"):
        read_picture(tmp_path / "cut.png")
    assert capfd.readouterr().err == ""


def test_what_is_not_there_is_told(tmp_path):
    for spec in ("none.mp4", "none.jpg"):
        with pytest.raises(InputError, match=f"{spec} is not there"):
            open_source(str(tmp_path / spec))
    with pytest.raises(InputError, match="the source has no name"):
        open_source("")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(InputError, match="is not a file"):
        read_picture(tmp_path / "folder.jpg")


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no picture"):
        open_source(str(tmp_path))
    with pytest.raises(InputError, match="holds no picture"):
        pictures_in(tmp_path)


def test_a_missing_camera_is_told(capfd):
    with pytest.raises(MissingError, match="camera 99 gives no picture"):
        open_camera(99)
    with pytest.raises(InputError, match="no camera -1"):
        open_camera(-1)
    assert capfd.readouterr().err == ""


def test_a_stream_that_does_not_answer_is_told_without_its_password(capfd):
    with pytest.raises(MissingError, match="gives no picture") as error:
        open_source("rtsp://user:secret@127.0.0.1:9/stream")
    assert "127.0.0.1:9/stream" in str(error.value) and "secret" not in str(error.value)
    assert capfd.readouterr().err == ""
