"""Galleries as files to carry: an export (one versioned JSON file, sealed if wanted) and a backup (a whole gallery).

An export holds people with names, sources and crops, or embeddings only: numbers without anything else that tells who it is.
"""

import base64
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from device.coverage import Look
from device.gallery import Entry, Gallery, Template, valid_name
from device.program import InputError, StoredError
from device.store import private
from device.vault import SALT, Broken, Vault

SCHEMA = 1
SEALED = b"omokage sealed export\n"
People = list[tuple[str | None, list[Template]]]  # None: faces to ignore


def export(gallery: Gallery, path: Path, embeddings_only: bool = False, key: bytes | None = None) -> int:
    """Write all people of `gallery` to the file `path`, its owner's alone, sealed under `key` if there is one; how many.

    Raises InputError (cannot be written).
    """
    people = [None, *(person.name for person in gallery.people())]
    listed = [
        {"name": None if embeddings_only else name, "ignored": name is None, "templates": _listed(entries, embeddings_only)}
        for name in people
        if (entries := gallery.entries(name, crops=not embeddings_only)) or name is not None
    ]
    content = json.dumps({"omokage": "gallery", "schema": SCHEMA, "people": listed}, ensure_ascii=False, indent=1).encode() + b"\n"
    if key is not None:
        salt = os.urandom(SALT)
        content = SEALED + salt + Vault(key, salt).seal(content, "export")
    with private(path) as temporary:
        temporary.write_bytes(content)
    gallery.note("export")
    return len(people) - 1


def read(path: Path, key: bytes | None = None) -> People:
    """The people in an export. Those without a name are called "somebody 1", ...

    Raises InputError (no such file, no key) or StoredError (no export, damaged, another key, a newer one).
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "check its name") from error
    if content.startswith(SEALED):
        content = _unsealed(path, content.removeprefix(SEALED), key)
    try:
        document = json.loads(content)
        if document["omokage"] != "gallery":
            raise ValueError("it is something else")
        if document["schema"] > SCHEMA:
            raise StoredError(f"{path} has schema {document['schema']}, this program reads up to {SCHEMA}", "update Omokage")
        people = []
        for number, entry in enumerate(document["people"], start=1):
            name = None if entry["ignored"] else f"somebody {number}" if entry["name"] is None else valid_name(entry["name"])
            people.append((name, [_template(facts) for facts in entry["templates"]]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}"[:100]
        raise StoredError(f"{path} is not an export of a gallery or is damaged ({reason})", "export it again") from error
    return people


def backup(gallery: Gallery, path: Path) -> None:
    """Copy the whole gallery, also while others use it, to the one file `path`, its owner's alone. Raises InputError."""
    path = Path(path)
    if path.exists() and path.samefile(gallery.path):
        raise InputError(f"{path} is the gallery itself", "name another file")
    gallery.note("backup")
    gallery.copy(path)


def _listed(entries: Sequence[Entry], bare: bool) -> list[dict[str, Any]]:
    return [_facts(entry.template, bare) for entry in entries]


def _facts(template: Template, bare: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "embedding": base64.b64encode(np.asarray(template.embedding, "<f4").tobytes()).decode(),
        "encoder": template.encoder,
        "preprocessing": template.preprocessing,
        "detector": template.detector,
        "quality": template.quality,
        "denies": template.denies,
        "look": None if template.look is None else [template.look.yaw, template.look.pitch, template.look.light, template.look.side],
    }
    if not bare:
        facts["source"] = template.source
    if template.crop is not None:
        png = cv2.imencode(".png", cv2.cvtColor(template.crop, cv2.COLOR_RGB2BGR))[1].tobytes()
        facts["crop"] = base64.b64encode(png).decode()
    return facts


def _template(facts: dict[str, Any]) -> Template:
    """Raises ValueError, KeyError or TypeError for what `_facts` never writes."""
    embedding = np.frombuffer(base64.b64decode(facts["embedding"], validate=True), "<f4").astype(np.float32)
    if not abs(float(embedding @ embedding) - 1) < 1e-3:
        raise ValueError("an embedding is not of length 1")
    crop = None
    if "crop" in facts:
        image = cv2.imdecode(np.frombuffer(base64.b64decode(facts["crop"], validate=True), np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError("a crop is no picture")
        crop = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    look = None if facts["look"] is None else Look(*(float(value) for value in facts["look"]))
    return Template(
        embedding,
        str(facts["encoder"]),
        int(facts["preprocessing"]),
        str(facts["detector"]),
        float(facts["quality"]),
        str(facts.get("source", "")),
        look,
        crop,
        bool(facts["denies"]),
    )


def _unsealed(path: Path, content: bytes, key: bytes | None) -> bytes:
    if key is None:
        raise InputError(f"{path} is sealed", "give the key that it was exported with")
    try:
        return Vault(key, content[:SALT]).unseal(content[SALT:], "export")
    except Broken as error:
        raise StoredError(f"{path} was sealed with another key, or has changed", "give the right key, or export it again") from error
