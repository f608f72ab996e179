"""The package face_recognition on video clips, in an environment of its own; benchmarks/pipeline.py runs it.

  python -m venv .venv-peer
  .venv-peer/bin/pip install dlib-bin face_recognition_models "setuptools<81" numpy pillow click opencv-python-headless
  .venv-peer/bin/pip install --no-deps face_recognition
  .venv-peer/bin/python benchmarks/peer.py --people p1=p1-a.mp4 p2=p2-a.mp4 --probes p1-b.mp4 p5-a.mp4

It is used as its own examples use it: `frame` looks at every frame at full size (facerec_from_video_file.py), `quarter` at every
second one at a quarter of its size (facerec_from_webcam_faster.py); tolerance 0.6. Only detecting, encoding and comparing is timed.
To save time every STEP-th frame alone is looked at: each stands for itself. Prints one JSON object.
"""

import argparse
import json
import sys
import time
import warnings
from collections import Counter

import cv2
import numpy as np

warnings.simplefilter("ignore")  # face_recognition_models uses pkg_resources
import face_recognition  # noqa: E402

TOLERANCE = 0.6  # the package's own
ENROLLED = 8  # frames of a clip that a person is enrolled from
MODES = {"frame": (1.0, 1), "quarter": (0.25, 2)}  # scale, and of how many frames one is looked at


def frames(path, step):
    """Every `step`-th frame of a video, RGB uint8 [H, W, 3]."""
    video, index = cv2.VideoCapture(path), 0
    while (image := video.read()[1]) is not None:
        if index % step == 0:
            yield np.ascontiguousarray(image[:, :, ::-1])
        index += 1


def encodings(image, scale):
    """Of each face in an RGB `image` shrunk by `scale`: [N, 128]."""
    small = cv2.resize(image, (0, 0), fx=scale, fy=scale) if scale != 1 else image
    return face_recognition.face_encodings(small, face_recognition.face_locations(small))


def enrol(people):
    """Names and encodings [N, 128] from evenly spaced frames of each person's clip."""
    names, known = [], []
    for name, path in people:
        images = list(frames(path, 1))
        for index in np.linspace(0, len(images) - 1, ENROLLED).astype(int):
            for encoding in encodings(images[index], 1.0)[:1]:
                names.append(name)
                known.append(encoding)
    return names, np.array(known)


def recognise(path, names, known, step, scale):
    """Frames, seconds, seconds of all cores, faces, and how often each name (or "unknown") was given."""
    count, faces, seconds, cpu, given = 0, 0, 0.0, 0.0, Counter()
    for image in frames(path, step):
        start, busy = time.perf_counter(), time.process_time()
        for encoding in encodings(image, scale):
            distances = face_recognition.face_distance(known, encoding)
            best = int(np.argmin(distances))
            given[names[best] if distances[best] <= TOLERANCE else "unknown"] += 1
            faces += 1
        seconds += time.perf_counter() - start
        cpu += time.process_time() - busy
        count += 1
    return {"frames": count, "seconds": seconds, "cpu": cpu, "faces": faces, "names": given}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", nargs="+", required=True, metavar="NAME=CLIP", help="who is enrolled, and from what")
    parser.add_argument("--probes", nargs="+", required=True, metavar="CLIP", help="what is recognised")
    parser.add_argument("--step", type=int, default=10, help="of how many frames one is looked at (default: %(default)s)")
    args = parser.parse_args()
    names, known = enrol([word.split("=", 1) for word in args.people])
    found = {}
    for mode, (scale, every) in MODES.items():
        rows = {path: recognise(path, names, known, args.step, scale) for path in args.probes}
        seen, seconds, cpu = (sum(row[key] for row in rows.values()) for key in ("frames", "seconds", "cpu"))
        # A frame that is not looked at costs nothing here: of `every` frames one is.
        found[mode] = {"fps": every * seen / seconds, "cpu": 1000 * cpu / (every * seen), "clips": rows}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
