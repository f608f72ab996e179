import numpy as np
import pytest

from device.classify import Neighbours
from device.decide import AGREE, DISPUTE, HOLD, IGNORED, Denials, NearestNeighbours, OpenSet, Opinion, Verdict, one_name_each


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
    assert decide() == Verdict("unknown", None, None, 0.5, None, "nobody is enrolled", stranger=True)


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


@pytest.mark.parametrize(("cosine", "decision", "name"), [(0.9, "known", "Ada"), (0.7, "review", None), (0.5, "unknown", None)])
def test_between_known_and_unknown_lies_a_review_band(cosine: float, decision: str, name: str | None):
    decider = OpenSet(Neighbours(np.array([at(cosine), at(0.1)]), ["Ada", "Bob"]), 0.8, review=0.6, probability=lambda score: score / 2)
    verdict = decider.decide(PROBE)
    assert (verdict.decision, verdict.name, verdict.threshold) == (decision, name, 0.8)
    assert verdict.probability == pytest.approx(cosine / 2)
    assert verdict.runner_up[0] == ("Bob" if name else "Ada")
    assert ("near the threshold" in (verdict.why or "")) == (decision == "review")
    assert verdict.withheld("because").probability == verdict.probability


def refuse(probe: np.ndarray, review: float = 0.6, **denied: float) -> Verdict:
    """The verdict where faces with these cosines to PROBE are not Ada, not Bob, or (Nobody) to be ignored."""
    people = Neighbours(np.array([at(0.9), at(0.8), at(0.7)]), names := ["Ada", "Ada", "Bob"])
    whose = [None if name == "Nobody" else name for name in denied]
    denials = Denials(np.array([at(cosine) for cosine in denied.values()]), whose, np.array([at(0.9), at(0.8), at(0.7)]), names, 0.75)
    return OpenSet(people, 0.65, review, denials=denials).decide(probe)


def test_who_looks_more_like_a_face_that_is_not_ada_is_not_ada():
    assert refuse(PROBE, Ada=0.89).name == "Ada", "her own template is nearer"
    verdict = refuse(PROBE, Ada=0.95)
    assert (verdict.name, verdict.score, verdict.runner_up) == ("Bob", pytest.approx(0.7), None)
    verdict = refuse(PROBE, Ada=0.95, Bob=0.8)
    assert (verdict.decision, verdict.score, verdict.runner_up, verdict.stranger) == ("unknown", None, None, True)
    assert verdict.why == "it looks more like a face that is not Ada"
    assert refuse(at(0.0), Ada=0.1).why is None, "she would not have been named anyway"
    assert refuse(PROBE, Carol=1.0).name == "Ada", "of somebody who has no template"


def test_a_face_to_ignore_gets_no_name_and_is_no_stranger():
    verdict = refuse(PROBE, Nobody=0.95)
    assert (verdict.decision, verdict.name, verdict.why, verdict.stranger) == ("unknown", None, IGNORED, False)
    assert verdict.runner_up == ("Ada", pytest.approx(0.85))
    assert refuse(PROBE, Nobody=0.89).name == "Ada"
    assert refuse(PROBE, Nobody=0.8, Ada=0.95, Bob=0.9).why == IGNORED, "and nobody else is left"


@pytest.mark.parametrize(("cosine", "ignored"), [(0.5, False), (0.8, True)])
def test_a_stranger_is_ignored_only_if_it_looks_like_that_face(cosine: float, ignored: bool):
    denials = Denials(at(cosine)[None], [None], np.zeros((0, 4), np.float32), [], 0.75)
    verdict = OpenSet(Neighbours(np.zeros((0, 4), np.float32), []), 0.65, denials=denials).decide(PROBE)
    assert (verdict.why == IGNORED, verdict.stranger) == (ignored, not ignored)


def test_a_verdict_is_on_a_stranger_unless_something_else_is_the_matter():
    assert decide(Ada=[0.1]).stranger and decide().stranger
    assert not decide(Ada=[0.9]).stranger
    assert not decide(Ada=[0.9]).withheld("its crops disagree").stranger


ADA = Verdict("known", "Ada", 0.7, 0.5)
BOB = Verdict("known", "Bob", 0.6, 0.5)
NOBODY = Verdict("unknown", None, 0.4, 0.5)


def settled(*verdicts: Verdict) -> list[Verdict | None]:
    """What is settled after each of the verdicts."""
    opinion = Opinion()
    history = []
    for verdict in verdicts:
        opinion.update(verdict)
        history.append(opinion.settled)
    return history


