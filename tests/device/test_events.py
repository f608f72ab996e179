from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from device import events
from device.camera import Frame
from device.decide import Verdict
from device.track import Track

NOW = datetime(2026, 1, 31, 9, 5, 0, 250_000, tzinfo=timezone.utc)
FRAME = Frame(np.zeros((4, 4, 3), np.uint8), 12, NOW, "door.mp4")
TRACK = Track((10.123, 20, np.float32(30), 40), NOW - timedelta(seconds=2), NOW, 12, id=3, frames=61)
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
