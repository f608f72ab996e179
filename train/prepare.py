"""Cut aligned crops out of photos.

  python train/prepare.py photos/ more/photo.jpg --out crops/

Every photo gives at most one crop, of the face with the largest area times nearness to the middle; photos without a
face are listed on stderr. Crops are WebP files of 112x112 pixels with the photos' names, for pretrain.py and quantize.py.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from device import detect
from device.align import align
from device.camera import PICTURES, read_picture
from device.program import InputError, Parser, replacing, run

QUALITY = 90  # of the WebP files


def photos(paths: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """(photo, its path below the folder that was named) of every picture in `paths`, folders searched to the bottom."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from ((p, p.relative_to(path)) for p in sorted(path.rglob("*")) if p.suffix.lower() in PICTURES)
        else:
            yield path, Path(path.name)


def main_face(detections: list[detect.Detection], height: int, width: int) -> detect.Detection:
    """The face that the photo is of: the largest area, less where it is far from the middle."""

    def weight(detection: detect.Detection) -> float:
        x, y, w, h = detection.box
        off = np.hypot(x + w / 2 - width / 2, y + h / 2 - height / 2) / np.hypot(width / 2, height / 2)
        return w * h * (1 - 0.7 * min(off, 1.0))

    return max(detections, key=weight)


def crop(photo: Path, detector: detect.Detector) -> np.ndarray | None:
    """The crop uint8 RGB [112, 112, 3] of a photo, or None where it shows no face. Raises InputError (not readable)."""
    image = read_picture(photo)
    detections = detector.detect(image)
    return align(image, main_face(detections, *image.shape[:2]).landmarks) if detections else None


def prepare(paths: Iterable[Path], out: Path, detector: detect.Detector) -> tuple[int, list[tuple[Path, str]]]:
    """Write a crop of every photo to `out`; returns how many, and the photos left out with the reason."""
    made, skipped = 0, []
    for photo, name in tqdm(list(photos(paths)), unit="photo", disable=not sys.stderr.isatty()):
        try:
            image = crop(photo, detector)
        except InputError as error:
            skipped.append((photo, error.wrong))
            continue
        if image is None:
            skipped.append((photo, "no face"))
            continue
        encoded = cv2.imencode(".webp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])[1]
        with replacing(out / name.with_suffix(".webp")) as temporary:
            temporary.write_bytes(encoded.tobytes())
        made += 1
    return made, skipped


def parser() -> Parser:
    result = Parser(__doc__)
    result.add_argument("photos", type=Path, nargs="+", metavar="PHOTO|FOLDER")
    result.add_argument("--out", type=Path, required=True, help="folder of the crops")
    detect.add_arguments(result)
    return result


def _main(args: argparse.Namespace) -> int:
    missing = [path for path in args.photos if not path.exists()]
    if missing:
        raise InputError(f"{missing[0]} is not there", "check the name")
    made, skipped = prepare(args.photos, args.out, detect.of_arguments(args))
    for photo, reason in skipped:
        print(f"skipped {photo}: {reason}", file=sys.stderr)
    if not made:
        raise InputError(f"none of {len(skipped)} pictures gave a crop", "name photos that show a face of 40 pixels or more")
    print(f"{made} crops in {args.out}, {len(skipped)} photos left out")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run(_main, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
