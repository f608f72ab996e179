"""How times, shares, names and addresses are written on the page."""

from collections.abc import Callable
from datetime import date, datetime, timezone
from urllib.parse import quote

from device.visitors import moment


def local(path: str) -> str:
    """`path` if it is one of this page, else the first page: nobody is led elsewhere."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() and len(path) < 2000
    return quote(path, safe="/?&=%-._~,:") if plain else "/"


def clock(time: str) -> str:
    """An event's time as the clock on the wall has it."""
    return moment(time).astimezone().strftime("%H:%M")


def ago(time: str) -> str:
    """How long ago an event was, roughly."""
    seconds = (datetime.now(timezone.utc) - moment(time)).total_seconds()
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {word}{'' if count == 1 else 's'} ago"
    return "just now"


def day_words(day: date) -> str:
    return f"{day:%A}, {day.day} {day:%B}"


def percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.2g}"


def quoted(text: str) -> str:
    """For the query of an address."""
    return quote(text, safe="")


def last_part(source: str) -> str:
    """The file's name, where a template is of a file."""
    return source.replace("\\", "/").rsplit("/", 1)[-1]


def capfirst(text: str) -> str:
    """A sentence as it begins. A name keeps its letters."""
    return text[:1].upper() + text[1:]


FILTERS: dict[str, Callable[..., str]] = {
    "clock": clock,
    "ago": ago,
    "day": day_words,
    "percent": percent,
    "q": quoted,
    "last_part": last_part,
    "capfirst": capfirst,
}
