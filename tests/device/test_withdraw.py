"""Verbs of the gallery that came with the page: a removal that can be undone for a while, and several unknowns at once."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from device.gallery import Gallery, Template
from device.program import InputError
from device.visitors import Trace

NOW = datetime.now(timezone.utc)
LATER = NOW + timedelta(days=1)


def row(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=16).astype(np.float32)
    return vector / np.linalg.norm(vector)


def template(seed: int) -> Template:
    return Template(row(seed), "0123456789abcdef", 1, "yunet", 0.9, f"{seed}.jpg", crop=np.full((112, 112, 3), seed, np.uint8))


def seen(gallery: Gallery, *seeds: int) -> list[int]:
    return [gallery.visit(None, Trace(row(seed), "0123456789abcdef", 1, "yunet", 0.8), NOW, 7)[0].number for seed in seeds]


@pytest.fixture
def gallery(tmp_path: Path):
    with Gallery(tmp_path / "g.db", create=True) as opened:
        opened.add("Ada", [template(1), template(2)])
        opened.add("Bo", [template(3)])
        yield opened


def names(gallery: Gallery) -> list[str]:
    return [person.name for person in gallery.people()]


def test_who_is_withdrawn_comes_back_by_undo_with_everything(gallery: Gallery):
    before = gallery.entries("Ada", crops=True)
    assert gallery.withdraw("Ada") == 2
    assert names(gallery) == ["Bo"] and len(gallery.withdrawn()) == 1
    assert gallery.undo().verb == "withdraw"
    after = gallery.entries("Ada", crops=True)
    assert [entry.number for entry in after] == [entry.number for entry in before]
    assert all(np.array_equal(a.template.crop, b.template.crop) for a, b in zip(after, before, strict=True))
    assert gallery.finish_removals(LATER) == 0 and names(gallery) == ["Ada", "Bo"] and gallery.withdrawn() == []


def test_when_the_time_is_over_nothing_brings_anybody_back(gallery: Gallery):
    stored = row(1).tobytes()
    gallery.withdraw("Ada")
    assert gallery.finish_removals(NOW) == 0
    assert gallery.finish_removals(LATER) == 1
    assert [change.verb for change in gallery.audit()] == ["add", "add", "withdraw", "remove"]
    with pytest.raises(InputError, match="nothing to undo"):
        gallery.undo()
    files = b"".join(path.read_bytes() for path in gallery.path.parent.iterdir())
    assert stored not in files and b"Ada" not in files


def test_whoever_opens_the_gallery_next_finishes_the_removal(gallery: Gallery):
    gallery.withdraw("Ada", minutes=0)
    with Gallery(gallery.path) as again:
        assert [change.verb for change in again.audit()][-1] == "remove"


def test_later_changes_can_be_undone_still(gallery: Gallery):
    gallery.withdraw("Ada")
    gallery.rename("Bo", "Bob")
    gallery.finish_removals(LATER)
    assert gallery.undo().verb == "rename" and names(gallery) == ["Bo"]


def test_several_unknowns_become_one_person_and_one_undo_brings_all_back(gallery: Gallery):
    numbers = seen(gallery, 4, 5, 6)
    assert gallery.enrol(numbers[:2], "Cy") == 2
    assert [unknown.number for unknown in gallery.unknowns()] == numbers[2:]
    gallery.undo()
    assert {unknown.number for unknown in gallery.unknowns()} == set(numbers) and names(gallery) == ["Ada", "Bo"]


def test_unknowns_who_never_matter_deny_from_now_on(gallery: Gallery):
    numbers = seen(gallery, 4, 5)
    assert gallery.dismiss(numbers) == 2
    assert gallery.unknowns() == [] and len(gallery.entries(None)) == 2
    assert gallery.audit()[-1].verb == "ignore"
    gallery.undo()
    assert len(gallery.unknowns()) == 2 and gallery.entries(None) == []


@pytest.mark.parametrize("numbers", [[], [99], [1, 99]])
def test_unknowns_who_are_not_there_change_nothing(gallery: Gallery, numbers: list[int]):
    seen(gallery, 4)
    for verb in (lambda: gallery.enrol(numbers, "Cy"), lambda: gallery.dismiss(numbers)):
        with pytest.raises(InputError):
            verb()
    assert len(gallery.unknowns()) == 1 and names(gallery) == ["Ada", "Bo"]


def test_the_rate_that_is_set_is_told_and_undone(gallery: Gallery):
    assert gallery.far() is None
    gallery.set_far(0.01)
    assert gallery.far() == 0.01
    gallery.undo()
    assert gallery.far() is None


def test_the_picture_of_a_template(gallery: Gallery):
    number = gallery.entries("Bo")[0].number
    assert np.array_equal(gallery.picture(number), np.full((112, 112, 3), 3, np.uint8))
    assert gallery.picture(99) is None
