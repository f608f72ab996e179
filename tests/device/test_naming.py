"""From faces without names to people: harvest, cluster, name-clusters, and all that can go wrong on the way."""

import csv
import io
import json
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from device import enroll, harvest, naming, unnamed
from device.camera import Frame
from device.decide import Verdict
from device.detect import Detection
from device.gallery import Gallery, Template
from device.harvest import Harvest
from device.program import InputError, StoredError
from device.track import Track

START = datetime(2026, 11, 22, tzinfo=timezone.utc)
LANDMARKS = np.array([(38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20)], np.float32)


def template(person: int, picture: int, quality: float = 0.5) -> Template:
    """Two of one person are alike, two pictures never the same."""
    row = np.zeros(256, np.float32)
    row[person], row[100 + 10 * person + picture] = 1, 0.3
    crop = np.full((112, 112, 3), 20 * person + picture, np.uint8)
    return Template(row / np.linalg.norm(row), "0123456789abcdef", 1, "yunet", quality, f"{person}-{picture}.jpg", None, crop)


@pytest.fixture
def clusters(tmp_path: Path) -> Path:
    """Three clusters, of 4, 3 and 2 pictures, and a picture alone; the qualities are in reverse order."""
    templates = [template(person, picture, 0.1 * (picture + 1)) for person, count in enumerate((4, 3, 2, 1)) for picture in range(count)]
    found = unnamed.Unnamed(templates, [[3, 2, 1, 0], [6, 5, 4], [8, 7]], [0.99, 0.9, None])
    unnamed.save(tmp_path / "clusters", found)
    return tmp_path / "clusters"


def named(path: Path) -> dict[str, int]:
    with Gallery(path) as gallery:
        return {person.name: person.templates for person in gallery.people()}


def name(folder: Path, tmp_path: Path, rows: str, *more: str) -> int:
    (tmp_path / "filled.csv").write_text("cluster,name\n" + rows, "utf-8")
    return enroll.main(["name-clusters", str(folder), "--csv", str(tmp_path / "filled.csv"), "--gallery", str(tmp_path / "g.db"), *more])


def test_clusters_are_read_as_they_were_written(clusters):
    found = unnamed.load(clusters)
    assert found.clusters == [[3, 2, 1, 0], [6, 5, 4], [8, 7]]
    assert [entry["size"] for entry in found.as_json()] == [4, 3, 2]
    assert [entry["purity"] for entry in found.as_json()] == [0.99, 0.9, None]
    assert (found.templates[4].crop == 20).all()
    assert {path.stat().st_mode & 0o777 for path in clusters.iterdir()} == {0o600}
    assert clusters.stat().st_mode & 0o777 == 0o700


def test_names_merge_split_ignore_and_leave_out(clusters, tmp_path, capsys, validate):
    assert name(clusters, tmp_path, "1,Ada\n2,Ada\n1/2,Bob\n1/4,\n3,-\n", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    validate(answer, "enroll")
    assert answer["people"] == {"Ada": 5, "Bob": 1}
    assert (answer["ignored"], answer["left"]) == (2, 2)
    with Gallery(tmp_path / "g.db") as gallery:
        assert [entry.template.source for entry in gallery.entries("Bob")] == ["0-2.jpg"]
        assert all(entry.template.denies for entry in gallery.entries(None))
        assert not any(entry.kept for entry in gallery.entries("Ada"))


def test_all_of_it_is_one_change_and_can_be_undone(clusters, tmp_path):
    assert name(clusters, tmp_path, "1,Ada\n2,Bob\n3,-\n") == 0
    assert enroll.main(["undo", "--gallery", str(tmp_path / "g.db")]) == 0
    assert named(tmp_path / "g.db") == {}
    with Gallery(tmp_path / "g.db") as gallery:
        assert gallery.entries(None) == []


def test_crops_are_kept_where_the_user_asks_for_it(clusters, tmp_path):
    assert name(clusters, tmp_path, "3,Ada\n", "--keep-crops") == 0
    with Gallery(tmp_path / "g.db") as gallery:
        assert all(entry.kept for entry in gallery.entries("Ada"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("9,Ada\n", "there is no cluster 9: the clusters are 1 to 3"),
        ("x,Ada\n", "there is no cluster x: the clusters are 1 to 3"),
        ("1,Ada\n9,\n", "there is no cluster 9: the clusters are 1 to 3"),
        ("2/4,Ada\n", "cluster 2 has no picture 4: its pictures are 1 to 3"),
        ("1,Ada\n1,Bob\n", "cluster 1 has two names, Ada and Bob: leave one of them"),
        ("1,Ada,Bob\n", "1,Ada,Bob is not a cluster and a name: write cluster,name"),
        ("1,\n2,\n", "no cluster has a name: write names into names.csv"),
        ("1,A\\u0007\n", "is not printable text: write a name of letters"),
    ],
)
def test_a_wrong_csv_changes_nothing(clusters, tmp_path, capsys, rows, message):
    assert name(clusters, tmp_path, rows.replace("\\u0007", "\x07")) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "g.db").exists() or named(tmp_path / "g.db") == {}


