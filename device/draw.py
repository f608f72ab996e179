"""Pictures for people: frames with boxes and names, contact sheets, videos of them."""

import contextlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from device.decide import Verdict
from device.program import InputError, replacing
from device.track import Track

# BGR, told apart by colour-blind people too (Okabe and Ito 2008); None: not decided yet.
COLOURS = {"known": (115, 158, 0), "unknown": (0, 94, 213), "review": (66, 228, 240), None: (160, 160, 160)}
FONT = cv2.FONT_HERSHEY_SIMPLEX
LEAST = 16  # pixels: no side of a video is shorter
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}


def annotate(image: np.ndarray, sightings: Iterable[tuple[Track, Verdict | None]]) -> np.ndarray:
    """A copy of the BGR `image` [H, W, 3] with a box and a label for each track and its verdict (None: not settled)."""
    image = image.copy()
    size = max(image.shape[0] / 720, 0.45)  # of the text, relative to OpenCV's 22 pixels
    thick = max(1, round(2 * size))
    for track, verdict in sightings:
        colour = COLOURS[verdict.decision if verdict else None]
        x, y, width, height = (round(float(v)) for v in track.box)
        cv2.rectangle(image, (x, y), (x + width, y + height), colour, 2 * thick)
        if verdict is not None:
            _label(image, label(track, verdict), (x, y), size, thick, colour)
    return image


def label(track: Track, verdict: Verdict) -> str:
    """Name and score in ASCII, all that cv2.putText can draw: accents go; for a name in another script `#` and the track."""
    name = verdict.name or (track.stranger.name if track.stranger else verdict.decision)
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    shown = plain if plain.isascii() else f"#{track.id}"
    return shown if verdict.score is None else f"{shown} {verdict.score:.2f}"


def _label(image: np.ndarray, text: str, corner: tuple[int, int], size: float, thick: int, colour: tuple[int, int, int]) -> None:
    """`text` on a filled bar above `corner`, moved so far that it lies inside the image."""
    (width, height), below = cv2.getTextSize(text, FONT, size, thick)
    bar = height + below + 4 * thick
    x = max(0, min(corner[0] - thick, image.shape[1] - width - 4 * thick))
    y = max(0, min(corner[1] - bar, image.shape[0] - bar))
    cv2.rectangle(image, (x, y), (x + width + 4 * thick, y + bar), colour, cv2.FILLED)
    cv2.putText(image, text, (x + 2 * thick, y + height + 2 * thick), FONT, size, (255, 255, 255), thick, cv2.LINE_AA)


def fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """The BGR `image`, scaled to lie inside `width` x `height`, its margins black."""
    if image.shape[:2] == (height, width):
        return image
    scale = min(width / image.shape[1], height / image.shape[0])
    w, h = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    x, y = (width - w) // 2, (height - h) // 2
    result = np.zeros((height, width, 3), np.uint8)
    result[y : y + h, x : x + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return result


def contact_sheet(frames: Sequence[np.ndarray], columns: int = 4, rows: int = 3, width: int = 320) -> np.ndarray:
    """Up to `columns` x `rows` of the BGR `frames`, evenly picked, each `width` pixels wide, in one BGR picture."""
    if not frames:
        raise ValueError("a contact sheet needs at least one frame")
    picked = [frames[i] for i in np.linspace(0, len(frames) - 1, min(len(frames), columns * rows)).round().astype(int)]
    height = round(width * frames[0].shape[0] / frames[0].shape[1])
    tiles = [cv2.copyMakeBorder(fit(frame, width, height), 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255,) * 3) for frame in picked]
    columns = min(columns, len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


@contextlib.contextmanager
def recording(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a video: yields a function that takes a BGR frame [H, W, 3]. The first one decides the size of all.

    The video appears under its name when the block ends, and not at all if it fails or wrote no frame.
    Raises InputError for a suffix without a codec or a folder that cannot be written to.
    """
    if path.suffix.lower() not in CODECS:
        raise InputError(f"cannot write a video called {path.name}", f"give it one of the suffixes {', '.join(CODECS)}")
    writer = cv2.VideoWriter()
    size = (0, 0)
    with contextlib.suppress(_Empty), replacing(path) as temporary:

        def write(image: np.ndarray) -> None:
            nonlocal size
            if not writer.isOpened():
                size = max(LEAST, image.shape[1] // 2 * 2), max(LEAST, image.shape[0] // 2 * 2)  # codecs halve the colour planes
                code = cv2.VideoWriter.fourcc(*CODECS[path.suffix.lower()])
                if not writer.open(str(temporary), code, fps, size):
                    raise InputError(f"OpenCV cannot write {path.name} here", "choose another of the suffixes " + ", ".join(CODECS))
            writer.write(fit(image, *size))

        try:
            yield write
        finally:
            writer.release()
        if size == (0, 0):
            raise _Empty


class _Empty(Exception):
    """No frame was written."""
