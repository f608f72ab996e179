import io
import json
import logging
import sys

import pytest

from device import events, logs
from device.program import InputError, Parser, run

LOG = logging.getLogger("omokage")


@pytest.fixture
def written(monkeypatch):
    """written("json") -> what the log makes of a few lines."""

    def write(form: str) -> list[str]:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        notice = events.notice("camera-lost", "warning", 'the camera "0" is gone\n')
        with logs.to_stderr(form):
            LOG.info("#1 is named Zoë")
            LOG.warning(events.line(notice), extra={"notice": notice})
            try:
                raise ValueError("x")
            except ValueError:
                LOG.exception("it broke")
        LOG.info("afterwards")
        return stream.getvalue().splitlines()

    return write


def test_json_is_one_object_a_line(written):
    named, notice, broke = [json.loads(line) for line in written("json")]
    assert {key: named[key] for key in ("level", "message")} == {"level": "info", "message": "#1 is named Zoë"}
    assert (notice["level"], notice["message"], notice["code"]) == ("warning", 'the camera "0" is gone\n', "camera-lost")
    assert broke["error"].endswith("ValueError: x")
    assert all(line["time"].endswith("Z") for line in (named, notice, broke))


def test_text_is_as_it_was(written):
    lines = written("text")
    assert lines[0] == "#1 is named Zoë"
    assert lines[1].endswith('  warning: the camera "0" is gone')


def test_the_error_that_ends_a_program_is_in_the_same_form(capsys):
    parser = Parser("x", prog="recognize")
    logs.add_arguments(parser)

    def fail(args):
        raise InputError("the door is shut", "open it")

    assert run(fail, parser, ["--log", "json"]) == 2
    assert json.loads(capsys.readouterr().err) == {"level": "error", "message": "recognize: the door is shut: open it"}
    assert run(fail, parser, []) == 2
    assert capsys.readouterr().err == "recognize: the door is shut: open it\n"
