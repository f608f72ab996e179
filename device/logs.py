"""The log on stderr: plain lines for people, or one JSON object a line for machines."""

import argparse
import contextlib
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timezone

from device.events import stamp

FORMATS = ("text", "json")


class JsonLines(logging.Formatter):
    """{"time", "level", "message"}, with a notice's "code", and with "error" where the log tells of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": stamp(datetime.fromtimestamp(record.created, timezone.utc)),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if notice := getattr(record, "notice", None):
            told |= {"message": notice["message"], "code": notice["code"]}
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The option --log, for `to_stderr(args.log)`."""
    parser.add_argument("--log", choices=FORMATS, default="text", help="how stderr is written (default: %(default)s)")


@contextlib.contextmanager
def to_stderr(form: str = "text") -> Iterator[None]:
    """Within the block the log goes to stderr."""
    logger, handler = logging.getLogger("omokage"), logging.StreamHandler()
    if form == "json":
        handler.setFormatter(JsonLines())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
