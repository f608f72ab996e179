import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.program import InputError
from train import labels


def test_the_folder_is_the_person():
    found, people = labels.read(["set/ann/1", "set/bob/1", "set/ann/2", "set/loose"])
    assert people == ["ann", "bob"]
    np.testing.assert_array_equal(found, [0, 1, 0, labels.UNKNOWN])


def test_a_table_names_crops_and_leaves_others_unknown(tmp_path):
    table = tmp_path / "who.csv"
    table.write_text("picture,identity\nset/1,zoe\nset/2,ann\nelsewhere/9,bob\n")
    found, people = labels.read(["set/1", "set/2", "set/3"], table)
    assert people == ["ann", "zoe"]
    np.testing.assert_array_equal(found, [1, 0, labels.UNKNOWN])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("picture,name\na,b\n", "its first line is not picture,identity"),
        ("", "its first line is not"),
        ("picture,identity\nother/1,ann\n", "names none of the 1 crops"),
        (None, "cannot read the labels"),
    ],
)
def test_labels_that_fit_nothing_are_one_line(tmp_path, text, said):
    table = tmp_path / "who.csv"
    if text is not None:
        table.write_text(text)
    with pytest.raises(InputError, match=said):
        labels.read(["set/1"], table)


def test_crops_in_no_folder_of_a_person():
    with pytest.raises(InputError, match="give folders PERSON/PICTURE"):
        labels.read(["set/1", "set/2"])


def test_an_empty_folder_of_a_person_is_one_line(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "1.png").write_bytes(b"")
    labels.refuse_empty_folders([tmp_path, tmp_path / "crops.zip"])
    (tmp_path / "bob" / "more").mkdir(parents=True)
    with pytest.raises(InputError, match=r"bob is empty: add pictures of bob, or remove it"):
        labels.refuse_empty_folders([tmp_path])


def test_a_line_of_a_table_that_is_no_pair_is_named(tmp_path):
    table = tmp_path / "who.csv"
    table.write_text("picture,identity\nset/1,ann\nset/2\n")
    with pytest.raises(InputError, match="line 3, is not a picture and an identity"):
        labels.read(["set/1"], table)


@settings(deadline=None)
@given(st.lists(st.integers(-1, 8), min_size=1, max_size=40), st.floats(0, 1), st.integers(0, 5))
def test_parts_share_nobody(people, share, seed):
    identities = np.array(people)
    known = set(people) - {labels.UNKNOWN}
    if not 0 < round(share * len(known)) < len(known):
        with pytest.raises(InputError, match="cannot be parted"):
            labels.split(identities, share, seed)
        return
    part = labels.split(identities, share, seed)
    assert len(set(identities[part])) == round(share * len(known))
    assert not set(identities[part]) & (set(identities[~part]) | {labels.UNKNOWN})


def test_few_people_and_pictures_lie_within_more():
    identities = np.array([0, 0, 0, 1, 1, 1, 1, 2, 3, 3, labels.UNKNOWN, labels.UNKNOWN])
    few, pictures, people = (labels.few(identities, *how, seed=5) for how in ((2, 2), (2, 3), (3, 2)))
    assert (np.unique(identities[few], return_counts=True)[1] == 2).all()
    assert (few <= pictures).all() and (few <= people).all()
    assert set(identities[people]) == {0, 1, 3}, "person 2 has one picture, and nobody is no person"
    with pytest.raises(InputError, match="3 people have two pictures or more, not 4"):
        labels.few(identities, 4, 2)
