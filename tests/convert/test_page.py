import os
import re
from html.parser import HTMLParser

import pytest
import tflite

from convert import check, page

OPERATOR = tflite.BuiltinOperator
VOID = {"meta", "rect", "path", "br"}


class Tags(HTMLParser):
    """Counts the tags of a page, and fails where they do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def count(self, tag, **wanted):
        return sum(name == tag and wanted.items() <= attributes.items() for name, attributes in self.seen)


@pytest.fixture
def leaky_page(leaky_chain):
    return page.page([check.check(leaky_chain)])


def test_the_graph_is_coloured_by_where_operations_run(leaky_page):
    tags = Tags(leaky_page)
    assert tags.count("rect", **{"class": "tpu"}) == 1
    assert tags.count("rect", **{"class": "cpu"}) == 2
    assert tags.count("path") == 2  # from LOGISTIC to LEAKY_RELU to TANH


def test_every_operation_leads_to_its_row(leaky_page):
    tags = Tags(leaky_page)
    links = [attributes["href"] for tag, attributes in tags.seen if tag == "a"]
    rows = [f"#{attributes['id']}" for tag, attributes in tags.seen if tag == "tr" and "id" in attributes]
    assert links == rows
    assert len(rows) == 3


def test_tells_reason_and_fix(leaky_page):
    assert "the Edge TPU has no LEAKY_RELU" in leaky_page
    assert "Maximum(x, alpha * x)" in leaky_page
    assert "a part maps: 1 of 3 operations" in leaky_page


def test_is_one_file_without_scripts(leaky_page):
    assert not re.search(r"<script|<link|<iframe|@import|src=|https?:", leaky_page)


def test_names_do_not_become_markup(chain_writer, tmp_path):
    evil = '<script>alert("1")</script>&\'"'
    path = chain_writer(tmp_path / "<b>&m.tflite", OPERATOR.RELU, evil, name=evil)
    text = page.page([check.check(path)])
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text
    Tags(text)


def test_several_models_have_a_part_each(relu_chain, leaky_chain):
    tags = Tags(page.page([check.check(relu_chain), check.check(leaky_chain)]))
    identities = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert tags.count("h1") == 2
    assert len(identities) == len(set(identities)) == 6


def test_a_refused_model_has_a_page(chain_writer, tmp_path):
    text = page.page([check.check(chain_writer(tmp_path / "m.tflite", OPERATOR.RELU, OPERATOR.GELU))])
    assert "GELU is newer than the compiler" in text
    Tags(text)


def test_a_graph_too_large_to_draw_is_told_as_rows(monkeypatch, leaky_chain):
    monkeypatch.setattr(page, "DRAWN", 2)
    text = page.page([check.check(leaky_chain)])
    assert "3 operations are too many to draw" in text
    assert Tags(text).count("rect", **{"class": "tpu"}) == 0


def test_the_program_writes_it(leaky_chain, tmp_path, capsys):
    target = tmp_path / "check.html"
    assert check.main([str(leaky_chain), "--html", str(target)]) == 1
    assert target.read_text("utf-8").startswith("<!doctype html>")
    assert "a part maps" in capsys.readouterr().out


def test_a_path_that_is_no_text_is_told_all_the_same(relu_chain, tmp_path):
    strange = relu_chain.rename(tmp_path / os.fsdecode(b"\xff.tflite"))
    assert check.main([str(strange), "--html", str(tmp_path / "check.html")]) == 0
    assert "\\udcff.tflite" in (tmp_path / "check.html").read_text("utf-8")


def test_a_page_that_cannot_be_written_is_one_line(leaky_chain, tmp_path, capsys):
    assert check.main([str(leaky_chain), "--html", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_branches_stand_side_by_side(model_writer, tmp_path):
    tensors = [{"name": f"t{i}", "shape": [1, 8]} for i in range(4)]
    operations = [
        {"code": OPERATOR.RELU, "inputs": [0], "outputs": [1]},
        {"code": OPERATOR.TANH, "inputs": [0], "outputs": [2]},
        {"code": OPERATOR.ADD, "inputs": [1, 2], "outputs": [3]},
    ]
    tags = Tags(page.page([check.check(model_writer(tmp_path / "m.tflite", tensors, operations))]))
    boxes = [attributes for tag, attributes in tags.seen if tag == "rect" and attributes.get("class") == "tpu"]
    assert boxes[0]["y"] == boxes[1]["y"] != boxes[2]["y"]
    assert boxes[0]["x"] != boxes[1]["x"]
    assert tags.count("path") == 2
