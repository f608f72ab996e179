"""The JSON interface, asked by schemathesis what its description allows and what it does not."""

import argparse
import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from device import bundle
from device.gallery import Gallery, Template
from device.journal import Journal, default_folder

schemathesis = pytest.importorskip("schemathesis")
pytest.importorskip("starlette")

from device.web import app  # noqa: E402
from device.web.guard import Rules  # noqa: E402
from device.web.home import Home  # noqa: E402

TOKEN = "a-token-of-enough-characters-to-be-taken"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    folder, used = tmp_path_factory.mktemp("api"), bundle.find(None)
    path = folder / "gallery.db"
    with Gallery(path, create=True) as gallery:
        for number, name in enumerate(("Ada", "Bo", "0")):
            row = np.eye(used.dimension, dtype=np.float32)[number]
            gallery.add(name, [Template(row, used.encoder, used.preprocessing, "yunet", 0.9, "a.jpg")])
    Journal(default_folder(path), create=True).close()
    options = argparse.Namespace(detector="mtcnn", detector_model=None, detector_size=None, min_face=None, skip_still=False)
    pages = app.Pages(Home(path, default_folder(Path(path)), used, options), Rules({"localhost", "testserver"}, token=TOKEN), list)
    return schemathesis.openapi.from_asgi("/api/openapi.json", app.make(pages), headers=AUTHORIZED)


MODES = {"as described": "POSITIVE", "and not": "NEGATIVE"}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_no_call_makes_a_server_error_and_every_answer_is_as_described(api, mode: str):
    # Whether a name is in the gallery is nothing that a description can tell, so what is refused is left to the interface.
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    asked = set()
    for operation in (found.ok() for found in api.get_all_operations()):
        given_mode = getattr(schemathesis.GenerationMode, MODES[mode])

        @settings(max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy(generation_mode=given_mode))
        def ask(case):
            case.call_and_validate(headers=AUTHORIZED, checks=checks)
            asked.add(case.path)

        with contextlib.suppress(Unsatisfiable):  # nothing is wrong where nothing is asked for
            ask()
    assert len(asked) >= 12
