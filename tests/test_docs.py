"""The documents name programs, options and files that exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
TEXTS = {page.name: page.read_text("utf-8") for page in PAGES}
CALL = re.compile(r"python (?:-m )?((?:device|train|convert|benchmarks)(?:[/.](?!py\b)\w+)+)(?:\.py)?( [^\n`]*)?")
CALLS = sorted({(match[1].replace("/", "."), match[2] or "") for text in TEXTS.values() for match in CALL.finditer(text)})
VERBS = {"add", "list", "remove", "show", "rename", "merge", "split", "undo", "not", "ignore", "reembed", "export", "import", "backup"}
VERBS |= {"check", "unknowns", "name", "forget", "cluster", "name-clusters", "encrypt", "log", "verify", "identify", "compare", "groups"}


def words_of(arguments: str) -> list[str]:
    return shlex.split(arguments.replace("…", ""), comments=True)


@pytest.mark.parametrize(("module", "arguments"), CALLS)
def test_every_command_in_the_documents_exists(module, arguments, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # where Python looks first when it runs one of them
    words = words_of(arguments)
    words = words[: words.index("--")] if "--" in words else words  # what follows is another program's
    verb = [word for word in words[:1] if word in VERBS]
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(module).main([*verb, "--help"])
    assert stop.value.code == 0
    told = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {word for word in words if word.startswith("--")} <= told


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXTS[page.name]) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_make_target_in_the_readme_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([\w-]+)", TEXTS["README.md"])) - {"and"} <= targets


def test_the_commands_were_found():
    assert {"device.enroll", "device.recognize", "train.pretrain", "convert.quantize"} <= {module for module, _ in CALLS}
