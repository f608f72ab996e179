import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tflite

from convert import check

OPERATOR = tflite.BuiltinOperator


def test_says_that_everything_maps(relu_chain, capsys):
    assert check.main([str(relu_chain)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "everything maps: 3 of 3 operations on the Edge TPU"


def test_says_what_stays_on_the_cpu_why_and_the_fix(leaky_chain, capsys):
    assert check.main([str(leaky_chain)]) == 1
    lines = [re.sub(r" \d\.\d{3}", "", " ".join(line.split())) for line in capsys.readouterr().out.splitlines()]
    assert lines[2:6] == [
        "0 LOGISTIC TPU",
        "1 LEAKY_RELU CPU the Edge TPU has no LEAKY_RELU",
        "fix: use ReLU6, or write it as Maximum(x, alpha * x)",
        "2 TANH CPU it depends on operation 1 (LEAKY_RELU), which breaks the only Edge TPU subgraph",
    ]
    assert lines[-1] == "a part maps: 1 of 3 operations on the Edge TPU"


def test_json_follows_the_contract_one_object_a_line(relu_chain, leaky_chain, capsys, validate):
    assert check.main([str(relu_chain), str(leaky_chain), "--json"]) == 1
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for report in reports:
        validate(report, "check")
    assert [report["maps"] for report in reports] == ["all", "part"]
    assert [each["target"] for each in reports[1]["operations"]] == ["tpu", "cpu", "cpu"]
    assert reports[1]["operations"][2]["fix"] is None


def test_tells_what_it_costs(leaky_chain, capsys, validate):
    report = check.check(leaky_chain)
    validate(report, "check")
    assert set(report["latency_ms"]) == set(check.HOSTS)
    for time in report["latency_ms"].values():
        assert 0 < time["low"] < time["estimate"] < time["high"]
    assert report["memory"]["parameters"] == report["memory"]["on_chip"] + report["memory"]["streamed"] == 0
    for operation in report["operations"]:
        assert set(operation["ms"]) == set(check.HOSTS)
    assert [operation["after"] for operation in report["operations"]] == [[], [0], [1]]
    assert report["operations"][0]["outputs"] == [{"shape": (1, 8), "type": "INT8"}]
    check.main([str(leaky_chain)])
    told = capsys.readouterr().out
    assert "0 B of parameters, all stay on the chip" in told
    assert f"USB 3 on a desktop {report['latency_ms']['usb3']['estimate']:.1f} ms" in told


def test_what_the_compiler_refuses_has_no_costs(chain_writer, tmp_path):
    report = check.check(chain_writer(tmp_path / "m.tflite", OPERATOR.RELU, OPERATOR.GELU))
    assert "memory" not in report
    assert "latency_ms" not in report
    assert check.summary(report) == []


@pytest.mark.parametrize(("count", "told"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**20, "5.00 MiB")])
def test_sizes_are_told_in_the_unit_that_fits(count, told):
    assert check.size(count) == told


def test_a_refused_file_maps_nothing(chain_writer, tmp_path, validate):
    report = check.check(chain_writer(tmp_path / "m.tflite", OPERATOR.RELU, OPERATOR.GELU))
    validate(report, "check")
    assert report["maps"] == "none"
    assert [blocker["reason"] for blocker in report["blockers"]] == ["GELU is newer than the compiler"]
    assert [each["reason"] for each in report["operations"]] == ["the compiler refuses the file", "the Edge TPU has no GELU"]
    assert "the compiler refuses this file: GELU is newer" in check.table(report)


def test_a_compiled_file_is_refused_with_the_name_of_its_source(chain_writer, tmp_path, capsys):
    assert check.main([str(chain_writer(tmp_path / "face_edgetpu.tflite", "edgetpu-custom-op"))]) == 2
    error = capsys.readouterr().err
    assert "already compiled" in error
    assert "face.tflite" in error


@pytest.mark.parametrize("content", [None, b"", b"no model at all", bytes(4) + b"TFL3" + bytes(40)])
def test_an_unreadable_file_is_one_line_and_status_2(tmp_path, capsys, content):
    path = tmp_path / "m.tflite"
    if content is not None:
        path.write_bytes(content)
    assert check.main([str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "m.tflite" in err


def test_a_name_that_is_no_bundle_is_status_2(capsys):
    assert check.main(["no-such-bundle"]) == 2
    assert "no-such-bundle" in capsys.readouterr().err


def test_the_shipped_encoder_maps_completely(bundle_path, capsys):
    assert check.main([str(bundle_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["maps"] == "all"
    assert report["model"].endswith("encoder.tflite")


@pytest.mark.parametrize("program", ["check", "audit", "compile"])
def test_starts_without_tensorflow_and_other_heavy_packages(relu_chain, tmp_path, program):
    """They start at once: what they import is in Python's own list of import times."""
    command = [sys.executable, "-X", "importtime", "-m", f"convert.{program}", str(relu_chain)]
    environment = {**os.environ, "PATH": str(tmp_path)}  # no compiler
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    imported = set(re.findall(r"\| +(\w+)$", done.stderr, re.MULTILINE))
    assert {"argparse", "numpy"} <= imported
    assert imported.isdisjoint({"tensorflow", "tf_keras", "cv2", "scipy", "sklearn", "matplotlib", "jinja2"})


MODELS = """
import sys
import numpy as np
import tensorflow as tf
import tf_keras as keras

def convert(activation, quantised=True, calibrated=True, io=tf.uint8, dense=False):
    image = x = keras.Input((8, 8, 3), batch_size=1)
    x = activation(keras.layers.Conv2D(8, 3)(x))
    x = keras.layers.Conv2D(4, 3)(x)
    if dense:
        x = keras.layers.Dense(5)(keras.layers.Flatten()(x))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(image, x))
    if quantised:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if calibrated:
        converter.representative_dataset = lambda: ([np.random.rand(1, 8, 8, 3).astype("f")] for _ in range(4))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = io
    return converter.convert()

relu6 = keras.layers.ReLU(6.0)
models = {
    "relu6": convert(relu6),
    "dense": convert(relu6, dense=True),
    "prelu": convert(keras.layers.PReLU(shared_axes=[1, 2])),
    "leaky": convert(keras.layers.LeakyReLU(0.1)),
    "hard_swish": convert(lambda x: x * tf.nn.relu6(x + 3) / 6),
    "float_in_and_out": convert(relu6, io=tf.float32),
    "dynamic_range": convert(relu6, calibrated=False),
    "float": convert(relu6, quantised=False, calibrated=False),
}
for name, content in models.items():
    open(f"{sys.argv[1]}/{name}.tflite", "wb").write(content)
"""


@pytest.fixture(scope="session")
def converted(tmp_path_factory) -> Path:
    """A folder with what TensorFlow's converter makes of small models; in a process of its own, TensorFlow warns a lot."""
    pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("converted")
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", MODELS, str(folder)], env=environment, check=True, capture_output=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("relu6", "QUANTIZE:t CONV_2D:t CONV_2D:t QUANTIZE:t"),
        ("dense", "QUANTIZE:t CONV_2D:t CONV_2D:t RESHAPE:t FULLY_CONNECTED:t QUANTIZE:t"),
        ("prelu", "QUANTIZE:t CONV_2D:t PRELU:t CONV_2D:t QUANTIZE:t"),
        ("leaky", "QUANTIZE:t CONV_2D:t LEAKY_RELU:c CONV_2D:c QUANTIZE:c"),
        ("hard_swish", "QUANTIZE:t CONV_2D:t HARD_SWISH:c CONV_2D:c QUANTIZE:c"),
        ("float_in_and_out", "QUANTIZE:c CONV_2D:t CONV_2D:t DEQUANTIZE:c"),
        ("dynamic_range", "CONV_2D:c CONV_2D:c"),
        ("float", "CONV_2D:c CONV_2D:c"),
    ],
)
def test_what_todays_converter_writes(converted, validate, name, targets):
    report = check.check(converted / f"{name}.tflite")
    validate(report, "check")
    assert " ".join(f"{each['name']}:{each['target'][0]}" for each in report["operations"]) == targets
    assert bool(report["blockers"]) == (name in ("dynamic_range", "float"))
