"""The pages of docs/: links and anchors resolve, commands exist, and what is quoted is what the program prints."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from test_documentation import every_command

from scorers.protocol import BuildContext, SuiteImages
from scorers.registry import BUILTIN_KINDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READ = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PACKAGES = ("basics", "search_spaces", "scorers", "studies", "optimizer")
SCALED_BY_REFERENCES = {"FD", "MMD", "FD-DINOv2"}  # labels
KINDS = {"tutorial", "how-to", "reference", "explanation"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

of_every_page = pytest.mark.parametrize("page", READ, ids=[str(page.relative_to(ROOT)) for page in READ])


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(page.read_text()) if found == language]


# ------------------------------------------------------------------------------------------ links


def on_a_forge(heading: str) -> str:
    """Return the anchor of a heading on GitHub, GitLab and their like."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def on_the_site(heading: str) -> str:
    """Return the anchor of a heading in Python-Markdown."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that are the same on a forge and on the site."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {on_a_forge(heading) for heading in headings} & {on_the_site(heading) for heading in headings}


@of_every_page
def test_every_relative_link_and_its_anchor_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if page.is_relative_to(DOCS):
            assert target.is_relative_to(DOCS), f"{link} is not on the site"
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_lies_in_the_folder_of_its_kind_and_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    shown = set(re.findall(r"[\w/-]+\.md", text[text.index("nav:") : text.index("exclude_docs:")]))
    assert shown == {str(page.relative_to(DOCS)) for page in PAGES}
    assert {page.relative_to(DOCS).parts[0] for page in PAGES} == KINDS | {"index.md"}


# --------------------------------------------------------------------------------------- commands


def shown_commands() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for block in blocks(page, "console"):
            for line in block.splitlines():
                if line.startswith("mergetune "):
                    yield page, line.split("#")[0].strip()


def test_every_command_line_that_is_shown_has_a_command_and_options_that_exist() -> None:
    known = dict(every_command())
    lines = list(shown_commands())
    assert len(lines) > 30
    for page, line in lines:
        words = line.removeprefix("mergetune ")
        name = max((name for name in known if f"{words} ".startswith(f"{name} ")), key=len, default=None)
        assert name is not None, f"{page.name}: {line}"
        options = {option for given in known[name].params for option in (*given.opts, *given.secondary_opts)}
        for option in re.findall(r"(?<=\s)--?[a-z][\w-]*", words):
            assert option in options, f"{page.name}: {line}"


@pytest.mark.parametrize("name", BUILTIN_KINDS)
def test_every_scorer_and_its_options_are_in_the_reference(name: str) -> None:
    text = (DOCS / "reference" / "scorers.md").read_text()
    assert f"`{name}`" in text
    for option in BUILTIN_KINDS[name].settings.model_fields:
        assert f"| `{option}` | " in text


@pytest.mark.parametrize("name", BUILTIN_KINDS)
def test_the_figures_of_every_scorer_are_in_the_reference(name: str) -> None:
    text = (DOCS / "reference" / "scorers.md").read_text()
    figures = text.partition("## Ranges and units")[2]
    row = re.search(rf"^\| `{name}` \| (.+) \| (.+) \| (.+) \| (.+) \|$", figures, re.MULTILINE)
    assert row is not None
    info = BUILTIN_KINDS[name].info
    assert row[1] == in_words(*info.range)
    assert row[2] == in_words(*info.limits)
    unit = "5 % of the references' spread" if info.label in SCALED_BY_REFERENCES else f"{info.unit:g}"
    assert re.split(r" \(|, ", row[3])[0] == unit
    noted = info.advised_images > info.min_images
    assert row[4] == f"{info.min_images}" + (f", a note below {info.advised_images}" if noted else "")
    above = re.search(rf"^\| .*`{name}`.* \| (higher|lower) \| (each image|the set|the trial) \|", text, re.MULTILINE)
    assert above is not None
    assert above[1] == {"maximize": "higher", "minimize": "lower"}[info.direction]
    assert (above[2] == "each image") == (info.scope == "image")


def in_words(low: float, high: float) -> str:
    """A range as the reference writes it."""
    if low == -math.inf:
        return "any number"
    return f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"


def test_every_variable_that_the_program_reads_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "environment.md").read_text()
    read = set()
    for package in PACKAGES:
        for module in (ROOT / package).rglob("*.py"):
            read |= set(re.findall(r'"(MERGETUNE_[A-Z_]+)"', module.read_text()))
    assert len(read) > 6
    for variable in read:
        assert f"`{variable}`" in text, variable


def test_yaml_blocks_are_yaml() -> None:
    for page in PAGES:
        for block in blocks(page, "yaml"):
            assert isinstance(yaml.safe_load(block), dict), f"{page.name}: {block}"


# ----------------------------------------------------------------------------------------- quotes


@cache
def texts_of_the_program() -> str:
    """Return all strings of the program, one a line; of an f-string its pieces."""
    found = []
    for package in PACKAGES:
        for module in (ROOT / package).rglob("*.py"):
            nodes = ast.walk(ast.parse(module.read_text()))
            found += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(found)


def test_messages_in_the_troubleshooting_page_are_those_that_the_program_prints() -> None:
    texts = texts_of_the_program()
    lines = [line for block in blocks(DOCS / "how-to" / "troubleshooting.md", "text") for line in block.splitlines()]
    assert len(lines) > 25
    for line in lines:
        pieces = [piece.strip(" `:;,.?()") for piece in line.split("...")]
        assert any(len(piece) > 5 for piece in pieces)
        for piece in pieces:
            assert piece in texts, line


def test_the_scorer_of_the_how_to_page_scores_images() -> None:
    page = DOCS / "how-to" / "write-a-scorer.md"
    (source,) = blocks(page, "python")
    module = ModuleType("redness")
    exec(source, module.__dict__)  # the page's own code
    kind = module.KIND
    scorer = module.build(kind.settings(), BuildContext(device="cpu", cache_dir=Path()))
    red = torch.zeros(3, 4, 4, dtype=torch.uint8)
    red[0] = 255
    grey = torch.full((3, 4, 4), 90, dtype=torch.uint8)
    values = scorer.score(SuiteImages(images=(red, grey), prompts=("red", "grey")))
    torch.testing.assert_close(values, torch.tensor([1.0, 1 / 3], dtype=torch.float64))
    assert kind.builder.endswith(":build")
    assert f'{kind.info.name} = "my_package.redness:KIND"' in page.read_text()
