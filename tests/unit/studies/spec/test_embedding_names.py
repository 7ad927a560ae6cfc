"""Which embeddings of a folder the prompts of a suite name, also while they change."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.errors import PromptError
from optimizer.rendering.prompts.a1111 import weighted_pieces
from optimizer.rendering.prompts.editing import phases
from optimizer.rendering.prompts.pieces import Piece
from studies.spec.embedding_files import files_named, fingerprint_of
from studies.spec.embedding_mentions import changing, spells
from studies.spec.suite import SuiteSettings

PARTS = st.sampled_from(
    ["[", "]", "(", ")", ":", "|", "\\", "a", "b", "c", ":2]", ":0.5]", ":1)", "(a:1)", "[a:b:1]", "[c|a]"]
)
PROMPTS = st.lists(PARTS, max_size=14).map("".join)


def suite(prompt: str, negative: str = "", syntax: str = "a1111") -> SuiteSettings:
    return SuiteSettings.model_validate({"prompts": [prompt], "negative": negative, "syntax": syntax})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("badhand", "badfoot", "goodhand", "hand"):
        (tmp_path / f"{name}.pt").write_bytes(name.encode())
    return tmp_path


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("x, bad[hand:foot:.5]", {"hand", "badhand", "badfoot"}),
        ("[Bad|good]hand, y", {"hand", "badhand", "goodhand"}),
        ("(bad[[hand|nose]:foot:3]:1.2)", {"hand", "badhand", "badfoot"}),
        ("bad[x::3]foot", {"badfoot"}),
        ("bad[:x:3]foot", {"badfoot"}),
        ("bad[hand]", {"hand"}),
        ("bad\\[foot:nose:.5\\]", set()),
        ("bad foot, badhand", {"badfoot", "badhand", "hand"}),
        ("(bad)(hand)", {"hand", "badhand"}),
        ("(bad:1.3)hand", {"hand"}),
        ("(bad:1.3)(hand:1.30)", {"hand", "badhand"}),
        ("[(bad:1.1)]foot", {"badfoot"}),
        ("bad[:(hand:1):0.5]", {"hand", "badhand"}),
        ("(good: 1.0 )[x|(hand:1.0)]", {"hand", "goodhand"}),
        ("bad # of\nfoot", {"badfoot"}),
        ("&#98;ad&#102;oot <b>", {"badfoot"}),
    ],
)
def test_a_name_that_only_a_change_of_the_prompt_spells_is_named(folder: Path, prompt: str, named: set[str]) -> None:
    for each in (suite(prompt), suite("a lion", prompt)):
        assert {file.stem for file in files_named(folder, [each])} == named
    assert files_named(folder, [suite(prompt, syntax="comfyui")]) == ()


def test_the_content_of_an_embedding_that_is_named_by_a_change_is_part_of_the_fingerprint(folder: Path) -> None:
    changes, plain = suite("bad[hand:foot:.5]"), suite("badhand")
    before = fingerprint_of(folder, [changes]), fingerprint_of(folder, [plain])
    (folder / "badfoot.pt").write_bytes(b"another")
    after = fingerprint_of(folder, [changes]), fingerprint_of(folder, [plain])
    assert before[0] != after[0]
    assert before[1] == after[1]


def _pieces(text: str) -> tuple[Piece, ...]:
    try:
        return weighted_pieces(text)
    except PromptError:
        return ()


@given(PROMPTS, st.text("abc", min_size=1, max_size=4))
def test_every_name_in_a_text_that_a_prompt_stands_for_is_spelt(prompt: str, name: str) -> None:
    try:
        texts = [text for _, text in phases(prompt, 4)]
    except PromptError:
        return
    pieces = [piece.text for text in texts for piece in _pieces(text)]
    if any(name in text for text in [*(text.replace("\\", "") for text in texts), *pieces]):
        assert spells(changing(prompt, lambda text: text.replace("\\", "")), name)
