import numpy as np
import pytest

from device.decide import HOLD, NearestNeighbours, Opinion, Verdict


def at(cosine: float) -> np.ndarray:
    """A unit vector with this cosine to PROBE."""
    return np.array([cosine, np.sqrt(1 - cosine**2), 0, 0], np.float32)


PROBE = at(1.0)


def decide(threshold: float = 0.5, k: int = 3, **people: list[float]) -> Verdict:
    """The verdict on PROBE where each person's templates have these cosines to it."""
    names = [name for name, cosines in people.items() for _ in cosines]
    embeddings = np.array([at(c) for cosines in people.values() for c in cosines], np.float32).reshape(-1, 4)
    return NearestNeighbours(embeddings, names, threshold, k).decide(PROBE)


def test_the_best_person_at_or_above_the_threshold_is_known():
    verdict = decide(Ada=[0.8], Bob=[0.3])
    assert (verdict.decision, verdict.name, verdict.threshold) == ("known", "Ada", 0.5)
    assert verdict.score == pytest.approx(0.8)
    assert verdict.runner_up == ("Bob", pytest.approx(0.3))


def test_the_threshold_itself_is_enough():
    assert decide(threshold=1.0, Ada=[1.0]).decision == "known"


def test_below_the_threshold_a_face_is_unknown_and_the_best_guess_is_the_runner_up():
    verdict = decide(Ada=[0.1], Bob=[0.4])
    assert (verdict.decision, verdict.name) == ("unknown", None)
    assert verdict.score == pytest.approx(0.4)
    assert verdict.runner_up == ("Bob", pytest.approx(0.4))


def test_an_empty_gallery_knows_nobody():
    assert decide() == Verdict("unknown", None, None, 0.5, None)


def test_a_single_person_has_no_runner_up():
    assert decide(Ada=[0.9]).runner_up is None


def test_the_score_is_the_mean_of_the_k_nearest_templates():
    assert decide(Ada=[0.9, 0.8, 0.7, 0.1, -0.5]).score == pytest.approx(0.8)
    assert decide(Ada=[0.9, 0.7]).score == pytest.approx(0.8)  # fewer than k: all of them
    assert decide(k=1, Ada=[0.9, 0.7]).score == pytest.approx(0.9)


def test_one_lucky_template_does_not_beat_three_good_ones():
    verdict = decide(Lucky=[0.9, 0.1, 0.1], Good=[0.7, 0.7, 0.7])
    assert verdict.name == "Good"


def test_templates_of_a_person_need_not_stand_together():
    embeddings = np.array([at(0.9), at(0.2), at(0.7)])
    verdict = NearestNeighbours(embeddings, ["Ada", "Bob", "Ada"], 0.5).decide(PROBE)
    assert verdict.score == pytest.approx(0.8)


def test_a_name_for_each_embedding():
    with pytest.raises(ValueError, match="2 embeddings and 1 names"):
        NearestNeighbours(np.array([at(0.1), at(0.2)]), ["Ada"], 0.5)


ADA = Verdict("known", "Ada", 0.7, 0.5)
BOB = Verdict("known", "Bob", 0.6, 0.5)
NOBODY = Verdict("unknown", None, 0.4, 0.5)


def opinions(*verdicts: Verdict) -> tuple[Opinion, list[str | None]]:
    opinion = Opinion()
    return opinion, [opinion.update(verdict) for verdict in verdicts]


def test_the_first_verdict_is_seen_and_the_same_again_is_no_news():
    opinion, news = opinions(ADA, ADA, ADA)
    assert news == ["seen", None, None]
    assert opinion.settled == ADA


def test_the_settled_score_follows_the_newest():
    newer = Verdict("known", "Ada", 0.9, 0.5)
    assert opinions(ADA, newer)[0].settled == newer


def test_a_change_that_holds_is_told_once():
    opinion, news = opinions(ADA, *[BOB] * (HOLD + 3))
    assert news == ["seen", *[None] * (HOLD - 1), "changed", None, None, None]
    assert opinion.settled == BOB


def test_a_verdict_that_flickers_changes_nothing():
    opinion, news = opinions(ADA, *[NOBODY, NOBODY, ADA] * 10)
    assert news == ["seen"] + [None] * 30
    assert opinion.settled == ADA


def test_rivals_that_take_turns_change_nothing():
    opinion, news = opinions(ADA, *[BOB, NOBODY] * 10)
    assert set(news[1:]) == {None}
    assert opinion.settled == ADA
