import json
import re
from pathlib import Path

import pytest
from clock import Clock
from hypothesis import given
from hypothesis import strategies as st

from device import events
from device.homeassistant import Presence, Topics, rings, slug

NASTY = ["Zoë", "a/b", "#", "+", "$SYS", 'quo"te', "it's", "<script>alert(1)</script>", "😀", "日本", "x" * 1000]
NASTY += ["Ada ", " Ada", "ada", "Ada", "\ud800"]


@pytest.fixture
def topics() -> Topics:
    return Topics("door")


@pytest.fixture
def presence(topics: Topics, clock: Clock) -> Presence:
    made = Presence(topics, away=10, clock=clock)
    made.people(["Ada", "Bob"])
    return made


def judged(kind: str, name: str | None, track: int = 1, **more) -> dict:
    return {"event": kind, "track": track, "name": name, "decision": "known" if name else "unknown", "quality": 0.9} | more


def home(presence: Presence, topics: Topics, name: str) -> str:
    return presence.states()[topics.presence(slug(name))]


def test_a_slug_is_safe_in_a_topic_and_no_two_names_share_one():
    slugs = [slug(name) for name in NASTY]
    assert all(re.fullmatch("[a-z0-9_]{12,64}", word) for word in slugs), slugs
    assert len(set(slugs)) == len(NASTY)
    assert slug("Ada Lovelace").startswith("ada_lovelace_")
    assert slug("Zoë").startswith("zoe_")


@given(st.text(min_size=1))
def test_any_name_is_a_safe_slug(name: str):
    assert re.fullmatch("[a-z0-9_]{12,45}", slug(name))
    assert slug(name) == slug(name)


def test_discovery_follows_home_assistants_documentation(topics: Topics, validate):
    names = [name for name in NASTY if name != "\ud800"]  # no gallery holds that one
    messages = topics.discovery({name: slug(name) for name in names})
    assert len(messages) == 2 + 2 * len(names)
    payloads = {}
    for topic, payload in messages.items():
        payloads[topic] = json.loads(payload)
        validate({"component": topic.split("/")[1], "topic": topic, "payload": payloads[topic]}, "discovery")
        assert topic.startswith("homeassistant/")
    ids = [payload["unique_id"] for payload in payloads.values() if "unique_id" in payload]
    assert len(set(ids)) == len(ids) == 1 + 2 * len(names)
    assert {payload["device"]["identifiers"][0] for payload in payloads.values()} == {"omokage_door"}


def test_a_person_is_a_presence_sensor_and_a_time(topics: Topics):
    messages = {topic: json.loads(payload) for topic, payload in topics.discovery({"Ada": "ada_1"}, "ha").items()}
    sensor = messages["ha/binary_sensor/omokage_door_ada_1/config"]
    assert (sensor["name"], sensor["device_class"], sensor["state_topic"]) == ("Ada", "presence", "omokage/door/people/ada_1")
    assert (sensor["payload_on"], sensor["payload_off"], sensor["availability_topic"]) == ("home", "not_home", "omokage/door/status")
    seen = messages["ha/sensor/omokage_door_ada_1_seen/config"]
    assert (seen["name"], seen["device_class"], seen["state_topic"]) == ("Ada last seen", "timestamp", "omokage/door/people/ada_1/seen")
    bell = messages["ha/device_automation/omokage_door_doorbell/config"]
    assert (bell["automation_type"], bell["topic"], bell["payload"]) == ("trigger", "omokage/door/doorbell", "unknown")


def test_somebody_is_home_from_being_seen_until_the_time_is_out(presence: Presence, topics: Topics, clock: Clock):
    assert home(presence, topics, "Ada") == "not_home"
    presence.note(judged("seen", "Ada"))
    clock.now += 3600  # in front of the camera all the time
    assert (home(presence, topics, "Ada"), home(presence, topics, "Bob")) == ("home", "not_home")
    presence.note(judged("gone", "Ada"))
    clock.now += 599
    assert home(presence, topics, "Ada") == "home"
    clock.now += 2
    assert home(presence, topics, "Ada") == "not_home"


def test_on_second_thoughts_it_was_somebody_else(presence: Presence, topics: Topics, clock: Clock):
    presence.note(judged("seen", "Ada"))
    presence.note(judged("changed", "Bob"))
    clock.now += 601
    assert (home(presence, topics, "Ada"), home(presence, topics, "Bob")) == ("not_home", "home")
    presence.note(judged("changed", None))
    clock.now += 601
    assert home(presence, topics, "Bob") == "not_home"


def test_when_somebody_was_last_seen_is_a_time_with_its_zone(presence: Presence, topics: Topics, clock: Clock):
    assert topics.seen(slug("Ada")) not in presence.states()
    presence.note(judged("seen", "Ada"))
    assert presence.states()[topics.seen(slug("Ada"))] == "1970-01-12T13:46:40.000Z"


def test_presence_outlives_a_restart_and_a_clock_that_is_set_back(presence: Presence, topics: Topics, clock: Clock):
    presence.note(judged("seen", "Ada"))
    presence.note(judged("gone", "Ada"))
    kept = json.loads(json.dumps(presence.last()))
    again = Presence(topics, 10, last=kept, clock=clock)
    again.people(["Ada", "Bob"])
    clock.now += 60
    assert (home(again, topics, "Ada"), home(again, topics, "Bob")) == ("home", "not_home")
    clock.now -= 86400
    assert home(again, topics, "Ada") == "not_home"


def test_who_is_removed_leaves_nothing(presence: Presence, topics: Topics):
    presence.note(judged("seen", "Ada"))
    presence.people(["Bob"])
    assert not [topic for topic in presence.states() if "ada" in topic]
    assert presence.last() == {}


def test_the_cameras_health(presence: Presence, topics: Topics):
    assert presence.states()[topics.camera] == "ok"
    presence.note(events.notice("camera-lost", "warning", ""))
    presence.note(events.notice("gallery-reloaded", "info", ""))
    assert presence.states()[topics.camera] == "lost"
    presence.note(events.notice("camera-back", "info", ""))
    assert presence.states()[topics.camera] == "ok"


def test_without_a_prefix_nothing_is_discovered(topics: Topics):
    presence = Presence(topics, prefix=None)
    presence.people(["Ada"])
    assert {topic.split("/")[0] for topic in presence.states()} == {"omokage"}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (judged("seen", None), True),
        (judged("changed", None), True),
        (judged("gone", None), False),
        (judged("seen", "Ada"), False),
        (judged("seen", None, decision="review"), False),
        (judged("seen", None, quality=0.1), False),  # a face too poor to be anybody's
        (events.notice("camera-lost", "warning", ""), False),
    ],
)
def test_the_bell_rings_for_unknown_people_only(event: dict, expected: bool):
    assert rings(event) is expected


def test_the_automations_in_the_documents_are_of_topics_that_there_are(topics: Topics):
    page = (Path(__file__).parents[2] / "docs" / "home-assistant.md").read_text("utf-8")
    used = set(re.findall(r"^ *topic: (.+)$", page, re.MULTILINE))
    assert used == {topics.doorbell, topics.events}
    for what in (topics.events, topics.camera, topics.doorbell, topics.status, topics.presence("SLUG"), topics.seen("SLUG")):
        assert f"`{what}`" in page
    entities = set(re.findall(r"entity_id: binary_sensor\.omokage_door_(\w+)", page))
    assert entities == {"ada", "camera"}
