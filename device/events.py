"""What the recogniser tells the world: the objects of tests/contracts/event.schema.json, and a readable line for each."""

from datetime import datetime, timezone
from typing import Any

from device.camera import Frame
from device.decide import Verdict
from device.track import Track

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
    return {"event": "notice", "time": stamp(time), "code": code, "level": level, "message": message}


def _about(kind: str, track: Track, verdict: Verdict, frame: Frame) -> Event:
    runner_up = verdict.runner_up and {"name": verdict.runner_up[0], "score": round(verdict.runner_up[1], 4)}
    return {
        "event": kind,
        "time": stamp(frame.time),
        "frame": frame.index,
        "source": frame.source,
        "track": track.id,
        "decision": verdict.decision,
        "name": verdict.name,
        "score": None if verdict.score is None else round(verdict.score, 4),
        "threshold": round(verdict.threshold, 4),
        "runner_up": runner_up,
        "box": [round(float(v), 1) for v in track.box],
    }


def line(event: Event) -> str:
    """One readable line, such as `09:05:00.250  #1 seen: Ada, 0.62 (threshold 0.41)`."""
    clock = event["time"][11:23]
    if event["event"] == "notice":
        return f"{clock}  {event['level']}: {event['message']}"
    text = f"{clock}  #{event['track']} {event['event']}: {event['name'] or event['decision']}"
    if event["score"] is not None:
        guess = f"at best {event['runner_up']['name']}, " if event["decision"] == "unknown" and event["runner_up"] else ""
        text += f", {guess}{event['score']:.2f} (threshold {event['threshold']:.2f})"
    if event["event"] == "gone":
        text += f", {_count(event['frames'], 'frame')}"
    return text


def summary_line(summary: dict[str, Any]) -> str:
    """The summary (tests/contracts/summary.schema.json) as a readable line."""
    speed = ", ".join(f"{stage} {ms:.1f}" for stage, ms in summary["ms"].items())
    return (
        f"{_count(summary['frames'], 'frame')} at {summary['fps']:.1f} a second, {_count(summary['faces'], 'face')} in them "
        f"({summary['backend']}; milliseconds a frame: {speed})"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