@pytest.mark.parametrize("content", ["", "name,cluster\n1,Ada\n", "cluster;name\n1;Ada\n"])
def test_what_is_no_list_of_names_is_told(clusters, tmp_path, capsys, content):
    (tmp_path / "other.csv").write_text(content)
    assert enroll.main(["name-clusters", str(clusters), "--csv", str(tmp_path / "other.csv"), "--gallery", str(tmp_path / "g.db")]) == 2
    assert "its first line is not cluster,name" in capsys.readouterr().err


def test_a_byte_order_mark_and_quoted_commas_are_read(tmp_path):
    (tmp_path / "n.csv").write_text('\ufeffcluster,name\n 1 ,"Lovelace, Ada"\n\n', "utf-8")
    assert unnamed.read_names(tmp_path / "n.csv") == {"1": "Lovelace, Ada"}


def test_who_is_there_already_takes_more(clusters, tmp_path, capsys):
    assert name(clusters, tmp_path, "1,Ada\n") == 0
    assert name(clusters, tmp_path, "2,Ada\n") == 2
    assert "Ada is in the gallery already: add templates with --more" in capsys.readouterr().err
    assert name(clusters, tmp_path, "1,Ada\n2,Ada\n3,Bob\n", "--more") == 0
    assert named(tmp_path / "g.db") == {"Ada": 7, "Bob": 2}
    assert name(clusters, tmp_path, "1,Ada\n", "--more") == 2
    assert "all these pictures are in the gallery already" in capsys.readouterr().err


def test_another_encoders_gallery_is_refused_and_unchanged(clusters, tmp_path, capsys):
    with Gallery(tmp_path / "g.db", create=True) as gallery:
        gallery.add("Eve", [Template(template(0, 0).embedding, "f" * 16, 1, "yunet", 1.0, "eve.jpg")])
    assert name(clusters, tmp_path, "1,Ada\n") == 4
    assert "holds templates of encoder ffffffffffffffff" in capsys.readouterr().err
    assert named(tmp_path / "g.db") == {"Eve": 1}


