"""What the recogniser tells the world: the objects of tests/contracts/event.schema.json, and a readable line for each."""

import uuid
from datetime import datetime, timezone
from typing import Any

from device.camera import Frame
from device.decide import Verdict
from device.track import Track
from device.visitors import unknown_name

Event = dict[str, Any]


def stamp(time: datetime) -> str:
    """A time as events write it: UTC, ISO 8601, milliseconds, as in 2026-01-31T09:05:00.250Z."""
    return time.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def judged(news: str, track: Track, verdict: Verdict, frame: Frame) -> Event:
    """`news` "seen": a track got its first settled verdict; "changed": the settled verdict changed."""
    return _about(news, track, verdict, frame)


def gone(track: Track, verdict: Verdict, frame: Frame) -> Event:
    """A track ended: `frame` is where that was noticed, `first` and `last` tell when the face was there."""
    ends = {"first": stamp(track.first_time), "last": stamp(track.last_time), "frames": track.frames}
    return _about("gone", track, verdict, frame) | ends


def notice(code: str, level: str, message: str, time: datetime | None = None) -> Event:
    """Something about the machine, `level` "info", "warning" or "error"."""
    time = time or datetime.now(timezone.utc)
    return {"event": "notice", "id": _id(), "time": stamp(time), "code": code, "level": level, "message": message}


def _about(kind: str, track: Track, verdict: Verdict, frame: Frame) -> Event:
    runner_up = verdict.runner_up and {"name": verdict.runner_up[0], "score": round(verdict.runner_up[1], 4)}
    return {
        "event": kind,
        "id": _id(),
        "time": stamp(frame.time),
        "frame": frame.index,
        "source": frame.source,
        "track": track.id,
        "decision": verdict.decision,
        "name": verdict.name,
        "score": None if verdict.score is None else round(verdict.score, 4),
        "threshold": round(verdict.threshold, 4),
        "probability": None if verdict.probability is None else round(verdict.probability, 4),
        "quality": round(track.evidence.quality, 4),
        "runner_up": runner_up,
        "box": [round(float(v), 1) for v in track.box],
    } | _stranger(track, verdict)


def _id() -> str:
    """What tells an event from every other, also where it is sent more than once."""
    return uuid.uuid4().hex


def _stranger(track: Track, verdict: Verdict) -> dict[str, Any]:
    """The number of a stranger who is remembered."""
    if track.stranger is None or verdict.name is not None:
        return {}
    return {"unknown": {"number": track.stranger.number, "visits": track.stranger.visits}}


def reason(track: Track, verdict: Verdict) -> str:
    """One line for the log: why the face of `track` was named, or why not."""
    best, evidence = verdict.runner_up, track.evidence
    seen = f"{_count(evidence.crops, 'crop')} of quality {evidence.quality:.2f}"
    if verdict.name is not None:
        why = f"{verdict.score:.2f} reaches the threshold {verdict.threshold:.2f}" + (f", next {best[0]} {best[1]:.2f}" if best else "")
        return f"#{track.id} is named {verdict.name}: {why} ({seen})"
    why = verdict.why or f"the best guess is below the threshold {verdict.threshold:.2f}"
    guess = f", at best {best[0]} {best[1]:.2f}" if best else ""
    who = f"; it is {_visitor(track.stranger.number, track.stranger.visits)}" if track.stranger else ""
    return f"#{track.id} is not named: {why}{guess} ({seen}){who}"


def line(event: Event) -> str:
    """One readable line, such as `09:05:00.250  #1 seen: Ada, 0.62 (threshold 0.41)`."""
    clock = event["time"][11:23]
    if event["event"] == "notice":
        return f"{clock}  {event['level']}: {event['message']}"
    who = event["name"] or (_visitor(**event["unknown"]) if "unknown" in event else event["decision"])
    text = f"{clock}  #{event['track']} {event['event']}: {who}"
    if event["score"] is not None:
        guess = f"at best {event['runner_up']['name']}, " if event["name"] is None and event["runner_up"] else ""
        text += f", {guess}{event['score']:.2f} (threshold {event['threshold']:.2f})"
    if event["event"] == "gone":
        text += f", {_count(event['frames'], 'frame')}"
    return text


def summary_line(summary: dict[str, Any]) -> str:
    """The summary (tests/contracts/summary.schema.json) as a readable line."""
    speed = ", ".join(f"{stage} {ms:.1f}" for stage, ms in summary["ms"].items())
    detector = summary["detector"]
    found = f"{_count(summary['faces'], 'face')} in {_count(summary['looks'], 'look')}, {_count(summary['crops'], 'crop')} embedded"
    looks = f"{detector['name']} at {detector['size']}, looking in {_every(summary['interval'])} frame at rest"
    return (
        f"{_count(summary['frames'], 'frame')} at {summary['fps']:.1f} a second, {found} "
        f"({looks}, {summary['backend']}; milliseconds a frame: {speed})"
    )


def _visitor(number: int, visits: int) -> str:
    return f"{unknown_name(number)}, {_ordinal(visits)} visit"


def _every(number: int) -> str:
    return "every" if number == 1 else f"every {_ordinal(number)}"


def _ordinal(number: int) -> str:
    """As in "every 3rd"."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
