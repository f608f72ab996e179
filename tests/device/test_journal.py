import json
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from device import bundle, enroll, recognize
from device.draw import recording
from device.gallery import default_path
from device.journal import FILE, Journal, default_folder
from device.program import InputError, StoredError
from device.recorder import Recorder
from device.track import Track

KEY = bytes(range(32))


def event(kind: str = "seen", track: int = 1, name: str | None = "Ada", **more) -> dict:
    facts = {"time": "2026-01-31T09:05:00.250Z", "decision": "known" if name else "unknown", "score": 0.5, "quality": 0.9, "source": "door"}
    return {"event": kind, "track": track, "name": name, "runner_up": None} | facts | more


def face(seed: int = 0) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=128).astype(np.float32)
    return vector / np.linalg.norm(vector)


CROP = np.full((112, 112, 3), 90, np.uint8)


@pytest.fixture
def journal(tmp_path: Path):
    with Journal(tmp_path / "journal", create=True) as opened:
        yield opened


def test_a_visit_is_what_its_events_said_last(journal: Journal):
    journal.write("run", event(name=None), face(), CROP)
    journal.write("run", event("changed"), None, None)
    journal.write("run", event("gone", first="2026-01-31T09:05:00.000Z", last="2026-01-31T09:06:00.000Z"), None, None)
    (visit,) = journal.visits()
    assert (visit.name, visit.decision, visit.over, visit.crop) == ("Ada", "known", True, True)
    assert visit.last == "2026-01-31T09:06:00.000Z"
    picture = cv2.imdecode(np.frombuffer(journal.crop(visit.number) or b"", np.uint8), cv2.IMREAD_COLOR)
    assert abs(int(picture[50, 50, 0]) - 90) <= 2


def test_a_face_can_be_enrolled_from_its_visit(journal: Journal, bundle_path: Path, other_encoder: Path):
    used = bundle.load(bundle_path)
    journal.made_by(used.encoder, "yunet")
    journal.write("run", event(), face(3), None)
    journal.write("run", event(track=2), None, None)
    first, second = sorted(journal.visits(), key=lambda visit: visit.number)
    template = journal.template(first, used)
    assert np.allclose(template.embedding, face(3)) and template.detector == "yunet" and template.encoder == used.encoder
    with pytest.raises(InputError, match="no face was kept"):
        journal.template(second, used)
    with pytest.raises(InputError, match="another encoder"):
        journal.template(first, bundle.load(other_encoder))
    journal.made_by("f" * 16, "yunet")
    with pytest.raises(InputError, match="no face was kept"):
        journal.template(first, bundle.load(other_encoder))


def test_days_questions_and_unknowns(journal: Journal):
    journal.write("run", event(track=1), None, CROP)
    journal.write("run", event("gone", 2, None, decision="review", runner_up={"name": "Bo", "score": 0.3}), face(), None)
    journal.write("run", event(track=3, name=None, unknown={"number": 7, "visits": 2}, time="2026-02-01T08:00:00.000Z"), None, CROP)
    day = datetime(2026, 1, 31, tzinfo=timezone.utc)
    assert {visit.name for visit in journal.visits(day, day + timedelta(days=1))} == {"Ada", None}
    (question,) = journal.open_questions()
    assert (question.guess, question.name) == ("Bo", None)
    assert [visit.unknown for visit in journal.of_unknown(7)] == [7]
    journal.answer(question.number, "no", 12)
    assert journal.open_questions() == [] and journal.visit(question.number).answer == "no"
    journal.take_back(12)
    assert len(journal.open_questions()) == 1


def test_names_follow_and_go(journal: Journal):
    journal.write("run", event(track=1), None, None)
    journal.write("run", event(track=2, name=None, decision="review", runner_up={"name": "Ada", "score": 0.3}), None, None)
    journal.write("run", event(track=3, name="Bo"), None, None)
    journal.rename("Ada", "Ada L.")
    assert {(visit.name, visit.guess) for visit in journal.visits()} == {("Ada L.", None), (None, "Ada L."), ("Bo", None)}
    assert journal.prune(["Bo"]) == 2
    assert [visit.name for visit in journal.visits()] == ["Bo"]
    assert b"Ada" not in journal.path.read_bytes()


def test_what_is_old_goes(journal: Journal):
    journal.write("run", event(), face(), CROP)
    journal.expire(7, datetime(2026, 2, 6, tzinfo=timezone.utc))
    assert len(journal.visits()) == 1
    journal.expire(7, datetime(2026, 2, 8, tzinfo=timezone.utc))
    assert journal.visits() == []


def test_the_oldest_go_where_they_are_too_many(journal: Journal, monkeypatch):
    monkeypatch.setattr("device.journal.MOST", 2)
    for hour in range(4):
        journal.write("run", event(track=hour, time=f"2026-01-31T0{hour}:00:00.000Z"), None, None)
    journal.expire(3650)
    assert [visit.first[11:13] for visit in journal.visits()] == ["03", "02"]


def test_with_a_key_nothing_can_be_read_without_it(tmp_path: Path):
    with Journal(tmp_path, KEY, create=True) as journal:
        journal.write("run", event(name="Hedwig"), face(), CROP)
        assert journal.visits()[0].name == "Hedwig"
        content = journal.path.read_bytes()
        assert b"Hedwig" not in content and face().tobytes()[:64] not in content
    for other in (None, bytes(32)):
        with pytest.raises(StoredError, match="sealed with another key"):
            Journal(tmp_path, other)
    with Journal(tmp_path, KEY) as journal:
        assert len(journal.visits()) == 1
    with Journal(tmp_path, bytes(32), create=True) as journal:  # a recogniser with the gallery's new key
        assert journal.visits() == []


