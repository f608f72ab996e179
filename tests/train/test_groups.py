import numpy as np
import pytest

from train import groups

NAMES = [
    "utkface/3_0_0_1.chip",
    "utkface/25_1_1_2.chip",
    "utkface/25_1_1_3.chip",
    "utkface/61_1_2017.chip",
    "aaf/00001A02",
    "utkface/30_7_9_4",
]


def test_file_names_of_utkface():
    found = groups.of_utkface(NAMES)
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "male": [0],
        "female": [1, 2],
        "White": [0],
        "Black": [1, 2],
        "White male": [0],
        "Black female": [1, 2],
        "age 0-4": [0],
        "age 20-39": [1, 2],
    }


def test_every_picture_of_utkface_in_the_cohort_has_its_groups(data):
    names = [line for line in (data / "crops" / "cohort.txt").read_text().splitlines() if line.startswith("utkface/")]
    found = groups.of_utkface(names)
    people = {row for group in groups.SEXES for row in found[group]}
    assert people == {row for band in (f"age {low}-{high}" for low, high in groups.AGES) for row in found[band]}
    assert len(people) > 0.99 * len(names)


def test_a_picture_may_be_in_several_groups_of_a_table(tmp_path):
    table = tmp_path / "groups.csv"
    table.write_text("picture,group\nb,tall\na,tall\na,old\na,old\nc,old\n")
    found = groups.of_table(table, ["a", "b"])
    assert {name: rows.tolist() for name, rows in found.items()} == {"old": [0], "tall": [0, 1]}


def test_pictures_that_occur_twice_count_once():
    images = np.zeros((4, 2, 2, 3), np.uint8)
    images[1], images[3] = 7, 7
    assert groups.distinct(images).tolist() == [0, 1]


def test_the_threshold_at_a_rate_and_the_rate_at_that_threshold():
    rows = np.random.default_rng(0).normal(size=(300, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    threshold = groups.threshold_at(rows, 0.01)
    everybody, first, alone = groups.rates(rows, {"first": np.arange(100), "alone": np.array([3]), "half": np.arange(0, 300, 2)}, threshold)
    assert everybody.rate.mean == pytest.approx(0.01, abs=1e-4)
    assert (first.group, first.pictures) == ("first", 100)
    within = [rows[i] @ rows[j] >= threshold for i in range(100) for j in range(i)]
    assert first.rate.mean == pytest.approx(np.mean(within))
    assert first.times == pytest.approx(first.rate.mean / everybody.rate.mean)
    assert alone.group == "half", "one picture makes no pair"


def test_where_nothing_matches_no_group_is_worse():
    everybody, half = groups.rates(np.eye(10), {"half": np.arange(5)}, 0.5)
    assert (everybody.rate.mean, half.times) == (0, None)
    assert half.as_json()["fmr"]["high"] > everybody.as_json()["fmr"]["high"] > 0
