"""What README and docs tell the reader to type is what the program understands."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from napari_pcs.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands():
    """Every `napari-pcs ...` or `-m napari_pcs ...` line or inline command of the pages."""
    for page in PAGES:
        text = page.read_text()
        lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", text)
        for line in lines:
            for part in re.split(r"&&|\||>", line):
                if match := re.search(r"(?:\bnapari-pcs|-m napari_pcs) (?=[a-z-])(.*)", part.strip()):
                    yield pytest.param(match.group(1), id=f"{page.name}: {match.group(1)[:40]}")


def block(name):
    """The one-line command that follows a marker in README."""
    (line,) = re.findall(rf"<!-- {name} -->\n```sh\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    return line


@pytest.mark.parametrize("arguments", list(commands()))
def test_every_command_in_the_docs_parses(arguments):
    words = shlex.split(arguments)
    command = get_command(app)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands
        command = command.commands[name]
    if words != ["--help"]:
        command.make_context("napari-pcs", words, resilient_parsing=False)


@pytest.mark.parametrize("name", ["demo", "test", "apt"])
def test_the_readme_gives_each_journey_in_one_line(name):
    assert "\n" not in block(name)
    assert subprocess.run(["bash", "-nc", block(name)], check=False).returncode == 0


def test_ci_runs_the_readmes_own_commands():
    ci = (ROOT / ".ci" / "run").read_text()
    reader = re.search(r"from_readme\(\) \{.*\}", ci).group()
    for name in ("test", "apt"):
        printed = subprocess.run(
            ["bash", "-c", f"{reader}; from_readme {name}"], check=True, capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()
        assert printed == block(name)
        assert f"from_readme {name}" in ci


def test_every_picture_and_page_that_the_docs_link_to_exists():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
