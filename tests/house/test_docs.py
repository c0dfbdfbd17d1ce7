"""What the documents say is run here, so that it stays true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])


def test_the_readmes_python_examples_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.split()) == 8


def test_the_readme_shows_a_running_example_by_line_30() -> None:
    head = (ROOT / "README.md").read_text().splitlines()[:30]
    assert any("compile_model(" in line for line in head)
    assert any("model(x)" in line for line in head)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if "://" not in link:
            assert (document.parent / link).exists(), f"{document.name} links to {link}"


def test_every_make_target_of_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for target in re.findall(r"`make ([a-z-]+)", document.read_text()):
            assert target in targets, f"{document.name} names `make {target}`"


def test_architecture_names_files_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (ROOT / path).exists(), path
    block = next(block for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) if block.startswith("engine/"))
    room = ""
    for line in block.splitlines():
        words = line.split()
        if line and not line[0].isspace():
            room, words = words[0].rstrip("/"), words[1:]
        for word in words:
            name = word.rstrip("*")
            assert (ROOT / "src/headrace" / room / f"{name}.py").exists(), f"{room}/{name}"


def test_test_files_have_names_of_their_own() -> None:
    """They are imported by their names alone: two of one name cannot be collected together."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []
