"""The program on real pictures: parts of two photos stand for people, the encoder is narrow, an epoch takes a moment."""

import json
import shutil

import cv2
import numpy as np
import pytest
import tensorflow as tf
from onnx import TensorProto, helper
from onnx import save as save_onnx

from device.program import InputError
from train import encoders, finetune
from train.checkpoints import Keeper


@pytest.fixture(scope="module")
def people(tmp_path_factory, astronaut, grace_hopper):
    """people/0 to people/7 with six pictures each, cut from two photos."""
    folder = tmp_path_factory.mktemp("finetune") / "people"
    rng = np.random.default_rng(0)
    for person in range(8):
        (folder / str(person)).mkdir(parents=True)
        photo = cv2.imread(str((astronaut, grace_hopper)[person % 2]))
        y, x = (int(rng.integers(10, limit - 130)) for limit in photo.shape[:2])
        for picture in range(6):
            dy, dx = (int(rng.integers(-8, 9)) for _ in range(2))
            cv2.imwrite(str(folder / str(person) / f"{picture}.png"), photo[y + dy : y + dy + 112, x + dx : x + dx + 112])
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """An ONNX teacher of eight numbers: a fixed linear map of the picture at 4x4."""
    path = tmp_path_factory.mktemp("teacher") / "t.onnx"
    matrix = np.random.default_rng(0).normal(size=(48, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["first"], ["small"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["small"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["embedding"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 112, 112, 3])
    rows = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 8])
    weights = helper.make_tensor("matrix", TensorProto.FLOAT, matrix.shape, matrix.ravel())
    graph = helper.make_graph(nodes, "linear", [image], [rows], [weights])
    save_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def arguments(crops, out, *more):
    small = ["--size", "32", "--batch", "16", "--width", "0.25", "--dimension", "8", "--epochs", "2", "--rate", "0.01"]
    return ["--crops", str(crops), "--out", str(out), "--cache", str(out.parent / "cache"), *small, *more]


def figures(run_folder):
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_student_comes_to_say_what_its_teacher_says(people, teacher, tmp_path, capsys):
    plain = ["--rotation", "0", "--strength", "0", "--erase", "0", "--area", "1"]
    out = tmp_path / "run"
    more = ["--teacher", str(teacher), "--epochs", "12", "--precision", "mixed_bfloat16", *plain]
    assert finetune.main(arguments(people, out, *more)) == 0
    assert capsys.readouterr().out.strip() == str(out / "encoder.keras")
    rows = figures(out)
    assert rows[-1]["distill_cosine"] > rows[0]["distill_cosine"] + 0.2
    assert {"loss", "images_per_second", "effective_rank"} <= rows[-1].keys()
    model = encoders.load(str(out / "encoder.keras"))
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["contrastive", "triplet", "quadruplet", "softmax", "arcface", "distill+0.5*triplet"])
def test_every_objective_trains_and_drops_its_head(people, teacher, tmp_path, objective):
    out = tmp_path / "run"
    more = ["--objective", objective, "--people", "4", "--pictures", "3", "--epochs", "1"]
    assert finetune.main(arguments(people, out, *more, *(["--teacher", str(teacher)] if "distill" in objective else []))) == 0
    assert np.isfinite(figures(out)[0]["loss"])
    assert encoders.load(str(out / "encoder.keras")).output_shape == (None, 8)


@pytest.mark.slow
def test_resuming_gives_what_an_unbroken_run_gives(people, tmp_path, monkeypatch):
    more = ["--objective", "softmax", "--epochs", "3"]
    finetune.main(arguments(people, tmp_path / "whole", *more))
    step = Keeper.on_train_batch_end

    def interrupted(self, batch, logs):
        step(self, batch, logs)
        if self.model.optimizer.iterations == 4:  # of nine: in the second epoch
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "on_train_batch_end", interrupted)
        assert finetune.main(arguments(people, tmp_path / "broken", *more, "--save-every", "0")) == 130
    assert finetune.main(["--resume", str(tmp_path / "broken")]) == 0
    whole, broken = figures(tmp_path / "whole"), figures(tmp_path / "broken")
    assert [row["epoch"] for row in broken] == [1, 2, 3]
    assert [row["loss"] for row in broken] == pytest.approx([row["loss"] for row in whole], rel=1e-6)


@pytest.mark.slow
def test_a_consistent_teacher_sees_the_students_own_views(people, teacher, tmp_path, monkeypatch):
    seen = []
    opened = finetune.teachers.open_teacher

    def watching(name):
        known = opened(name)
        return finetune.teachers.Teacher(known.name, known.identity, lambda crops: seen.append(crops) or known.embed(crops))

    monkeypatch.setattr(finetune.teachers, "open_teacher", watching)
    more = ["--teacher", str(teacher), "--size", "112", "--epochs", "1", "--consistent-teacher", "--mix", "0.5"]
    assert finetune.main(arguments(people, tmp_path / "run", *more)) == 0
    views = [crops for crops in seen if len(crops) == 16]
    assert len(views) == 3, "every batch of the epoch"
    assert all(crops.dtype == np.uint8 and crops.shape == (16, 112, 112, 3) for crops in views)


