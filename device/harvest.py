"""Crops of the faces that a recogniser meets, kept for naming later. Opt-in, the best of each track only, and capped.

harvest.jsonl   a line a crop: file, quality, look, source, track, time, preprocessing
*.png           the crops, 112x112
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

import cv2
import numpy as np

from device.align import SIZE, VERSION
from device.camera import Frame
from device.collect import Candidate
from device.coverage import Look, look
from device.detect import Detection
from device.program import InputError, OmokageError, StoredError
from device.store import private
from device.track import Track

INDEX = "harvest.jsonl"
MOST = 2000  # crops of a folder
OF_TRACK = 5  # crops of one track: neighbours in time show the same
APART = timedelta(seconds=0.5)  # between two of them


class Harvest:
    """Takes crops while a source is watched, and writes the best of each track when it has ended without being known.

    `kept` counts the files in `folder`, which is made, for its owner's eyes alone; at `most` no further crop is written.
    Raises InputError where the folder cannot be made, or holds other things. `notify` is told, once, what cannot be written or that
    the folder is full; nothing is kept any more then.
    """

    def __init__(self, folder: Path, notify: Callable[[str, str], None], most: int = MOST):
        self.folder, self.most, self._notify = Path(folder), most, notify
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            strange = any(self.folder.iterdir()) and not is_harvest(self.folder)
        except OSError as error:
            raise InputError(f"cannot write to {folder} ({error.strerror})", "name another folder with --harvest") from error
        if strange:
            raise InputError(f"{folder} holds other things", "name an empty folder with --harvest, or one of an earlier harvest")
        self._lines = _lines(self.folder) if is_harvest(self.folder) else []
        self._tracks: dict[Track, list[tuple[datetime, Candidate]]] = {}
        self._ended = False

    @property
    def kept(self) -> int:
        return len(self._lines)

    def take(self, track: Track, frame: Frame, detection: Detection, crop: np.ndarray, quality: float) -> None:
        """Offer a crop of a track: RGB uint8 [112, 112, 3]."""
        if self._ended:
            return
        own = self._tracks.setdefault(track, [])
        offered = frame.time, Candidate(crop, quality, frame.source, look(detection.landmarks, crop))
        near = next((place for place, (time, _) in enumerate(own) if abs(frame.time - time) < APART), None)
        if near is None:
            own.append(offered)
        elif own[near][1].quality < quality:
            own[near] = offered
        if len(own) > OF_TRACK:
            own.remove(min(own, key=lambda entry: entry[1].quality))

    def end(self, track: Track) -> None:
        """The track has ended: keep the best of it, unless it was too brief to be a face, or is known."""
        own, verdict = self._tracks.pop(track, []), track.opinion.settled
        if not track.id or (verdict is not None and verdict.name is not None):
            return
        for time, candidate in own:
            try:
                if self.kept >= self.most:
                    raise OSError(f"it holds {self.most} crops")
                self._write(track.id, time, candidate)
            except (OSError, OmokageError, cv2.error) as error:
                if not self._ended:
                    self._notify("harvest-ended", f"no more crops are kept in {self.folder} ({error}): cluster them, then harvest anew")
                self._ended = True

    def _write(self, track: int, time: datetime, candidate: Candidate) -> None:
        name = f"{self.kept + 1:05}.png"
        with private(self.folder / name) as temporary:
            if not cv2.imwrite(str(temporary), cv2.cvtColor(candidate.crop, cv2.COLOR_RGB2BGR)):
                raise OSError("the disk is full")
        facts = {"file": name, "quality": round(candidate.quality, 4), "look": candidate.look and list(asdict(candidate.look).values())}
        facts |= {"source": candidate.source, "track": track, "time": time.isoformat(timespec="milliseconds"), "preprocessing": VERSION}
        line = json.dumps(facts, ensure_ascii=False)
        with os.fdopen(os.open(self.folder / INDEX, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "a", encoding="utf-8") as index:
            index.write(line + "\n")
        self._lines.append(facts)


def is_harvest(folder: Path) -> bool:
    return (Path(folder) / INDEX).is_file()


def read(folder: Path) -> list[Candidate]:
    """The crops of a harvest. Raises StoredError for one that is damaged or of other preprocessing."""
    return [_candidate(Path(folder), line) for line in _lines(Path(folder))]


def _lines(folder: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in (folder / INDEX).read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise StoredError(f"{folder / INDEX} is damaged ({error})", "harvest anew into another folder") from error


def _candidate(folder: Path, facts: dict) -> Candidate:
    try:
        path, version = folder / Path(facts["file"]).name, facts["preprocessing"]
        angles = None if facts["look"] is None else Look(*facts["look"])
        source, quality = f"{facts['source']} track {facts['track']}", float(facts["quality"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoredError(f"{folder / INDEX} is damaged ({error})", "harvest anew into another folder") from error
    image = cv2.imread(str(path)) if path.is_file() else None
    if image is None or image.shape != (SIZE, SIZE, 3):
        raise StoredError(f"{path} is no crop of {SIZE}x{SIZE}", "harvest anew into another folder")
    if version != VERSION:
        raise StoredError(f"{folder} holds crops of preprocessing {version}, this program makes {VERSION}", "harvest anew")
    return Candidate(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), quality, source, angles)
