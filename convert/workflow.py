"""Writes the GitHub Actions workflow that compiles models on GitHub: for whoever has neither the compiler nor Docker."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from string import Template

from device.program import InputError, replacing

TEMPLATE = Path(__file__).with_name("workflow.yml")
PROGRAM = Path("convert", "compile.py")  # what the workflow runs
PATH = Path(".github", "workflows", "compile-edgetpu.yml")
ARTIFACT = "edgetpu"
OUT = "build/edgetpu"
NEXT = f"fetch the artifact from the run's page under Actions, or with: gh run download --name {ARTIFACT} --dir DIR"


def write(models: Sequence[Path], options: Sequence[str]) -> Path:
    """Write the workflow that compiles `models` (files, or folders of bundles) with the `options` of compile.py.

    Returns its path. Raises InputError where the models lie in no clone of Omokage, or in several.
    """
    roots = {_root(model) for model in models}
    if len(roots) > 1:
        raise InputError("the models lie in several repositories", "put them into one")
    root = roots.pop()
    names = [model.resolve().relative_to(root).as_posix() for model in models]
    command = shlex.join(["python", PROGRAM.as_posix(), *names, "--docker", "--out", OUT, *options])
    watched = [f"{name}/**" if model.is_dir() else name for model, name in zip(models, names, strict=True)]
    # A JSON string, or list, is one of YAML too, whatever the names hold.
    values = {"paths": json.dumps([*watched, PATH.as_posix()]), "command": json.dumps(command), "artifact": ARTIFACT, "out": OUT}
    with replacing(root / PATH) as temporary:
        temporary.write_text(Template(TEMPLATE.read_text("utf-8")).substitute(values), "utf-8")
    return root / PATH


def _root(model: Path) -> Path:
    """The clone of Omokage that holds `model`."""
    for folder in model.resolve().parents:
        if (folder / ".git").exists():
            if (folder / PROGRAM).is_file():
                return folder
            raise InputError(f"{folder} is no clone of Omokage (it has no {PROGRAM})", "copy the model into one, and push that to GitHub")
    raise InputError(f"{model} lies in no git repository", "copy it into a clone of Omokage, and push that to GitHub")
