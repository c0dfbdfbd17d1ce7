"""The version is written once, and the changelog knows it."""

import re
from importlib.metadata import version
from pathlib import Path

import headrace

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"
ENTRY = re.compile(r"^## (\d+\.\d+\.\d+\S*) - (\d{4}-\d{2}-\d{2})$", re.MULTILINE)


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    newest, *_ = ENTRY.findall(CHANGELOG.read_text())
    assert newest[0] == headrace.__version__


def test_every_entry_of_the_changelog_says_its_version_and_its_day() -> None:
    """What has no version yet may stand above them, and nowhere else."""
    headings = re.findall(r"^## .*$", CHANGELOG.read_text(), re.MULTILINE)
    if headings[0] == "## Unreleased":
        del headings[0]
    assert headings
    assert all(map(ENTRY.fullmatch, headings))


def test_the_entries_of_the_changelog_are_newest_first() -> None:
    days = [day for _, day in ENTRY.findall(CHANGELOG.read_text())]
    assert days == sorted(days, reverse=True)


def test_the_version_is_one_a_package_may_have() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?(\.dev\d+)?", headrace.__version__)


def test_the_installed_package_has_the_same_version() -> None:
    assert version("headrace") == headrace.__version__
