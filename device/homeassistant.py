"""What Home Assistant is told: its discovery messages, and who is at home. Topics and payloads only; device/mqtt.py sends them.

https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery, and there binary_sensor.mqtt, sensor.mqtt, device_trigger.mqtt.
"""

import hashlib
import json
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from device import events
from device.events import Event
from device.quality import USEFUL

PREFIX = "homeassistant"  # Home Assistant's own default
AWAY = 10.0  # minutes after which somebody who was not seen again is not at home
FRESH = 30.0  # seconds after which an unknown person has gone from the door: a bell that rings later misleads
HOME, NOT_HOME, ONLINE, OFFLINE, OK, LOST, UNKNOWN = "home", "not_home", "online", "offline", "ok", "lost", "unknown"
READABLE = 32  # characters of a name that are kept in topics


def slug(name: str) -> str:
    """A word for topics and ids, [a-z0-9_] only, that no two names share: what can be read of the name, and 48 bits of its SHA-256."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    readable = re.sub("[^a-z0-9]+", "_", plain)[:READABLE].strip("_")
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{readable}_{digest}" if readable else digest


def rings(event: Event) -> bool:
    """Whether an unknown person came: a face that is good enough to be known by, and is not."""
    return event["event"] in ("seen", "changed") and event["decision"] == "unknown" and event["quality"] >= USEFUL


class Topics:
    """Where a device (a word of [A-Za-z0-9_-]) publishes."""

    def __init__(self, device: str):
        self.device = device
        base = f"omokage/{device}"
        self.events, self.status, self.camera, self.doorbell = (f"{base}/{what}" for what in ("events", "status", "camera", "doorbell"))
        self._people = f"{base}/people"

    def presence(self, word: str) -> str:
        """For a person's slug."""
        return f"{self._people}/{word}"

    def seen(self, word: str) -> str:
        return f"{self.presence(word)}/seen"

    def discovery(self, names: Mapping[str, str], prefix: str = PREFIX) -> dict[str, str]:
        """Topics and payloads (JSON) that make Home Assistant show a device with the camera's health, a doorbell, and people.

        `names` and their slugs.
        """
        found = {
            self._config(prefix, "binary_sensor", "camera"): {
                **self._entity("camera", "Camera", self.camera),
                "device_class": "connectivity",
                "entity_category": "diagnostic",
                "payload_on": OK,
                "payload_off": LOST,
            },
            self._config(prefix, "device_automation", "doorbell"): {
                "automation_type": "trigger",
                "type": "unknown person",  # shown as "doorbell unknown person"
                "subtype": "doorbell",
                "topic": self.doorbell,
                "payload": UNKNOWN,
                "qos": 1,
                **self._origin(),
            },
        }
        for name, word in names.items():
            found[self._config(prefix, "binary_sensor", word)] = {
                **self._entity(word, name, self.presence(word)),
                "device_class": "presence",
                "payload_on": HOME,
                "payload_off": NOT_HOME,
            }
            found[self._config(prefix, "sensor", f"{word}_seen")] = {
                **self._entity(f"{word}_seen", f"{name} last seen", self.seen(word)),
                "device_class": "timestamp",
            }
        return {topic: json.dumps(config, ensure_ascii=False) for topic, config in found.items()}

    def _config(self, prefix: str, component: str, what: str) -> str:
        return f"{prefix}/{component}/omokage_{self.device}_{what}/config"

    def _entity(self, what: str, name: str, state: str) -> dict[str, Any]:
        return {
            "name": name,
            "unique_id": f"omokage_{self.device}_{what}",
            "state_topic": state,
            "availability_topic": self.status,
            "qos": 1,
            **self._origin(),
        }

    def _origin(self) -> dict[str, Any]:
        """Which device it is about, and who says so."""
        device = {"identifiers": [f"omokage_{self.device}"], "name": f"Omokage {self.device}", "model": "face recogniser"}
        return {"device": {**device, "manufacturer": "Omokage"}, "origin": {"name": "Omokage"}}


class Presence:
    """Who is at home: who is in front of the camera, or was within `away` minutes. Safe from any thread.

    `last` is when each was last seen (slug: seconds since 1970), to be remembered across restarts. Without a `prefix` there are no
    discovery messages.
    """

    def __init__(
        self,
        topics: Topics,
        away: float = AWAY,
        prefix: str | None = PREFIX,
        last: dict[str, float] | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self._topics, self._away, self._prefix, self._clock = topics, 60 * away, prefix, clock
        self._last = dict(last or {})
        self._here: dict[int, str] = {}  # track: name
        self._camera = OK
        self._lock = threading.Lock()
        self.people(())

    def people(self, names: Iterable[str]) -> None:
        """Who is enrolled; whoever is not any more is forgotten."""
        with self._lock:
            self._names = {name: slug(name) for name in sorted(names)}
            self._discovery = self._topics.discovery(self._names, self._prefix) if self._prefix else {}

    def note(self, event: Event) -> None:
        """Take in what an event tells. The clock counts, not the event's time: a file's frames have times of their own."""
        with self._lock:
            if event["event"] == "notice":
                self._camera = {"camera-lost": LOST, "camera-back": OK}.get(event["code"], self._camera)
                return
            before = self._here.pop(event["track"], None)
            for name in {before, event["name"]} - {None}:
                self._last[slug(str(name))] = self._clock()
            if event["name"] and event["event"] != "gone":
                self._here[event["track"]] = event["name"]

    def last(self) -> dict[str, float]:
        """Of those who are enrolled."""
        with self._lock:
            return {word: self._last[word] for word in self._names.values() if word in self._last}

    def states(self) -> dict[str, str]:
        """All that is retained: topics and their payloads."""
        with self._lock:
            topics, here = self._topics, {slug(name) for name in self._here.values()}
            states = {**self._discovery, topics.status: ONLINE, topics.camera: self._camera}
            for word in self._names.values():
                when = self._last.get(word)
                recent = when is not None and abs(self._clock() - when) < self._away  # abs: clocks are set back, too
                states[topics.presence(word)] = HOME if word in here or recent else NOT_HOME
                if when is not None:
                    states[topics.seen(word)] = events.stamp(datetime.fromtimestamp(when, timezone.utc))
            return states
