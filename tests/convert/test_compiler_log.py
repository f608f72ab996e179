import csv
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert import compiler_log

# What each transcript of the shared data says: (version, all/part/none of the last model, operations on the Edge TPU, on the CPU),
# or (version, words of the failure).
TRANSCRIPTS = {
    "1": ("2.0.291256449", "part", 39, 51),
    "2": ("14.1.317412892", "part", 102, 6),
    "3": ("15.0.340273435", "the model is not quantised"),
    "4": ("15.0.340273435", "part", 2, 34),
    "5": ("15.0.340273435", "part", 1, 293),
    "6": ("16.0.384591198", "part", 289, 5),
    "7": ("16.0.384591198", "a shape of the model is not static"),
    "8": ("16.0.384591198", "the compiler crashed"),
    "9": ("16.0.384591198", "the compiler does not read TRANSPOSE_CONV version 4"),
    "10": ("16.0.384591198", "the compiler does not know the custom operation Atan"),
    "11": ("16.0.384591198", "the compiler stumbled over the model's graph"),
    "12": ("16.0.384591198", "the compiler gave up without a reason"),
    "13": ("16.0.384591198", "the compiler gave up without a reason"),
    "14": ("15.0.340273435", "none", 0, 69),
    "15": ("2.1.302470888", "part", 6, 17),
    "16": ("16.0.384591198", "part", 264, 3),
    "17": ("2.0.267685300", "the compiler does not read RELU version 2"),
    "18": (None, "the compiler does not know builtin operation 150"),
}
KIB, MIB = 2**10, 2**20

TOGETHER = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Models compiled successfully in 524 ms.

Input model: in/1.tflite
Input size: 1.91MiB
Output model: out/1_edgetpu.tflite
Output size: 2.52MiB
On-chip memory used for caching model parameters: 2.27MiB
On-chip memory remaining for caching model parameters: 1.07MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 57
Operation log: out/1_edgetpu.log
See the operation log file for individual operation details.

Input model: in/2.tflite
Input size: 1.87MiB
Output model: out/2_edgetpu.tflite
Output size: 2.06MiB
On-chip memory used for caching model parameters: 2.00MiB
On-chip memory remaining for caching model parameters: 1.07MiB
Off-chip memory used for streaming uncached model parameters: 12.50KiB
Number of Edge TPU subgraphs: 1
Total number of operations: 6
Operation log: out/2_edgetpu.log
See the operation log file for individual operation details.
Compilation child process completed within timeout period.
Compilation succeeded!
"""  # google-coral/edgetpu issue 458, one figure changed
SEGMENT = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 1857 ms.

Input model: m_segment_0_of_2.tflite
Output model: m_segment_0_of_2_edgetpu.tflite
Number of Edge TPU subgraphs: 1
Total number of operations: 84
Compilation child process completed within timeout period.
Compilation succeeded!
"""
LARGE = """Started a compilation timeout timer of 180 seconds.
ERROR: Restored original execution plan after delegate application failure.
Compilation failed: Compilation failed due to large activation tensors in model.
Compilation child process completed within timeout period.
Compilation failed!
"""  # with the above, issue 557


def test_every_transcript_of_the_shared_data(data):
    files = {path.name.split("_")[1]: path for path in (data / "edgetpu" / "logs" / "transcripts").iterdir()}
    found = {}
    for number, path in files.items():
        report = compiler_log.parse(path.read_text())
        if report.failure:
            found[number] = (report.version, report.failure.wrong)
        else:
            entry = report.entries[-1]
            found[number] = (report.version, entry.maps, entry.tpu, entry.cpu)
    assert found == TRANSCRIPTS


def test_every_log_of_the_shared_data(data):
    folder = data / "edgetpu" / "logs"
    with (folder / "INDEX.tsv").open() as lines:
        index = {row["file"]: row["compiler"] for row in csv.DictReader(lines, delimiter="\t")}
    assert len(index) == 63
    for name, version in index.items():
        text = (folder / name).read_text()
        report = compiler_log.parse(text)
        (entry,) = report.entries
        # The table by its columns: the operation, the count, the status, each under its heading.
        lines = text.splitlines()
        heading = next(i for i, line in enumerate(lines) if line.startswith("Operator"))
        count, status = (lines[heading].index(word) for word in ("Count", "Status"))
        table = [(line[:count].strip(), int(line[count:status]), line[status:].strip()) for line in lines[heading + 1 :] if line]
        mapped = sum(number for _, number, status in table if status == "Mapped to Edge TPU")
        assert [(row.operation, row.count, row.status) for row in entry.rows] == table, name
        assert (report.version, report.failure) == (version, None), name
        assert (entry.tpu, entry.tpu + entry.cpu) == (mapped, sum(number for _, number, _ in table)), name
        assert f"Input: {entry.source}\nOutput: {entry.output}\n" in text, name