def test_a_folder_without_clusters_and_a_damaged_one_are_told(clusters, tmp_path, capsys):
    assert enroll.main(["name-clusters", str(tmp_path), "--csv", "x"]) == 2
    assert "holds no clusters: name a folder that enroll.py cluster wrote" in capsys.readouterr().err
    (clusters / "clusters.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(StoredError, match=r"clusters\.npz is damaged"):
        unnamed.load(clusters)


def test_without_a_terminal_a_csv_is_asked_for(clusters, capsys):
    assert enroll.main(["name-clusters", str(clusters)]) == 2
    assert "there is nobody to ask for names: fill in" in capsys.readouterr().err


def asked(folder: Path, typed: str) -> tuple[dict[str, str], str]:
    said: list[str] = []
    answers = naming.ask(folder, unnamed.load(folder), io.StringIO(typed), said.append)
    return answers, "\n".join(said)


def test_answers_on_a_terminal(clusters):
    answers, said = asked(clusters, "/2 4 Bob\n/9 Eve\n/\nAda\n-\n\n")
    assert answers == {"1": "Ada", "2": "-", "3": "", "1/2": "Bob", "1/4": "Bob"}
    assert "cluster 1 has no picture 9: its pictures are 1 to 4" in said
    assert "no picture is named" in said
    plan = unnamed.plan(unnamed.load(clusters), answers)
    assert {who: len(rows) for who, rows in plan.people.items()} == {"Ada": 2, "Bob": 2, None: 3}


class Interrupted(io.StringIO):
    def readline(self, *size):
        line = super().readline(*size)
        if not line:
            raise KeyboardInterrupt
        return line


def test_an_interrupted_naming_loses_no_answer(clusters, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", terminal := Interrupted("Ada\n"))
    terminal.isatty = lambda: True
    assert enroll.main(["name-clusters", str(clusters), "--gallery", str(tmp_path / "g.db")]) == 130
    assert not (tmp_path / "g.db").exists()
    assert unnamed.read_names(clusters / "names.csv")["1"] == "Ada"
    answers, said = asked(clusters, "Bob\n")  # goes on where it stopped
    assert answers == {"1": "Ada", "2": "Bob", "3": ""}
    assert "cluster 1 of 3" not in said


def test_the_page_and_the_sheet_show_every_cluster(clusters):
    from device import sheet

    found = unnamed.load(clusters)
    page = sheet.page(found)
    assert page.count("data:image/jpeg;base64,") == 9
    assert page.count("<tr data-cluster=") == 3
    assert "http" not in page.replace("http-equiv", "")  # it needs nothing else
    picture = sheet.contact_sheet(found)
    assert picture.shape[0] == 3 * (sheet.TILE + 8)


def test_the_page_quotes_file_names(clusters):
    from dataclasses import replace

    from device import sheet

    found = unnamed.load(clusters)
    found.templates[3] = replace(found.templates[3], source='"><script>alert(1)</script>')
    assert "<script>alert" not in sheet.page(found)


def photos(folder: Path, *pictures: Path | np.ndarray) -> Path:
    folder.mkdir()
    for number, picture in enumerate(pictures):
        if isinstance(picture, Path):
            shutil.copy(picture, folder / f"{number}{picture.suffix}")
        else:
            cv2.imwrite(str(folder / f"{number}.png"), picture)
    return folder


def test_a_folder_of_photos_becomes_clusters(pixels, astronaut, grace_hopper, tmp_path, capsys, validate):
    lighter = np.clip(cv2.imread(str(astronaut)).astype(int) + 12, 0, 255).astype(np.uint8)
    folder = photos(tmp_path / "in", astronaut, lighter, grace_hopper, np.zeros((80, 80, 3), np.uint8))
    assert enroll.main(["cluster", str(folder), "--detector", "mtcnn", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    validate(answer, "enroll")
    assert (answer["pictures"], answer["unclustered"]) == (3, 1)
    assert [sorted(Path(p).name for p in entry["pictures"]) for entry in answer["clusters"]] == [["0.png", "1.png"]]
    out = tmp_path / "in-clusters"
    assert {path.name for path in out.iterdir()} == {"clusters.npz", "index.html", "names.csv", "sheet.png"}
    assert list(csv.reader((out / "names.csv").read_text().splitlines())) == [["cluster", "name"], ["1", ""]]
    assert enroll.main(["cluster", str(folder), "--detector", "mtcnn"]) == 2
    assert "in-clusters is in use: name another folder with --out" in capsys.readouterr().err


def test_nothing_to_cluster_is_told(pixels, astronaut, tmp_path, capsys):
    cases = {
        "shows one face only, there is nothing to cluster": photos(tmp_path / "one", astronaut),
        "shows the very same picture 2 times, there is nothing to cluster": photos(tmp_path / "same", astronaut, astronaut),
        "no face in": photos(tmp_path / "none", np.zeros((80, 80, 3), np.uint8)),
        "holds no picture": photos(tmp_path / "empty"),
        "is not a folder": tmp_path / "nowhere",
    }
    for message, folder in cases.items():
        assert enroll.main(["cluster", str(folder), "--detector", "mtcnn", "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()


def frame(seconds: float) -> Frame:
    return Frame(np.zeros((200, 200, 3), np.uint8), int(seconds * 30), START + timedelta(seconds=seconds), "door.mp4")


def kept(folder: Path, tracks: list[tuple[int, str | None, list[tuple[float, float]]]], most: int = 100) -> list[str]:
    """Harvest tracks of (id, name, [(seconds, quality)]); returns what was told."""
    told: list[str] = []
    taking = Harvest(folder, lambda code, message: told.append(f"{code}: {message}"), most)
    for number, who, looks in tracks:
        track = Track((0, 0, 100, 100), START, START, 0, id=number)
        for seconds, quality in looks:
            crop = np.full((112, 112, 3), round(100 * quality), np.uint8)
            taking.take(track, frame(seconds), Detection(np.array([0, 0, 100, 100], np.float32), LANDMARKS, 1.0), crop, quality)
        if who is not None:
            track.opinion.settle(Verdict("known", who, 0.9, 0.5))
        taking.end(track)
    return told


def test_a_harvest_keeps_the_best_of_each_unknown_track(tmp_path):
    close = [(0.0, 0.3), (0.1, 0.8), (0.2, 0.5)]
    long = [(float(second), 0.1 * second) for second in range(1, 9)]
    kept(tmp_path / "h", [(1, None, close), (2, "Ada", close), (0, None, close), (3, None, long)])
    found = harvest.read(tmp_path / "h")
    assert [candidate.quality for candidate in found] == pytest.approx([0.8, 0.4, 0.5, 0.6, 0.7, 0.8])
    assert (found[0].crop == 80).all()
    assert found[0].source == "door.mp4 track 1"
    assert found[0].look is not None
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "h").iterdir()} == {0o600}


def test_a_harvest_goes_on_and_ends_when_it_is_full(tmp_path):
    one = [(0.0, 0.5)]
    assert kept(tmp_path / "h", [(1, None, one)], most=2) == []
    (told,) = kept(tmp_path / "h", [(1, None, one), (2, None, one), (3, None, one)], most=2)
    assert told.startswith("harvest-ended: no more crops are kept")
    assert len(harvest.read(tmp_path / "h")) == 2


def test_a_harvest_needs_a_folder_of_its_own(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(InputError, match="holds other things: name an empty folder with --harvest"):
        Harvest(tmp_path, print)
    with pytest.raises(InputError, match="cannot write to"):
        Harvest(tmp_path / "photo.png", print)


@pytest.mark.parametrize(
    "line", ["{", "{}", '{"file": "gone.png", "quality": 1, "look": null, "source": "", "track": 1, "preprocessing": 1}']
)
def test_a_damaged_harvest_is_told(tmp_path, line):
    kept(tmp_path / "h", [(1, None, [(0.0, 0.5)])])
    with (tmp_path / "h" / "harvest.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(StoredError, match="harvest anew"):
        harvest.read(tmp_path / "h")


def test_the_recogniser_harvests_and_the_harvest_is_clustered(pixels, astronaut, grace_hopper, tmp_path, capsys):
    from device import recognize

    folder = photos(tmp_path / "in", astronaut, grace_hopper)
    words = ["--source", str(folder), "--detector", "mtcnn", "--harvest", str(tmp_path / "h")]
    assert recognize.main(words) == 0
    assert len(harvest.read(tmp_path / "h")) == 2
    assert enroll.main(["cluster", str(tmp_path / "h"), "--detector", "mtcnn", "--out", str(tmp_path / "out")]) == 0
    assert "2 faces, 0 clusters, 2 alone" in capsys.readouterr().out
