import io
import json
import os
import re
import shutil
import stat
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from device import bundle, enroll
from device.camera import read_picture
from device.coverage import Look
from device.enroll import build_parser, main
from device.enrolment import advice, doubles
from device.gallery import Gallery, Template
from device.visitors import Trace


@pytest.fixture
def path() -> Path:
    """Where tests/conftest.py has put the user's gallery; it is not there yet."""
    return Path(os.environ["OMOKAGE_GALLERY"])


@pytest.fixture
def call(capsys, bundle_path):
    """call("list", ...) runs the program: (status, stdout, stderr)."""

    def program(*argv: object) -> tuple[int, str, str]:
        status = main([str(word) for word in argv])
        return (status, *capsys.readouterr())

    return program


@pytest.fixture
def group(astronaut, grace_hopper, tmp_path) -> Path:
    """A photo of two people."""
    target = tmp_path / "group.jpg"
    cv2.imwrite(str(target), np.hstack([read_picture(astronaut), read_picture(grace_hopper)[:512]]))
    return target


@pytest.fixture
def landscape(tmp_path) -> Path:
    """A photo of nobody."""
    target = tmp_path / "landscape.jpg"
    cv2.imwrite(str(target), cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8), (0, 0), 9))
    return target


def video(target: Path, images: list[np.ndarray]) -> Path:
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, images[0].shape[1::-1])
    for image in images:
        writer.write(image)
    writer.release()
    return target


def one_line(text: str) -> str:
    assert text.endswith("\n") and text.count("\n") == 1
    return text.rstrip("\n")


def test_a_person_is_added_listed_and_removed(call, astronaut, grace_hopper, path):
    status, out, err = call("add", "Eileen Collins", astronaut)
    assert (status, out) == (0, "added Eileen Collins: 1 template\n")
    assert "only 1 template" in err
    assert call("add", "Grace Hopper", grace_hopper, "--json")[0] == 0
    status, out, err = call("list")
    assert status == 0 and err == ""
    assert [line.split("\t")[:2] for line in out.splitlines()] == [["Eileen Collins", "1 template"], ["Grace Hopper", "1 template"]]
    assert call("remove", "Grace Hopper", "--yes") == (0, "removed Grace Hopper: 1 template\n", "")
    assert [line.split("\t")[0] for line in call("list")[1].splitlines()] == ["Eileen Collins"]
    with Gallery(path) as gallery:
        (embedding,), names = gallery.templates(bundle.find(None))
    assert names == ["Eileen Collins"] and np.linalg.norm(embedding) == pytest.approx(1)


def test_json_follows_the_contract(call, astronaut, grace_hopper, landscape, validate, bundle_path):
    answers = []
    for argv in (
        ["add", "Eileen", astronaut, landscape],
        ["add", "Eileen", "--more", grace_hopper],
        ["list"],
        ["remove", "Eileen", "--yes"],
        ["list"],
    ):
        status, out, err = call(*argv, "--json")
        assert (status, err) == (0, "")
        answers.append(json.loads(one_line(out)))
        validate(answers[-1], "enroll")
    added, more, people, removed, nobody = answers
    assert (added["name"], added["added"], added["templates"]) == ("Eileen", 1, 1)
    assert added["skipped"] == [{"source": str(landscape), "reason": f"no face in {landscape}"}]
    assert (more["added"], more["templates"]) == (1, 2)
    assert people["encoder"] == bundle.load(bundle_path).encoder
    assert [(person["name"], person["templates"]) for person in people["people"]] == [("Eileen", 2)]
    assert removed == {"verb": "remove", "name": "Eileen", "templates": 2}
    assert nobody == {"verb": "list", "people": []}


def test_what_is_enrolled_is_found_again(call, astronaut, grace_hopper, path, tmp_path, mtcnn):
    """The template of a photo is nearer to the same face in a smaller photo than another person's is."""
    call("add", "Eileen", astronaut)
    call("add", "Grace", grace_hopper)
    smaller = tmp_path / "smaller.png"
    cv2.imwrite(str(smaller), cv2.resize(read_picture(astronaut), None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA))
    call("add", "Probe", smaller)
    with Gallery(path) as gallery:
        embeddings, names = gallery.templates(bundle.find(None))
    probe = embeddings[names.index("Probe")]
    assert probe @ embeddings[names.index("Eileen")] > probe @ embeddings[names.index("Grace")] + 0.05


