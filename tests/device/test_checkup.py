import numpy as np
import pytest

from device.bundle import Bundle
from device.checkup import ALONE, BLURRED, UNLIKE, check, lines
from device.checkup_page import page
from device.coverage import Look
from device.gallery import Gallery, Template
from device.openset import COHORT

DIMENSION = 64
RNG = np.random.default_rng(0)
FACES = RNG.normal(size=(500, DIMENSION))


NOISE = np.random.default_rng(1)
START = NOISE.bit_generator.state


@pytest.fixture(autouse=True)
def _the_same_noise_in_every_test():
    NOISE.bit_generator.state = START


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


COMMON = unit(np.ones(DIMENSION))


def template(
    face: int, noise: float = 0.25, quality: float = 0.9, source: str = "a.jpg", crop: bool = False, like: int | None = None
) -> Template:
    """Of face number `face`, or halfway to the face `like`, as an encoder sees it whose strangers lie at 0.6 to 0.9."""
    own = FACES[face] if like is None else (FACES[face] + FACES[like]) / 2**0.5
    row = unit(COMMON + 0.08 * (own + noise * NOISE.normal(size=DIMENSION)))
    picture = np.full((112, 112, 3), face, np.uint8) if crop else None
    return Template(row, "0123456789abcdef", 1, "mtcnn", quality, source, Look(0.0, 0.0, 120.0, 0.0), picture)


@pytest.fixture
def used(tmp_path) -> Bundle:
    np.savez(tmp_path / COHORT, embeddings=np.round(127 * unit(COMMON + 0.08 * FACES[100:])).astype(np.int8))
    facts = {"encoder": "0123456789abcdef", "dimension": DIMENSION, "preprocessing": {"version": 1}}
    return Bundle(tmp_path, {**facts, "thresholds": [{"far": 0.001, "threshold": 0.9}]})


@pytest.fixture
def gallery(tmp_path):
    with Gallery(tmp_path / "gallery.db", create=True) as opened:
        for number, name in enumerate(("Ada", "Bob", "Cem", "Dan", "Eve")):
            opened.add(name, [template(number) for _ in range(4)])
        yield opened


def number_of(gallery: Gallery, name: str, source: str) -> int:
    return next(entry.number for entry in gallery.entries(name) if entry.template.source == source)


def test_a_gallery_in_which_all_is_well(gallery, used):
    report = check(gallery, used, 0.005)
    assert report.ok and (report.people, report.templates) == (5, 20)
    assert report.pairs == report.mislabelled == report.weak == ()
    assert lines(report)[0].startswith("Ada is barely covered; what would help: one turned to the left")
    assert -0.5 < report.review < report.threshold < 0.5


def test_a_photo_of_somebody_else_is_found(gallery, used):
    gallery.add("Ada", [template(1, source="bob.jpg")], more=True)
    gallery.add("Dan", [template(50, source="stranger.jpg")], more=True)
    one, two = sorted(check(gallery, used, 0.005).mislabelled, key=lambda one: one.person)
    assert (one.person, one.template, one.other) == ("Ada", number_of(gallery, "Ada", "bob.jpg"), "Bob")
    assert one.other_score > one.score
    assert (two.person, two.source, two.other) == ("Dan", "stranger.jpg", None) and two.strangers > 0.05
    told = lines(check(gallery, used, 0.005))
    assert f'enroll.py split "Ada" NEW {one.template}, enroll.py merge NEW "Bob"' in " ".join(told)
    assert any("stranger.jpg) is unlike the others" in line for line in told)


def test_one_person_under_two_names_is_a_pair_and_no_wrong_photo(gallery, used):
    gallery.add("Robert", [template(1) for _ in range(4)])
    report = check(gallery, used, 0.005)
    assert report.mislabelled == () and not report.ok
    (pair,) = report.pairs
    assert (pair.people, pair.decision, len(pair.templates)) == (("Bob", "Robert"), "known", 8)
    assert 'enroll.py merge "Robert" "Bob"' in lines(report)[0]


def test_two_who_are_much_alike_are_told(gallery, used):
    gallery.add("Fay", [template(70, like=4) for _ in range(4)])
    report = check(gallery, used, 0.005)
    assert [pair.people for pair in report.pairs] == [("Eve", "Fay")] and report.mislabelled == ()


def test_weak_templates_say_why(gallery, used):
    gallery.add("Gus", [template(80)])
    gallery.add("Ada", [template(0, quality=0.3)], more=True)
    gallery.add("Ida", [template(81), template(82)])  # one of them is somebody else, but which?
    report = check(gallery, used, 0.005)
    found = [(one.person, *one.why) for one in report.weak]
    assert found == [("Ada", BLURRED), ("Gus", ALONE), ("Ida", UNLIKE), ("Ida", UNLIKE)]
    assert report.ok


def test_whose_only_fellow_is_somebody_else_is_alone(gallery, used):
    gallery.add("Hal", [template(90), template(2, source="cem.jpg")])
    report = check(gallery, used, 0.005)
    assert [(one.person, one.source, one.other) for one in report.mislabelled] == [("Hal", "cem.jpg", "Cem")]
    assert [(one.person, one.why) for one in report.weak] == [("Hal", (ALONE,))]


def test_a_bundle_without_a_cohort_and_an_empty_gallery(gallery, used, tmp_path):
    (tmp_path / COHORT).unlink()
    gallery.add("Ada", [template(1, source="bob.jpg")], more=True)
    assert [one.source for one in check(gallery, used).mislabelled] == ["bob.jpg"]
    with Gallery(tmp_path / "empty.db", create=True) as empty:
        report = check(empty, used)
        assert report.ok and (report.people, lines(report)) == (0, [])
        assert "nobody is enrolled" in page(report, empty)


def test_the_page_holds_crops_and_escapes_names(gallery, used):
    name = "<script>alert(1)</script>"
    gallery.add(name, [template(1, crop=True, source='x" onload="alert(1).jpg') for _ in range(3)])
    text = page(check(gallery, used, 0.02), gallery)
    assert "<script" not in text and "&lt;script&gt;" in text and '" onload="' not in text
    assert text.count("data:image/jpeg;base64,") == 3 and "no crop kept" in text
    assert "http" not in text and text.endswith("</body></html>\n")
