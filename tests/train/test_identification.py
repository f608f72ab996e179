import shutil
import zipfile

import cv2
import numpy as np
import pytest

from device.detect import MtcnnDetector
from device.program import InputError
from train import data, identification, labels
from train.identification import Protocol

PEOPLE, PICTURES = 20, 6


@pytest.fixture(scope="module")
def people():
    """Embeddings of 20 people with 6 pictures each, 32-dimensional, well apart, and of 200 who take no part."""
    rng = np.random.default_rng(0)

    def pictures(count: int, each: int) -> np.ndarray:
        rows = np.repeat(rng.normal(size=(count, 32)), each, axis=0) + 0.5 * rng.normal(size=(count * each, 32))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return pictures(PEOPLE, PICTURES), np.repeat(np.arange(PEOPLE), PICTURES), pictures(200, 1)


def crops_of(identities: np.ndarray) -> data.Crops:
    names = [f"set/person{identity:02}/{row}" for row, identity in enumerate(identities)]
    return data.Crops(np.arange(len(identities))[:, None], names)  # an "image" is its row


@pytest.mark.parametrize("shots", [1, 3])
def test_a_split_keeps_people_and_pictures_apart(people, shots):
    _, identities, _ = people
    protocol = Protocol(shots=(shots,), known=8, strangers=9, pictures=5)
    enrolled, probes, strangers = protocol.split(identities, shots, seed=4)
    assert (len(enrolled), len(probes), len(strangers)) == (8 * shots, 8 * (5 - shots), 9 * 5)
    assert len(set(enrolled) | set(probes) | set(strangers)) == 17 * 5, "no picture twice"
    assert set(identities[enrolled]) == set(identities[probes])
    assert not set(identities[enrolled]) & set(identities[strangers])


def test_seeds_differ_and_shots_share_their_split(people):
    _, identities, _ = people
    protocol = Protocol(pictures=6)
    one, three, other = (protocol.split(identities, shots, seed) for shots, seed in ((1, 0), (3, 0), (1, 1)))
    assert set(one[0]) < set(three[0])
    np.testing.assert_array_equal(one[2], three[2])
    assert set(one[2]) != set(other[2])


def test_people_with_too_few_pictures_and_unknown_crops_stay_out():
    identities = np.array([0] * 5 + [1] * 4 + [2] * 5 + [labels.UNKNOWN] * 9)
    enough, known, others = Protocol(shots=(1,), pictures=5).people(identities)
    assert (enough.tolist(), known, others) == ([0, 2], 1, 1)
    protocol = Protocol(shots=(3,), pictures=5, least=4, known=2)
    assert protocol.people(identities)[0].tolist() == [0, 1, 2]
    enrolled, probes, strangers = protocol.split(identities, 3, seed=0)
    assert len(enrolled) == 6
    assert len(probes) + len(strangers) == 5 + 5 + 4 - 6, "nobody is missing, nobody has more than there are"


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        (Protocol(pictures=7), "0 of 20 people have 7 pictures"),
        (Protocol(pictures=6, known=15, strangers=6), "15 known people and 6 strangers"),
        (Protocol(pictures=6, known=0), "0 known people"),
        (Protocol(pictures=6, seeds=0), "over 0 seeds"),
        (Protocol(pictures=5), "1 3 5 of 5 pictures leave none"),
        (Protocol(shots=(0,)), "0 of 8 pictures leave none"),
    ],
)
def test_what_cannot_be_measured_is_one_line(people, protocol, said):
    with pytest.raises(InputError, match=said):
        protocol.people(people[1])


def test_the_best_person_of_the_nearest_templates(people):
    """The device's own rule: mean cosine to the three nearest templates of a person."""
    embeddings, identities, _ = people
    templates, owners = embeddings[identities < 5], identities[identities < 5]
    found, scores = identification.ranker("knn", templates, owners, embeddings[:0])(embeddings[:12])
    for row, probe in enumerate(embeddings[:12]):
        expected = {who: np.sort(templates[owners == who] @ probe)[-3:].mean() for who in range(5)}
        assert found[row] == max(expected, key=expected.get)
        assert scores[row] == pytest.approx(max(expected.values()), abs=1e-6)