def test_pictures_may_stand_in_front_of_and_behind_options(call, astronaut, grace_hopper):
    status, out, _ = call("add", "Somebody", "--json", astronaut, "--detector", "mtcnn", grace_hopper)
    assert status == 0 and json.loads(out)["added"] == 2


def test_a_folder_gives_a_template_for_each_good_picture(call, astronaut, grace_hopper, landscape, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for source, name in ((astronaut, "a.png"), (grace_hopper, "b.jpg"), (landscape, "c.jpg")):
        shutil.copy(source, folder / name)
    (folder / "d.jpg").write_bytes(b"damaged")
    (folder / "notes.txt").write_text("no picture")
    status, out, err = call("add", "Somebody", folder)
    assert (status, out) == (0, "added Somebody: 2 templates\n")
    assert f"skipped: no face in {folder / 'c.jpg'}" in err
    assert f"skipped: {folder / 'd.jpg'} cannot be read as a picture" in err
    assert "notes" not in err


def test_nothing_usable_is_one_line_and_writes_nothing(call, group, landscape, path, tmp_path):
    (tmp_path / "damaged.jpg").write_bytes(b"damaged")
    (tmp_path / "empty").mkdir()
    for name, wrong in (
        ("group.jpg", r"two faces in {}: crop the picture so that only Eileen is in it"),
        ("landscape.jpg", "no face in {}: choose a picture that shows the face of Eileen from the front and larger"),
        ("damaged.jpg", "{} cannot be read as a picture: convert it to JPEG or PNG"),
        ("none.jpg", "{} is not there: check the name"),
        ("none.mp4", "{} is not there: check the name"),
        ("empty", "{} holds no picture: name a folder with"),
    ):
        status, out, err = call("add", "Eileen", tmp_path / name, "--json")
        assert (status, out) == (2, "")
        assert f": {wrong.format(tmp_path / name)}" in one_line(err)
    status, _, err = call("add", "Eileen", group, landscape)
    assert status == 2 and f"none of the 2 pictures shows Eileen alone (the first: two faces in {group})" in one_line(err)
    assert not list(tmp_path.glob("gallery*"))


def test_a_video_gives_up_to_eight_templates_spread_over_it(call, astronaut, path, tmp_path):
    image = read_picture(astronaut)[:300, 60:460]
    frames = [np.roll(image, 2 * number, axis=1) for number in range(40)]
    status, out, _ = call("add", "Eileen", video(tmp_path / "eileen.avi", frames), "--json")
    added = json.loads(out)["added"]
    assert status == 0 and 4 < added <= 8
    with Gallery(path) as gallery:
        embeddings, _ = gallery.templates(bundle.find(None))
    assert len(np.unique(embeddings, axis=0)) == added


def test_of_a_video_only_frames_of_one_face_alone_are_taken(call, astronaut, group, tmp_path):
    two = read_picture(group)[:300]
    one = two.copy()
    one[:, 512:] = 128
    status, out, _ = call("add", "Eileen", video(tmp_path / "mixed.avi", [two] * 6 + [one] * 3 + [two * 0] * 3), "--json")
    assert status == 0 and 1 <= json.loads(out)["added"] <= 3
    status, _, err = call("add", "Grace", video(tmp_path / "both.avi", [two] * 6))
    assert status == 2 and "both.avi shows one face alone (6 show several): choose a video" in err.splitlines()[-1]  # after progress
    status, _, err = call("add", "Grace", video(tmp_path / "none.avi", [two * 0] * 6))
    assert status == 2 and "no face in" in one_line(err)


def test_yunet_serves_as_well(call, data, yunet, validate):
    status, out, _ = call("add", "p2", data / "clips" / "p2-a.mp4", "--detector-model", yunet, "--json")
    assert status == 0
    answer = json.loads(out)
    validate(answer, "enroll")
    assert 4 < answer["added"] <= 8
    with Gallery(Path(os.environ["OMOKAGE_GALLERY"])) as gallery:
        assert gallery._db.execute("SELECT DISTINCT detector FROM template").fetchall() == [("yunet",)]


def test_a_name_that_exists_is_told_before_the_pictures_are_looked_at(call, astronaut, path):
    call("add", "Eileen", astronaut)
    status, _, err = call("add", "Eileen", "none.jpg")
    assert status == 2 and "Eileen is in the gallery already: add templates with --more" in one_line(err)
    status, _, err = call("add", "Grace", astronaut, "--more")
    assert status == 2 and "Grace is not in the gallery: leave --more out" in one_line(err)
    path.unlink()
    status, _, err = call("add", "Grace", astronaut, "--more")
    assert status == 2 and "leave --more out" in one_line(err) and not path.exists()


@pytest.mark.parametrize("name", ["", "two\nlines", "x" * 201])
def test_bad_names_are_told(call, astronaut, path, name):
    status, _, err = call("add", name, astronaut)
    assert status == 2 and "the name" in one_line(err) and not path.exists()


def test_a_gallery_of_another_encoder_is_told(call, astronaut, grace_hopper, other_encoder):
    call("add", "Eileen", astronaut)
    for argv in (["add", "Grace", grace_hopper], ["add", "Eileen", "--more", astronaut]):
        status, _, err = call(*argv, "--encoder", other_encoder)
        assert status == 4 and "holds templates of encoder" in one_line(err)


def test_bad_bundles_are_told(call, astronaut, copied_bundle, path, tmp_path, bundle_path):
    damaged = copied_bundle()
    (damaged / "encoder.tflite").write_bytes(b"damaged")
    for encoder, status, wrong in (
        (damaged, 4, "encoder.tflite is damaged"),
        (bundle_path / "encoder.tflite", 2, "is not a bundle"),
        (tmp_path / "none", 2, "is not a bundle"),
    ):
        assert (answer := call("add", "Eileen", astronaut, "--encoder", encoder))[0] == status
        assert wrong in one_line(answer[2])
    assert not path.exists()


def test_missing_things_are_told(call, astronaut, path):
    status, _, err = call("add", "Eileen", "--camera", 99)
    assert status == 3 and "camera 99 gives no picture" in one_line(err)
    status, _, err = call("add", "Eileen", astronaut, "--backend", "edgetpu", "--encoder", bundle.find(None).path)
    assert status == 3 or bundle.ENCODER_EDGETPU in bundle.find(None).manifest["files"]
    assert not path.exists() or status == 0


@pytest.mark.parametrize(
    "argv, wrong",
    [
        ([], "arguments are required: add|list|show"),
        (["add"], "arguments are required: NAME"),
        (["add", "Eileen", "--camera", "front"], "invalid int value: 'front'"),
        (["add", "Eileen", "photo.jpg", "--none", "value"], "unrecognized arguments: --none"),
        (["remove"], "arguments are required: NAME"),
        (["list", "Eileen"], "unrecognized arguments: Eileen"),
    ],
)
def test_misuse_is_told(argv, wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2 and wrong in one_line(capsys.readouterr().err)


def test_nothing_to_learn_from_is_told(call):
    status, _, err = call("add", "Eileen")
    assert status == 2 and "no picture to learn from" in one_line(err)


def test_without_a_gallery_there_is_nobody_to_list_or_remove(call, path, tmp_path):
    for argv in (["list"], ["remove", "Eileen"], ["list", "--gallery", tmp_path / "none.db"]):
        status, out, err = call(*argv)
        assert (status, out) == (2, "") and "is not there: add a person" in one_line(err)
    assert not path.exists()


def test_a_new_gallery_is_for_its_owner_alone(call, astronaut, tmp_path):
    target = tmp_path / "new" / "gallery.db"
    assert call("add", "Eileen", astronaut, "--gallery", target)[0] == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
    assert call("list", "--gallery", target)[1].startswith("Eileen")


def template(embedding: list[float], quality: float = 0.9, source: str = "a.jpg") -> Template:
    row = np.array(embedding, np.float32)
    return Template(row / np.linalg.norm(row), "0" * 16, 1, "mtcnn", quality, source)


def test_advice_names_the_picture_that_spoils_it():
    alike = [template([1, 0.1 * number, 0], source=f"{number}.jpg") for number in range(3)]
    assert advice(alike, 3, 0.4) == []
    assert advice(alike[:1], 1, 0.4) == ["only 1 template: add pictures with other light and pose (--more)"]
    assert advice([*alike, template([0, 0, 1], source="odd.jpg")], 4, 0.4) == [
        "odd.jpg looks unlike the other pictures: check that it shows the same person"
    ]
    (hint,) = advice([*alike, template([1, 0, 0], quality=0.2, source="dark.jpg")], 4, 0.4)
    assert hint.startswith("dark.jpg is small, blurred, dark or turned away")


def test_advice_tells_who_else_it_looks_like():
    known = np.array([[1, 0, 0], [0, 1, 0], [0, 0.8, 0.6]], np.float32)
    (hint,) = doubles([template([0, 1, 0.1])], known, ["Ada", "Bob", "Bob"], "Robert", 0.5)
    assert hint == "Robert looks like Bob (1.00): if this is one person under two names, enroll.py merge makes one of them"
    assert (
        doubles([template([0, 0, 1])], known[:1], ["Ada"], "Robert", 0.5) == doubles([template([1, 0, 0])], known[:0], [], "R", 0.5) == []
    )


def test_the_same_picture_is_taken_once(call, pixels, astronaut, grace_hopper, tmp_path, path):
    copy = shutil.copy(astronaut, tmp_path / "copy.png")
    status, out, err = call("add", "Eileen", astronaut, copy)
    assert (status, out) == (0, "added Eileen: 1 template\n") and f"skipped: {copy} is there already" in err
    status, out, err = call("add", "Eileen", copy, "--more")
    assert (status, out) == (2, "") and one_line(err).endswith(f"nothing new: {copy} is there already: choose other pictures")
    status, _, err = call("add", "Eileen again", copy)  # under another name it is taken, but told
    assert status == 0 and "Eileen again looks like Eileen (1.00): if this is one person under two names, enroll.py merge" in err
    assert call("merge", "Eileen again", "Eileen")[:2] == (0, "Eileen again is Eileen now: 2 templates\n")


def test_every_verb_answers_as_text_and_as_json(call, pixels, astronaut, grace_hopper, path, tmp_path, validate):
    other = cv2.imwrite(str(tmp_path / "other.png"), cv2.flip(read_picture(astronaut), 1)) and tmp_path / "other.png"
    assert call("add", "Eileen", astronaut, other, "--keep-crops")[0] == 0
    assert call("add", "Grace", grace_hopper)[0] == 0
    status, out, _ = call("show", "Eileen")
    assert status == 0 and out.startswith("Eileen: 2 templates, ") and "what would help" in out and out.count("crop kept") == 2
    told = json.loads(call("show", "Eileen", "--json")[1])
    assert [entry["source"] for entry in told["templates"]] == [str(astronaut), str(other)] and told["coverage"]["would_help"]
    number = told["templates"][1]["number"]
    export, sealed, copy, key = (tmp_path / name for name in ("people.json", "sealed", "copy.db", "key"))
    key.write_text("ab" * 32)
    for argv, text in (
        (["split", "Eileen", "Zoë", number], "made Zoë of 1 template of Eileen\n"),
        (["undo"], "undone: split of "),
        (["rename", "Grace", "Grace Hopper"], "Grace is called Grace Hopper now\n"),
        (["not", "Grace Hopper", astronaut], f"noted: {astronaut} is not Grace Hopper\n"),
        (["ignore", other], f"noted: {other} is to be ignored; 1 template deleted\n"),
        (["undo"], "undone: ignore of "),
        (["merge", "Grace Hopper", "Eileen"], "Grace Hopper is Eileen now: 3 templates\n"),
        (["undo"], "undone: merge of "),
        (["export", export], f"exported 2 people to {export}\n"),
        (["export", sealed, "--export-key", key], f"exported 2 people to {sealed}\n"),
        (["backup", copy], f"copied the gallery to {copy}\n"),
        (["reembed", "--drop"], f"made anew by encoder {pixels.encoder}: 2 templates, 2 dropped\n"),
        (["undo"], "undone: reembed of "),
        (["encrypt", "--new-key-file", key], f"{path} is encrypted now\n"),
    ):
        status, out, err = call(*argv)
        assert (status, err) == (0, "") and out.startswith(text), (argv, out, err)
    status, out, err = call("list")
    assert (status, out) == (4, "") and "is encrypted: give its key with --key-file" in one_line(err)
    answers = [
        ["rename", "Eileen", "Ada", "--key-file", key],
        ["encrypt", "--no-key", "--key-file", key],
        ["undo"],
        ["split", "Ada", "Zoë", number],
        ["merge", "Zoë", "Ada"],
        ["not", "Ada", grace_hopper],
        ["ignore", grace_hopper],
        ["import", sealed, "--export-key", key, "--more"],
        ["export", export, "--embeddings-only"],
        ["backup", copy],
        ["reembed", "--drop"],
        ["show", "Ada"],
        ["list"],
        ["log"],
        ["remove", "Ada", "--yes"],
    ]
    for argv in answers:
        status, out, err = call(*argv, "--json")
        if argv == ["undo"]:
            assert status == 2 and "nothing to undo" in one_line(err)
            continue
        assert (status, err) == (0, ""), (argv, err)
        validate(json.loads(one_line(out)), "enroll")
        assert json.loads(out)["verb"] == argv[0]


def test_a_gallery_is_checked(call, pixels, astronaut, grace_hopper, tmp_path, path, validate):
    call("add", "Eileen", astronaut, "--keep-crops")
    status, out, err = call("check")
    assert (
        (status, err) == (0, "")
        and "weak: Eileen's template 1 " in out
        and out.splitlines()[-1].startswith("1 people, 1 template: 0 pairs")
    )
    call("add", "Eileen again", astronaut)
    page = tmp_path / "check.html"
    status, out, _ = call("check", "--html", page, "--json")
    told = json.loads(one_line(out))
    validate(told, "enroll")
    assert (status, told["ok"], told["html"]) == (1, False, str(page))
    assert [pair["people"] for pair in told["pairs"]] == [["Eileen", "Eileen again"]]
    assert stat.S_IMODE(page.stat().st_mode) == 0o600 and page.read_text().count("data:image/jpeg") == 2
    assert call("check", "--html", tmp_path)[0] == 2
    with pytest.raises(SystemExit):
        call("check", "--far", 2)


def test_unknowns_are_listed_named_and_forgotten(call, pixels, path, validate):
    trace = Trace(np.eye(pixels.dimension, dtype=np.float32)[0], pixels.encoder, 1, "mtcnn", 0.9)
    with Gallery(path, create=True) as gallery:
        for _ in range(4):
            gallery.visit(None, trace, datetime.now(timezone.utc), 30)
    status, out, _ = call("unknowns")
    assert status == 0 and out.splitlines()[0].split("\t")[:2] == ["unknown-4", "1 visit"]
    answers = [
        (["unknowns"], "unknowns", 4),
        (["name", "unknown-3", "Alice"], "templates", 1),
        (["name", "2", "Alice", "--more"], "templates", 2),
        (["undo"], "undone", "name"),
        (["forget", "unknown-2", "4"], "forgotten", 2),
        (["forget", "--all"], "forgotten", 1),
    ]
    for argv, fact, value in answers:
        status, out, err = call(*argv, "--json")
        told = json.loads(one_line(out))
        validate(told, "enroll")
        assert (status, err, len(told[fact]) if isinstance(told[fact], list) else told[fact]) == (0, "", value)
    for argv, wrong in (
        (["name", "Alice", "Bob"], "'Alice' is no number of an unknown: write it like unknown-7"),
        (["name", "unknown-1", "Bob"], "there is no unknown-1"),
        (["forget"], "it is not said who to forget"),
        (["forget", "1", "--all"], "it is not said who to forget"),
        (["forget", "9"], "there is no unknown-9"),
    ):
        status, out, err = call(*argv)
        assert (status, out) == (2, "") and wrong in one_line(err)


def test_encoders_are_closed(call, pixels, astronaut, monkeypatch):
    closed = []
    opened = enroll.open_encoder

    def watched(*args, **settings):
        encoder = opened(*args, **settings)
        encoder.close = lambda: closed.append(encoder)
        return encoder

    monkeypatch.setattr(enroll, "open_encoder", watched)
    call("add", "Eileen", astronaut, "--keep-crops")
    call("reembed")
    call("ignore", astronaut)
    assert len(closed) == 3


def test_a_removal_asks_first(call, pixels, astronaut, monkeypatch):
    call("add", "Eileen", astronaut)
    status, _, err = call("remove", "Eileen")
    assert status == 2 and "a removal cannot be undone: repeat with --yes" in one_line(err)
    for answer, status in (("n\n", 2), ("\n", 2), ("", 2), ("Y\n", 0)):
        terminal = io.StringIO(answer)
        terminal.isatty = lambda: True
        monkeypatch.setattr("sys.stdin", terminal)
        told = call("remove", "Eileen")
        assert told[0] == status and "remove Eileen and 1 template for good? [y/N]" in told[2]
    assert call("remove", "Eileen", "--yes")[0] == 2


def test_a_removal_reminds_of_copies(call, pixels, astronaut, tmp_path):
    call("add", "Eileen", astronaut)
    call("backup", tmp_path / "copy.db")
    assert "a backup was made earlier: if it holds Eileen, delete it too" in call("remove", "Eileen", "--yes")[2]


def test_a_person_is_covered_by_different_pictures(call, pixels, astronaut, path):
    answer = json.loads(call("add", "Eileen", astronaut, "--json")[1])
    assert answer["coverage"]["share"] == pytest.approx(1 / 3, abs=0.01)
    looks = [Look(0.0, 0.0, 120.0, 0.0), Look(0.3, 0.0, 50.0, 0.0), Look(-0.3, 0.0, 120.0, 0.4)]
    with Gallery(path) as gallery:
        rows = np.eye(pixels.dimension, dtype=np.float32)
        gallery.add("Ada", [Template(row, pixels.encoder, 1, "mtcnn", 0.9, "a.jpg", look) for row, look in zip(rows, looks, strict=False)])
        gallery.add("Old", [Template(rows[9], pixels.encoder, 1, "mtcnn", 0.9, "a.jpg")])
    out = call("show", "Ada")[1]
    assert out.startswith("Ada: 3 templates, well covered (front 1, left 1, right 1, even 1, dim 1, side 1)\n")
    assert "look unknown" in call("show", "Old")[1]


def test_at_most_so_many_templates_stay(call, pixels, astronaut, grace_hopper):
    status, out, _ = call("add", "Somebody", astronaut, grace_hopper, "--most", 1)
    assert (status, out) == (0, "added Somebody: 2 templates, 1 in all\n")
    with pytest.raises(SystemExit):
        call("add", "Somebody", astronaut, "--most", 0)


@pytest.mark.parametrize("name", ['O\'Brien "Bobby"', "🙂", "a/b\\c", "-x", "面影", "; DROP TABLE person"])
def test_strange_names_are_names(call, pixels, astronaut, tmp_path, name, path):
    with Gallery(path, create=True) as gallery:
        gallery.add(name, [template([1.0, *[0.0] * (pixels.dimension - 1)])])
    export = tmp_path / "people.json"
    assert call("export", export)[0] == 0
    if not name.startswith("-"):
        assert call("show", name)[1].startswith(f"{name}: 1 template")
        assert call("remove", name, "--yes")[1] == f"removed {name}: 1 template\n"
        assert call("import", export)[0] == 0
    assert call("list")[1].startswith(name)


def test_every_verb_is_in_the_guide():
    """docs/gallery.md names each verb, and each option that is the gallery's own."""
    guide = (Path(__file__).parents[2] / "docs" / "gallery.md").read_text("utf-8")
    verbs = next(action for action in build_parser()._actions if action.choices and "add" in action.choices)
    assert [verb for verb in verbs.choices if f"`{verb}" not in guide] == []
    words = {word for parser in verbs.choices.values() for word in re.findall(r"--[\w-]+", parser.format_help())}
    assert words - {"--help", "--debug"} <= set(re.findall(r"--[\w-]+", guide))
    own = set(re.findall(r"enroll\.py [a-z]+[^`\n]*?(--[\w-]+)", guide))
    assert own <= words
