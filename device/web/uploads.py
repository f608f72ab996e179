"""Pictures that somebody sends. They are decoded under limits, in a process of its own (device/web/aside.py), looked at, and gone:
nothing of them is stored or sent back but a crop of the face, made of pixels."""

from collections.abc import Sequence
from pathlib import PurePath

from device.camera import decode_picture
from device.collect import Candidate, Skipped, from_picture
from device.detect import Detector
from device.program import InputError

FILES = 20
PIXELS = 36_000_000  # of a picture; a larger JPEG is read at a part of its size


def candidates(files: Sequence[tuple[str, bytes]], name: str, detector: Detector) -> tuple[list[Candidate], list[Skipped]]:
    """What the pictures, each a file name and its content, show of `name`, and those that are of no use."""
    found: list[Candidate] = []
    skipped: list[Skipped] = []
    for number, (title, content) in enumerate(files, 1):
        source = shown(title) or f"picture {number}"
        try:
            found.append(from_picture(decode_picture(content, source, PIXELS), source, name, detector))
        except InputError as error:
            skipped.append(Skipped(source, error))
    return found, skipped


def shown(title: str) -> str:
    """A file name as it may be told: its last part, printable, and not too long."""
    name = "".join(c for c in PurePath(title.replace("\\", "/")).name if c.isprintable())
    return name[-100:]