def test_planes_part_people_whose_nearest_neighbour_misleads():
    """All templates share a direction that says nothing; strangers as negatives teach the SVM to look past it."""
    rng = np.random.default_rng(0)
    common, own = np.zeros(16), np.eye(16)[1:4]
    common[0] = 3
    strangers = common * rng.uniform(0.3, 2, (100, 1)) + 0.3 * rng.normal(size=(100, 16))
    templates = common + own
    probes = 0.3 * common + own
    unit = [(rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in (templates, strangers, probes)]
    rank = identification.ranker("svm", unit[0], np.array([4, 7, 9]), unit[1])
    found, scores = rank(unit[2])
    assert found.tolist() == [4, 7, 9]
    assert scores.min() > rank(unit[1])[1].max()


@pytest.mark.parametrize("classifier", ["knn", "svm"])
def test_identify(people, classifier, validate):
    embeddings, identities, strangers = people
    protocol = Protocol(shots=(1, 3), classifiers=(classifier,), pictures=6, seeds=3)
    embed = {len(embeddings): embeddings, len(strangers): strangers}
    crops = crops_of(identities)
    negatives = data.Crops(np.arange(len(strangers)), [""] * len(strangers))
    one, three = identification.identify("an encoder", lambda images: embed[len(images)], crops, negatives, protocol)
    for result in (one, three):
        validate(result.as_json(), "identify")
        assert result.found.rank1.mean > 0.95
        assert 0.5 < result.found.dir[0.01].mean <= result.found.rank1.mean
    assert list(one.as_json()["dir"]) == ["0.01"], "180 probes of strangers cannot show a rate of 0.001"
    assert one.as_json()["probes"] == {"known": 150, "strangers": 180}
    assert one.share_of(one) == {"rank1": {"mean": 1, "low": 1, "high": 1}, "dir": {"0.01": {"mean": 1, "low": 1, "high": 1}}}


def test_an_encoder_that_sees_nothing_identifies_nobody(people):
    _, identities, _ = people
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(len(identities), 32)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    protocol = Protocol(shots=(1,), classifiers=("knn",), pictures=6)
    (result,) = identification.identify("noise", lambda images: noise[images[:, 0]], crops_of(identities), None, protocol)
    assert result.found.rank1.mean == pytest.approx(0.1, abs=0.05), "one in ten people, by chance"
    assert result.found.dir[0.01].mean < 0.03


def test_doubles_of_lfw_are_left_out():
    names = [
        "crops/Ricky_Ray/Ricky_Ray_0001",
        "crops/Michael_Schumacher/Michael_Schumacher_0008",
        "crops/Michael_Schumacher/Michael_Schumacher_0001",
    ]
    assert identification.without_doubles(names, np.array([0, 1, 1])).tolist() == [labels.UNKNOWN, labels.UNKNOWN, 1]


def test_the_list_of_doubles_names_crops_of_lfw(data):
    with zipfile.ZipFile(data / "lfw" / "crops.zip") as archive:
        pictures = {name.removesuffix(".webp") for name in archive.namelist()}
    there = pictures | {name.split("/")[0] for name in pictures}
    lines = identification.LFW_DOUBLES.read_text("utf-8").splitlines()
    assert {line.partition("#")[0].strip() for line in lines} - {""} <= there


def test_photos_are_cut_and_named(astronaut, grace_hopper, tmp_path, capsys):
    for person, photo in (("Eileen", astronaut), ("Grace", grace_hopper)):
        (tmp_path / "people" / person).mkdir(parents=True)
        shutil.copy(photo, tmp_path / "people" / person / f"1{photo.suffix}")
    (tmp_path / "people" / "Nobody").mkdir()
    cv2.imwrite(str(tmp_path / "people" / "Nobody" / "1.png"), np.full((64, 64, 3), 128, np.uint8))
    shutil.make_archive(str(tmp_path / "people"), "zip", tmp_path / "people")
    for source in (tmp_path / "people", tmp_path / "people.zip"):
        crops = identification.photo_crops(source, MtcnnDetector())
        assert crops.names == ["people/Eileen/1", "people/Grace/1"]
        assert crops.images.shape == (2, 112, 112, 3)
        assert capsys.readouterr().err == "skipped Nobody/1.png: no face\n"


def test_photos_that_give_nothing(tmp_path, capsys):
    (tmp_path / "people" / "Ann").mkdir(parents=True)
    (tmp_path / "people" / "Ann" / "1.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match="no face in the 1 photos"):
        identification.photo_crops(tmp_path / "people", None)
    assert "skipped Ann/1.jpg" in capsys.readouterr().err
    with pytest.raises(InputError, match="neither a folder nor a zip"):
        identification.photo_crops(tmp_path / "nothing.zip", None)
    with pytest.raises(InputError, match="neither a folder nor a zip"):
        identification.photo_crops(tmp_path / "nothing.zip", None)


def test_a_cohort_is_what_its_list_names(tmp_path):
    names = []
    for number in range(10):
        path = tmp_path / "crops" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((112, 112, 3), number, np.uint8))
        names.append(f"crops/{number}")
    (tmp_path / "cohort.txt").write_text("\n".join(names[:8]))
    assert identification.cohort(tmp_path / "cohort.txt").names == names[:8]