def test_it_is_its_owners_alone(tmp_path: Path):
    with Journal(tmp_path / "sub" / "journal", create=True) as journal:
        assert journal.path.stat().st_mode & 0o777 == 0o600
        assert journal.path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be looked at" * 20, b"SQLite format 3\0" + bytes(200)])
def test_a_file_that_is_no_journal(tmp_path: Path, content: bytes):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(StoredError, match="no journal or is damaged"):
        Journal(tmp_path)


def test_where_there_is_none(tmp_path: Path):
    with pytest.raises(InputError, match="there is no journal"):
        Journal(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        Journal(tmp_path / "file", create=True)


def test_a_newer_schema_is_left_alone(journal: Journal):
    journal._db.execute("PRAGMA user_version = 9")
    with pytest.raises(StoredError, match="update Omokage"):
        Journal(journal.path.parent)


def test_only_one_recogniser_writes(tmp_path: Path, bundle_path: Path):
    used = bundle.load(bundle_path)
    recorder = Recorder(tmp_path, used, "yunet", print)
    with pytest.raises(InputError, match="another recogniser writes"):
        Recorder(tmp_path, used, "yunet", print)
    recorder.close()
    Recorder(tmp_path, used, "yunet", print).close()


def test_a_journal_that_cannot_be_written_is_told_once_and_recognition_goes_on(tmp_path: Path, bundle_path: Path, monkeypatch):
    told: list[tuple] = []
    recorder = Recorder(tmp_path, bundle.load(bundle_path), "yunet", lambda *words: told.append(words))

    def broken(*_: object):
        raise StoredError("the journal is gone", "look for it")

    monkeypatch.setattr(recorder, "_open", broken)
    for track in range(3):
        recorder.note([event(track=track)])
        while recorder._queue:
            time.sleep(0.005)
    recorder.close()
    recorder.note([])
    assert [code for code, *_ in told] == ["journal-failed"]


def test_tracks_of_which_nothing_is_told_leave_nothing_behind(tmp_path: Path, bundle_path: Path):
    recorder = Recorder(tmp_path, bundle.load(bundle_path), "yunet", print)
    track = Track((0, 0, 9, 9), datetime.now(timezone.utc), datetime.now(timezone.utc), 0, id=3)
    recorder.take(track, None, None, CROP, 0.5)
    recorder.end(track)
    recorder.note([])
    del track
    assert not recorder._ended and len(recorder._best) == 0
    recorder.close()


@pytest.mark.parametrize("crops", [False, True])
def test_recognize_keeps_who_came_by(pixels, astronaut: Path, grace_hopper: Path, tmp_path: Path, capsys, crops: bool):
    assert enroll.main(["add", "Eileen Collins", str(astronaut)]) == 0
    folder = default_folder(default_path())
    options = ["--journal", str(folder), *(["--journal-crops"] if crops else [])]
    for photo in (astronaut, grace_hopper):
        assert recognize.main(["--source", str(photo), *options]) == 0
    with Journal(folder) as journal:
        second, first = journal.visits()
        assert (first.name, second.name, second.guess) == ("Eileen Collins", None, "Eileen Collins")
        assert first.over and second.over and first.crop == second.crop == crops
        assert (journal.crop(first.number) is not None) == crops
    assert not (folder / "live.sock").exists()


def test_a_video_can_be_played_again_and_again(pixels, astronaut: Path, tmp_path: Path):
    clip = tmp_path / "clip.mp4"
    photo = cv2.resize(cv2.imread(str(astronaut)), (128, 128))
    with recording(clip, 50) as write:
        for _ in range(5):
            write(photo)
    start = time.monotonic()
    with recognize.looped(str(clip)) as source:
        frames = [frame for frame, _ in zip(source, range(12), strict=False)]
    assert [frame.index for frame in frames] == list(range(12)) and source.live
    assert time.monotonic() - start >= 11 / 50  # at its own pace, not as fast as it can be read


def test_a_photo_is_not_looped(astronaut: Path, capsys):
    assert recognize.main(["--source", str(astronaut), "--loop"]) == 2
    assert "cannot be played again" in capsys.readouterr().err


def test_a_recogniser_that_is_killed_leaves_a_journal_that_opens(data: Path, tmp_path: Path, yunet: Path):
    clip = data / "clips" / "p1-a.mp4"
    words = [sys.executable, "-m", "device.recognize", "--source", clip, "--loop", "--json", "--journal", tmp_path / "j"]
    words += ["--detector-model", yunet, "--gallery", tmp_path / "g.db"]
    with subprocess.Popen(map(str, words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        while json.loads(process.stdout.readline())["event"] != "seen":
            pass
        for _ in range(200):
            with Journal(tmp_path / "j") as journal:
                if journal.visits():
                    break
            time.sleep(0.02)
        process.kill()
    with Journal(tmp_path / "j", create=True) as journal:
        assert [visit.over for visit in journal.visits()] == [False]
        journal.end_open()
        assert [visit.over for visit in journal.visits()] == [True]