def test_blends_are_drawn_by_the_step(people):
    """A resumed run blends the faces that an unbroken one does."""
    student = finetune.Student(encoders.build("fused", size=32, dimension=8, width=0.25), [], mix=0.5, seed=3)
    student.compile(optimizer=finetune.keras.optimizers.AdamW(0.1))
    views = tf.random.stateless_uniform((64, 8, 8, 3), (0, 0), -1, 1)
    first, again = student._mixed(views), student._mixed(views)
    np.testing.assert_array_equal(first, again)
    blended = np.any(first != views, axis=(1, 2, 3))
    assert 16 < blended.sum() < 48
    student.optimizer.iterations.assign(1)
    assert np.any(student._mixed(views) != first)


def test_frozen_layers_stay_as_they_are_their_norms_too(people):
    encoder = finetune.frozen(encoders.build("fused", size=32, dimension=8, width=0.25), "spatial")
    before = {layer.name: [w.copy() for w in layer.get_weights()] for layer in encoder.layers}
    student = finetune.Student(encoder, finetune.objectives.parse("softmax", people=2))
    student.compile(optimizer=finetune.keras.optimizers.AdamW(0.1))
    views = tf.random.stateless_uniform((8, 32, 32, 3), (0, 0), -1, 1)
    student.fit(tf.data.Dataset.from_tensors((views, {"labels": tf.constant([0, 1] * 4)})), verbose=0)
    same = {layer.name: all(np.array_equal(a, b) for a, b in zip(before[layer.name], layer.get_weights(), strict=True))
            for layer in encoder.layers if layer.weights}  # fmt: skip
    assert [name for name, kept in same.items() if not kept] == ["spatial_norm", "embedding"]


def test_freezing_a_share():
    encoder = finetune.frozen(encoders.build("fused", size=32, dimension=8, width=0.25), "50%")
    weighted = [layer for layer in encoder.layers if layer.weights]
    assert [layer.trainable for layer in weighted] == [False] * (len(weighted) // 2) + [True] * (len(weighted) - len(weighted) // 2)
    for wrong in ("100%", "x%", "nowhere"):
        with pytest.raises(InputError):
            finetune.frozen(encoder, wrong)


def test_it_starts_from_a_run_a_bundle_or_a_file(bundle_path, tmp_path):
    file = str(bundle_path / "encoder.keras")
    for init in (str(bundle_path), file):
        made = finetune.start(finetune.Settings(crops=(), init=init, size=64))
        assert made.input_shape[1] == 64
        kernel = made.get_layer("stem").get_weights()[0]
        np.testing.assert_array_equal(kernel, encoders.load(file).get_layer("stem").get_weights()[0])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--objective", "distill"], "there is nobody to learn from: name a --teacher"),
        (["--objective", "sympathy"], "no objective is called sympathy"),
        (["--objective", "softmax", "--batch", "500"], "48 crops do not fill a batch of 500"),
        (["--objective", "triplet", "--people", "40"], "people"),
        (["--objective", "softmax", "--init", "nowhere"], "nowhere"),
        (["--objective", "softmax", "--freeze", "120%"], "--freeze 120% is no share"),
        (["--objective", "softmax", "--rate", "0"], "--rate is 0.0"),
        (["--objective", "softmax", "--mix", "0.3"], "only a teacher that sees the blend"),
        (["--teacher", "TEACHER", "--dimension", "16"], "the student has 16 numbers, the teacher 8"),
        (["--teacher", "TEACHER", "--consistent-teacher"], "give --size 112"),
    ],
)
def test_bad_input_is_one_line_and_status_2(people, teacher, tmp_path, capsys, wrong, said):
    status = finetune.main(arguments(people, tmp_path / "run", *[str(teacher) if w == "TEACHER" else w for w in wrong]))
    printed = capsys.readouterr()
    assert status == 2
    assert said in printed.err.splitlines()[-1]
    assert not printed.out
    assert not (tmp_path / "run").exists(), "nothing half-written"


def test_one_picture_of_everybody_makes_no_triplet(people, tmp_path, capsys):
    single = tmp_path / "single"
    for person in people.iterdir():
        (single / person.name).mkdir(parents=True)
        (single / person.name / "0.png").write_bytes((person / "0.png").read_bytes())
    assert finetune.main(arguments(single, tmp_path / "run", "--objective", "triplet", "--people", "4")) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_person_without_a_picture(people, tmp_path, capsys):
    folder = tmp_path / "people"
    shutil.copytree(people, folder)
    (folder / "nobody").mkdir()
    assert finetune.main(arguments(folder, tmp_path / "run", "--objective", "softmax")) == 2
    assert "nobody is empty: add pictures of nobody, or remove it" in capsys.readouterr().err


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_epoch_before(people, tmp_path, capsys):
    assert finetune.main(arguments(people, tmp_path / "run", "--objective", "softmax", "--rate", "1e30", "--warmup", "0")) == 2
    assert "lower --rate" in capsys.readouterr().err
    assert not (tmp_path / "run" / "encoder.keras").exists()