def test_the_first_verdict_is_settled_when_enough_agree():
    assert settled(ADA, ADA, ADA, ADA) == [None] * (AGREE - 1) + [ADA, ADA]
    assert settled(ADA, BOB, ADA, ADA, ADA) == [None] * 4 + [ADA]


def test_in_a_photo_the_first_verdict_is_enough():
    opinion = Opinion(agree=1)
    opinion.update(ADA)
    assert opinion.settled == ADA


def test_crops_that_never_agree_name_nobody():
    history = settled(*[ADA, BOB] * DISPUTE)
    assert history[DISPUTE - 2] is None
    last = history[DISPUTE - 1]
    assert (last.decision, last.name, last.why) == ("unknown", None, "its crops disagree")
    assert last.runner_up in (("Ada", 0.7), ("Bob", 0.6))


def test_the_settled_score_follows_the_newest():
    newer = Verdict("known", "Ada", 0.9, 0.5)
    assert settled(ADA, ADA, ADA, newer)[-1] == newer


def test_another_verdict_has_to_hold():
    assert settled(*[ADA] * AGREE, *[BOB] * (HOLD + 1))[AGREE:] == [ADA] * (HOLD - 1) + [BOB, BOB]


@pytest.mark.parametrize("rivals", [[NOBODY, NOBODY, ADA], [BOB, NOBODY], [BOB] * (HOLD - 1) + [ADA]])
def test_verdicts_that_flicker_or_take_turns_change_nothing(rivals: list[Verdict]):
    assert set(settled(*[ADA] * AGREE, *rivals * 10)[AGREE:]) == {ADA}


def test_an_opinion_is_firm_while_nothing_contradicts_it():
    opinion = Opinion()
    firm = []
    for verdict in (ADA, ADA, ADA, BOB, ADA):
        opinion.update(verdict)
        firm.append(opinion.firm)
    assert firm == [False, False, True, False, True]


@pytest.mark.parametrize(("verdicts", "decision", "why"), [([ADA], "unknown", "seen too briefly"), ([NOBODY], "unknown", None)])
def test_a_face_that_leaves_before_anything_is_settled_is_not_named(verdicts, decision, why):
    opinion = Opinion()
    for verdict in verdicts:
        opinion.update(verdict)
    opinion.conclude()
    assert (opinion.settled.decision, opinion.settled.name) == (decision, None)
    assert (why in opinion.settled.why) if why else (opinion.settled.why is None)


def test_what_is_settled_stays_at_the_end_and_nothing_comes_of_nothing():
    opinion = Opinion()
    opinion.conclude()
    assert opinion.settled is None
    opinion.settle(ADA)
    opinion.update(BOB)
    opinion.conclude()
    assert opinion.settled == ADA


def contest(holders: dict[str, int], threshold: float = 0.5, **scores: tuple[int, float]) -> dict[int, Verdict]:
    """Who is settled as whom after the contest: scores are key=(track, score), a key's letters are the name."""
    opinions = {}
    for key, (track, score) in scores.items():
        opinions[track] = Opinion()
        opinions[track].settle(Verdict("known", key.rstrip("0123456789"), score, threshold))
    one_name_each(opinions.items(), holders)
    return {track: opinion.settled for track, opinion in opinions.items()}


def test_the_higher_score_keeps_the_name_and_the_other_is_told_why():
    found = contest({}, Ada1=(1, 0.6), Ada2=(2, 0.8), Bob=(3, 0.7))
    assert {track: verdict.name for track, verdict in found.items()} == {1: None, 2: "Ada", 3: "Bob"}
    assert (found[1].decision, found[1].runner_up, found[1].why) == ("unknown", ("Ada", 0.6), "Ada is #2 in the same frame")


def test_who_has_the_name_keeps_it_unless_clearly_outdone():
    assert contest({"Ada": 1}, Ada1=(1, 0.60), Ada2=(2, 0.63))[1].name == "Ada"
    assert contest({"Ada": 1}, Ada1=(1, 0.60), Ada2=(2, 0.70))[1].name is None


def test_what_outdoes_is_measured_by_the_scale_of_the_encoder():
    """Where strangers already score 0.9, a hundredth is much."""
    assert contest({"Ada": 1}, threshold=0.94, Ada1=(1, 0.960), Ada2=(2, 0.963))[1].name == "Ada"
    assert contest({"Ada": 1}, threshold=0.94, Ada1=(1, 0.960), Ada2=(2, 0.970))[1].name is None


def test_equal_scores_leave_one_name():
    assert [verdict.name for verdict in contest({}, Ada1=(1, 0.6), Ada2=(2, 0.6), Ada3=(3, 0.6)).values()] == ["Ada", None, None]