def test_logs_agree_with_what_was_decoded_from_the_compiled_files(data):
    truth = json.loads((data / "edgetpu" / "ground_truth.json").read_text())
    compared = 0
    for name, pair in truth.items():
        log = data / "edgetpu" / "pairs" / name / "model_edgetpu.log"
        if log.is_file():
            (entry,) = compiler_log.parse(log.read_text()).entries
            assert (entry.tpu, entry.cpu) == (pair["n_edgetpu"], pair["n_cpu"]), name
            compared += 1
    assert compared == 6


def test_bytes_as_the_compiler_prints_them(data):
    folder = data / "edgetpu" / "logs" / "transcripts"
    (entry,) = compiler_log.parse((folder / "stdout_15_compiler2.1_partial_streamed.txt").read_text()).entries
    assert (entry.cached, entry.remaining, entry.streamed, entry.subgraphs) == (round(21.75 * KIB), round(7.45 * MIB), 3 * KIB, 1)
    # Up to 2.0 the first line is what was available before.
    (entry,) = compiler_log.parse((folder / "stdout_1_retinaface_compiler2.0_partial.txt").read_text()).entries
    assert (entry.cached, entry.remaining) == (round(729.5 * KIB), round(7.69 * MIB) - round(729.5 * KIB))


def test_models_that_were_compiled_together():
    report = compiler_log.parse(TOGETHER)
    assert report.failure is None
    assert [(entry.source, entry.output) for entry in report.entries] == [
        ("in/1.tflite", "out/1_edgetpu.tflite"),
        ("in/2.tflite", "out/2_edgetpu.tflite"),
    ]
    assert [(entry.maps, entry.tpu, entry.streamed) for entry in report.entries] == [("all", 57, 0), ("all", 6, 12.5 * KIB)]


def test_a_segment_that_fails_after_one_that_succeeded_is_a_failure():
    assert compiler_log.parse(SEGMENT).failure is None
    report = compiler_log.parse(SEGMENT + LARGE)
    assert report.failure
    assert report.failure.wrong == "the activations of the model are too large"
    assert [entry.output for entry in report.entries] == ["m_segment_0_of_2_edgetpu.tflite"]


def test_failures_before_the_success_do_not_count():
    assert compiler_log.parse(LARGE + SEGMENT).failure is None
    failure = compiler_log.parse(LARGE + SEGMENT, status=1).failure
    assert failure
    assert failure.wrong == "the compiler gave up without a reason"


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("Compilation timeout. This is usually caused by large activations.\nCompilation failed!", 1, "time limit"),
        ("", 139, "crashed"),
        ("", -11, "crashed"),
        ("", 137, "killed"),
        ("edgetpu_compiler: cannot execute binary file: Exec format error", 126, "cannot run here"),
        ("qemu: uncaught target signal 11 (Segmentation fault) - core dumped", 139, "crashed"),
        ("", 1, "without a reason"),
    ],
)
def test_failures_that_no_transcript_of_the_shared_data_has(text, status, words):
    assert words in compiler_log.explain(text, status).wrong


def test_only_the_failure_that_is_known_to_pass_is_flaky():
    assert compiler_log.explain("Internal compiler error. Aborting!").flaky
    assert not compiler_log.explain("Compilation failed!").flaky
    # With an exception it came again at every attempt (issue 4).
    assert not compiler_log.explain("uncaught exception of type std::out_of_range: vector\n\nInternal compiler error. Aborting!").flaky


def test_every_failure_is_in_the_guide():
    guide = (Path(__file__).parents[2] / "docs" / "edgetpu.md").read_text()
    meanings = [failure.wrong.split(" \\1")[0] for _, failure in compiler_log.FAILURES]
    assert [wrong for wrong in meanings if wrong not in guide] == []


LINES = st.sampled_from([*TOGETHER.splitlines(), *LARGE.splitlines(), "CONV_2D  12  Mapped to Edge TPU", "Total number of operations: ٣"])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # others use the machine as well
@given(st.lists(LINES | st.text(max_size=40), max_size=30), st.integers(-64, 255))
def test_any_text_is_read(lines, status):
    report = compiler_log.parse("\n".join(lines), status)
    assert all(entry.maps in ("all", "part", "none") for entry in report.entries)
    assert status == 0 or report.failure
    assert report.failure is None or (report.failure.wrong and report.failure.mend)
