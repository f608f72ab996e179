from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from device import events
from device.camera import Frame
from device.decide import Verdict
from device.quality import Quality
from device.track import Track

NOW = datetime(2026, 1, 31, 9, 5, 0, 250_000, tzinfo=timezone.utc)
FRAME = Frame(np.zeros((4, 4, 3), np.uint8), 12, NOW, "door.mp4")
TRACK = Track((10.123, 20, np.float32(30), 40), NOW - timedelta(seconds=2), NOW, 12, id=3, frames=61)
TRACK.evidence.add(np.eye(1, 4, dtype=np.float32)[0], Quality(0.72, "blurred"))
KNOWN = Verdict("known", "Zoë", 0.61, 0.41, ("Bob", 0.1))
UNKNOWN = Verdict("unknown", None, 0.3, 0.41, ("Bob", 0.3))
EMPTY = Verdict("unknown", None, None, 0.41)
ALL = [
    *(events.judged(news, TRACK, verdict, FRAME) for news in ("seen", "changed") for verdict in (KNOWN, UNKNOWN, EMPTY)),
    *(events.gone(TRACK, verdict, FRAME) for verdict in (KNOWN, UNKNOWN, EMPTY)),
    events.notice("gallery-empty", "warning", "nobody is enrolled yet"),
]


@pytest.mark.parametrize("event", ALL)
def test_every_event_follows_the_contract(event, validate):
    validate(event, "event")


def test_a_stamp_is_utc_whatever_the_zone():
    tokyo = NOW.astimezone(timezone(timedelta(hours=9)))
    assert events.stamp(tokyo) == "2026-01-31T09:05:00.250Z"
    assert events.stamp(NOW.replace(microsecond=0)) == "2026-01-31T09:05:00.000Z"


def test_gone_tells_when_the_face_was_there():
    event = events.gone(TRACK, KNOWN, FRAME)
    assert (event["first"], event["last"], event["frames"]) == ("2026-01-31T09:04:58.250Z", "2026-01-31T09:05:00.250Z", 61)
    assert (event["frame"], event["track"], event["source"]) == (12, 3, "door.mp4")


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (events.judged("seen", TRACK, KNOWN, FRAME), "09:05:00.250  #3 seen: Zoë, 0.61 (threshold 0.41)"),
        (events.judged("changed", TRACK, UNKNOWN, FRAME), "09:05:00.250  #3 changed: unknown, at best Bob, 0.30 (threshold 0.41)"),
        (events.judged("seen", TRACK, EMPTY, FRAME), "09:05:00.250  #3 seen: unknown"),
        (events.gone(TRACK, KNOWN, FRAME), "09:05:00.250  #3 gone: Zoë, 0.61 (threshold 0.41), 61 frames"),
        (events.notice("camera-lost", "warning", "the camera is gone", NOW), "09:05:00.250  warning: the camera is gone"),
    ],
)
def test_the_readable_line(event, line: str):
    assert events.line(event) == line


def test_a_name_cannot_break_the_line():
    """Gallery names are printable, so one event is one line whatever is enrolled."""
    assert all("\n" not in events.line(event) for event in ALL)


def test_an_event_tells_quality_runner_up_and_threshold():
    event = events.judged("seen", TRACK, KNOWN, FRAME)
    assert (event["quality"], event["runner_up"], event["threshold"]) == (0.72, {"name": "Bob", "score": 0.1}, 0.41)


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        (KNOWN, "#3 is named Zoë: 0.61 reaches the threshold 0.41, next Bob 0.10 (1 crop of quality 0.72)"),
        (UNKNOWN, "#3 is not named: the best guess is below the threshold 0.41, at best Bob 0.30 (1 crop of quality 0.72)"),
        (Verdict("unknown", None, None, 0.41, why="nobody is enrolled"), "#3 is not named: nobody is enrolled (1 crop of quality 0.72)"),
        (KNOWN.withheld("Zoë is #1"), "#3 is not named: Zoë is #1, at best Zoë 0.61 (1 crop of quality 0.72)"),
    ],
)
def test_the_reason_for_a_verdict(verdict, line: str):
    assert events.reason(TRACK, verdict) == line


def test_the_summary_line_names_what_was_fast_and_how_faces_were_looked_for():
    summary = {"frames": 5, "fps": 31.04, "faces": 1, "looks": 3, "crops": 2, "interval": 3, "detector": {"name": "yunet", "size": 480}}
    summary |= {"ms": {"detect": 10.0, "align": 1.0, "embed": 2.0, "decide": 0.1}, "backend": "cpu", "encoder": "0" * 16}
    assert events.summary_line(summary) == (
        "5 frames at 31.0 a second, 1 face in 3 looks, 2 crops embedded (yunet at 480, looking in every 3rd frame at rest, cpu; "
        "milliseconds a frame: detect 10.0, align 1.0, embed 2.0, decide 0.1)"
    )
