"""Scenes to learn from: photos cut, turned, scaled, put side by side, lit, blurred and covered, with the faces in them.

numpy and OpenCV, one thread, a few milliseconds each. Mosaics show faces of several sizes at once, and edges where no face
continues (Bochkovskiy et al. 2020, arXiv:2004.10934, section 3.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from device import boxes, faces
from train.detector.photos import Photo
from train.detector.teacher import mirrored

FACE, DOUBT = 1, 2  # kinds of a row; 0: there is none
MOST = 32  # rows of a scene; further faces are doubts nobody is told of, which is rare enough
SMALLEST = 12.0  # pixels (square root of the box's area) of a face to be found; smaller ones are doubts
SEEN, HIDDEN = 0.6, 0.15  # share of a face's box within its tile: from the first on it is a face, below the second background
EVENLY = 0.7  # of the faces have any size as likely as twice it, the others any size as likely as any: the small ones are many
LEVELS = np.arange(256) / 255
ENLARGED_AGAIN = 1.2  # at most, of a scene that was shown before
ENLARGED = 2.5  # at most; beyond it a face is but a blur


@dataclass(frozen=True)
class Sources:
    """What tiles show, and how often: photos with faces, photos without people, close crops of one face each."""

    photos: Sequence[Photo]
    empty: Sequence[Photo]
    crops: Sequence[Photo] = ()

    def draw(self, rng: np.random.Generator) -> Photo:
        kinds = [(0.62, self.photos), (0.23, self.empty), (0.15, self.crops)]
        kinds = [(share, photos) for share, photos in kinds if photos]
        shares = np.array([share for share, _ in kinds])
        photos = kinds[rng.choice(len(kinds), p=shares / shares.sum())][1]
        return photos[int(rng.integers(len(photos)))]


def scene(sources: Sources, rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scene uint8 RGB [height, width, 3], its rows float32 [MOST, 15] (device/boxes.py), and their kinds int32 [MOST]."""
    picture = np.empty((height, width, 3), np.uint8)
    rows, kinds = [np.empty((0, boxes.ROW), np.float32)], [np.empty(0, np.int32)]
    for left, top, right, bottom in _tiles(rng, height, width):
        tile, found, kind = _tile(sources, rng, bottom - top, right - left)
        picture[top:bottom, left:right] = tile
        rows.append(moved(found, np.array([[1, 0, left], [0, 1, top]])))
        kinds.append(kind)
    every, kind = np.concatenate(rows), np.concatenate(kinds)
    _cover(picture, every[kind == FACE], rng)
    picture = _shot(picture, rng)
    largest = np.argsort(-every[:, 2] * every[:, 3])[:MOST]
    padded, told = np.zeros((MOST, boxes.ROW), np.float32), np.zeros(MOST, np.int32)
    padded[: len(largest)], told[: len(largest)] = every[largest], kind[largest]
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), padded, told


