import shutil
import stat
from collections import namedtuple
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from device import outputs
from device.camera import Frame, Source, open_source
from device.outputs import Film, NoRoom, Snapshots
from device.program import InputError

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
IMAGE = np.full((48, 64, 3), 90, np.uint8)


@pytest.fixture
def disk(monkeypatch):
    """disk(5): there are so many megabytes left."""

    def left(megabytes: float) -> None:
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2**40, 0, int(megabytes * 2**20)))

    return left


def frame(index: int) -> Frame:
    return Frame(IMAGE, index, START + timedelta(seconds=index / 15), "door.mp4")


def event(second: int, track: int = 1, decision: str = "known") -> dict:
    return {"event": "seen", "time": f"2026-01-31T09:05:{second:02}.250Z", "track": track, "decision": decision, "name": "A/B"}


def test_a_film_on_a_full_disk_keeps_what_it_has(tmp_path: Path, disk):
    disk(500)
    path = tmp_path / "film.mp4"
    with Film(path, Source("door.mp4", [], fps=15.0)) as film:
        for index in range(10):
            film.take(frame(index), IMAGE)
        disk(3)
        with pytest.raises(NoRoom, match="only 3 MB are free"):
            film.take(frame(10), IMAGE)
        film.close()
        assert path.is_file()
    assert len(list(open_source(str(path)))) == 10
    assert list(tmp_path.iterdir()) == [path]


def test_a_snapshot_for_each_event_for_the_owner_alone(tmp_path: Path):
    folder = tmp_path / "seen" / "here"
    Snapshots(folder).take([event(0), event(0, 2, "unknown")], IMAGE)
    names = ["20260131T090500.250Z-1-known.jpg", "20260131T090500.250Z-2-unknown.jpg"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in names:
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        assert cv2.imread(str(folder / name)).shape == IMAGE.shape


def test_of_many_snapshots_the_newest_are_kept_and_other_files_too(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(outputs, "KEEP", 3)
    (tmp_path / "mine.jpg").touch()
    snapshots = Snapshots(tmp_path)
    for second in range(6):
        snapshots.take([event(second)], IMAGE)
    assert sorted(path.name[13:15] for path in tmp_path.iterdir()) == ["", "03", "04", "05"]


def test_on_a_full_disk_there_is_no_snapshot(tmp_path: Path, disk):
    disk(500)
    snapshots = Snapshots(tmp_path)
    disk(3)
    with pytest.raises(NoRoom):
        snapshots.take([event(0)], IMAGE)
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_that_cannot_be_written_leaves_no_half(tmp_path: Path, monkeypatch):
    def fail(self, content):
        raise OSError(28, "No space left on device")

    snapshots = Snapshots(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        snapshots.take([event(0)], IMAGE)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_one_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write snapshots to"):
        Snapshots(tmp_path / "file")
    with pytest.raises(InputError, match="cannot write snapshots to"):
        Snapshots(tmp_path / "file" / "folder")