def batch(sources: Sources, seed: Sequence[int], count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`count` scenes: uint8 [N, height, width, 3], float32 [N, MOST, 15], int32 [N, MOST]. The same for the same `seed`."""
    rng = np.random.default_rng(seed)
    pictures, rows = np.empty((count, height, width, 3), np.uint8), np.empty((count, MOST, boxes.ROW), np.float32)
    kinds = np.empty((count, MOST), np.int32)
    for number in range(count):
        pictures[number], rows[number], kinds[number] = scene(sources, rng, height, width)
    return pictures, rows, kinds


def varied(pictures: np.ndarray, rows: np.ndarray, kinds: np.ndarray, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same scenes in another order, each a part of itself that is enlarged to all of it, mirrored at random and lit anew: an
    eighth of the time that new ones take. Arrays as `batch` gives them."""
    rng = np.random.default_rng(seed)
    height, width = pictures.shape[1:3]
    found = np.empty_like(pictures), np.zeros_like(rows), np.zeros_like(kinds)
    for place, number in enumerate(rng.permutation(len(pictures))):
        faces, scale = rows[number][kinds[number] > 0], rng.uniform(1, ENLARGED_AGAIN)
        left, top = (scale - 1) * rng.random(2) * (width, height)
        matrix = np.array([[scale, 0, -left], [0, scale, -top]])
        faces = moved(faces, matrix)
        if rng.random() < 0.5:
            faces, matrix = mirrored(faces, width), np.array([[-1, 0, width], [0, 1, 0]]) @ np.vstack([matrix, [0, 0, 1]])
        faces, told = _kept(faces, kinds[number][kinds[number] > 0] == FACE, height, width)
        _warp(pictures[number], matrix, found[0][place], cv2.BORDER_REPLICATE)
        cv2.LUT(found[0][place], _light(rng, 0.5), dst=found[0][place])
        found[1][place, : len(faces)], found[2][place, : len(faces)] = faces, told
    return found


def _tiles(rng: np.random.Generator, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of one, two or four tiles."""
    across, down = (int(rng.uniform(0.3, 0.7) * side) for side in (width, height))
    chosen = rng.random()
    if chosen < 0.55:
        return [(0, 0, width, height)]
    if chosen < 0.7:
        return [(0, 0, across, height), (across, 0, width, height)]
    return [(0, 0, across, down), (across, 0, width, down), (0, down, across, height), (across, down, width, height)]


def _tile(sources: Sources, rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo, somehow placed, on what lies beside it; its rows and their kinds."""
    photo = sources.draw(rng)
    shape, rows, sure = photo.image.shape[:2], photo.faces.rows, photo.faces.sure
    mirror = rng.random() < 0.5
    if mirror:
        rows = mirrored(rows, shape[1])
    matrix = _placed(rows[sure], shape, rng, height, width)
    image = photo.level(float(np.hypot(*matrix[0, :2])))  # warping samples, it does not average
    ratio = np.array(shape[::-1]) / image.shape[1::-1]
    onto = matrix @ np.array([[-ratio[0], 0, shape[1]], [0, ratio[1], 0], [0, 0, 1]]) if mirror else matrix * [*ratio, 1]
    tile, border = _backdrop(sources, rng, height, width)
    _warp(image, onto, tile, border)
    return (tile, *_kept(moved(rows, matrix), sure, height, width))


def _warp(image: np.ndarray, matrix: np.ndarray, onto: np.ndarray, border: int) -> None:
    """The image under the affine `matrix` [2, 3], drawn over `onto`. Places are those of rows, where the first pixel reaches from 0
    to 1; OpenCV's have it at 0."""
    centred = matrix + np.array([[0, 0, each] for each in matrix[:, :2].sum(axis=1) / 2 - 0.5])
    cv2.warpAffine(image, centred, onto.shape[1::-1], dst=onto, flags=cv2.INTER_LINEAR, borderMode=border)


def _backdrop(sources: Sources, rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, int]:
    """What lies beside a photo, uint8 [height, width, 3], and OpenCV's border mode: grey, a colour, another photo, or its own edge."""
    beside = rng.random()
    tile: np.ndarray = np.full((height, width, 3), faces.GREY, np.uint8)
    if beside > 0.3 and sources.empty:
        photo = sources.empty[int(rng.integers(len(sources.empty)))]
        part = photo.level(max(height / photo.image.shape[0], width / photo.image.shape[1]))
        tile = cv2.resize(part[: int(rng.uniform(0.4, 1) * len(part)) + 1], (width, height))
    elif beside > 0.2:
        tile[:] = rng.integers(0, 256, 3)
    return tile, cv2.BORDER_REPLICATE if beside < 0.1 else cv2.BORDER_TRANSPARENT


def _placed(faces: np.ndarray, shape: tuple[int, int], rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """The similarity [2, 3] that puts a photo of `shape` into a tile: one of its faces (rows [N, 15]) somewhere, in a size
    from SMALLEST to all of the tile; without a face any part of the photo."""
    size, angle = np.array([width, height]), rng.normal(0, 10) if rng.random() < 0.92 else rng.uniform(-60, 60)
    if len(faces):
        x, y, w, h = faces[rng.integers(len(faces)), :4]
        side, extent = float(np.sqrt(w * h)), np.array([w, h])
        largest = 1.1 * min(size / extent) * side
        log = rng.random() < EVENLY
        wanted = np.exp(rng.uniform(np.log(SMALLEST), np.log(largest))) if log else rng.uniform(SMALLEST, largest)
        scale = min(wanted / side, ENLARGED)
        centre = np.array([x, y]) + extent / 2
        reach = np.maximum(size - scale * extent, 0) / 2 + 0.1 * scale * extent  # now and then a little beyond the edge
        target = size / 2 + rng.uniform(-1, 1, 2) * reach
    else:
        scale = np.exp(rng.uniform(np.log(0.7), np.log(2.0))) * max(height / shape[0], width / shape[1])
        centre = rng.uniform(0.3, 0.7, 2) * (shape[1], shape[0])
        target = size / 2
    cosine, sine = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.hstack([turn, (target - turn @ centre)[:, None]])


def moved(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The rows [N, 15] after the similarity `matrix` [2, 3]. A turned box is that of the turned ellipse within it."""
    centres = rows[:, :2] + rows[:, 2:4] / 2
    squares, sides = matrix[:, :2] ** 2, rows[:, 2:4] ** 2
    extents = np.sqrt(sides @ squares.T)  # [N, 2]
    turned = rows.copy()
    turned[:, :2] = centres @ matrix[:, :2].T + matrix[:, 2] - extents / 2
    turned[:, 2:4] = extents
    points = rows[:, 4:14].reshape(-1, 5, 2)
    turned[:, 4:14] = (points @ matrix[:, :2].T + matrix[:, 2]).reshape(-1, 10)
    return turned


def _kept(rows: np.ndarray, sure: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows that a tile shows, and their kinds."""
    ends = np.minimum(rows[:, :2] + rows[:, 2:4], (width, height))
    visible = np.clip(ends - np.maximum(rows[:, :2], 0), 0, None).prod(axis=1) / np.maximum(rows[:, 2:4].prod(axis=1), 1e-6)
    side = np.sqrt(rows[:, 2:4].prod(axis=1))
    kinds = np.where(sure & (visible >= SEEN) & (side >= SMALLEST), FACE, DOUBT)
    shown = visible > HIDDEN
    return rows[shown], kinds[shown].astype(np.int32)


def _cover(picture: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> None:
    """Boxes of one colour, or of another part of the picture, over a part of some faces: hands, masks, frames."""
    height, width = picture.shape[:2]
    for x, y, w, h in faces[rng.random(len(faces)) < 0.15, :4]:
        across, down = rng.uniform(0.3, 1.0) * w, rng.uniform(0.15, 0.45) * h
        left, top = (int(np.clip(start + rng.random() * extent, 0, most - 1)) for start, extent, most in ((x, w, width), (y, h, height)))
        part = picture[top : top + int(down) + 1, left : left + int(across) + 1]
        if rng.random() < 0.5:
            part[:] = rng.integers(0, 256, 3)
        else:
            off_y, off_x = (int(rng.integers(0, most - extent + 1)) for most, extent in zip((height, width), part.shape[:2], strict=True))
            part[:] = picture[off_y : off_y + part.shape[0], off_x : off_x + part.shape[1]].copy()


def _shot(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What light and a camera make of a picture: brightness, contrast, colour, shade, blur, noise, compression."""
    height, width = picture.shape[:2]
    if rng.random() < 0.15:
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    picture = cv2.LUT(picture, _light(rng))
    if rng.random() < 0.3:
        shade = cv2.resize(np.exp(rng.normal(0, 0.45, (3, 4))).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        picture = cv2.multiply(picture, cv2.merge([shade] * 3), dtype=cv2.CV_8U)
    blurred = rng.random()
    if blurred < 0.15:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.6))
    elif blurred < 0.2:
        picture = cv2.blur(picture, (int(rng.integers(2, 7)), 1) if rng.random() < 0.7 else (1, int(rng.integers(2, 5))))
    if rng.random() < 0.2:
        noise = np.empty((height, width, 3), np.int16)
        cv2.setRNGSeed(int(rng.integers(2**31)))
        cv2.randn(noise, np.zeros(3), np.full(3, rng.uniform(2, 16)))
        picture = cv2.add(picture, noise, dtype=cv2.CV_8U)
    if rng.random() < 0.2:
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 85))])[1]
        picture = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return picture


def _light(rng: np.random.Generator, share: float = 1.0) -> np.ndarray:
    """What every level becomes in another light, for OpenCV: uint8 [256, 1, 3]. `share` of the usual change."""
    gamma, gain, tint = (np.exp(rng.normal(0, share * spread, size)) for spread, size in ((0.25, 1), (0.2, 1), (0.07, 3)))
    levels = 255 * gain * tint * (LEVELS**gamma)[:, None] + rng.normal(0, 12 * share)
    return np.clip(levels, 0, 255).astype(np.uint8)[:, None]
