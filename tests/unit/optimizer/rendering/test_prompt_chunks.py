"""Long prompts in chunks, against layouts that are counted by hand, and embeddings in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from optimizer.errors import PromptError
from optimizer.families.registry import model_family
from optimizer.rendering.prompts.chunks import Chunk
from optimizer.rendering.prompts.inversions import InversionFolder
from optimizer.rendering.prompts.reading import PromptReader, Reading
from search_spaces.blocks import Architecture
from studies.spec.suite import SuiteSettings

START, END, COMMA, CAT, DOG = 49406, 49407, 267, 2368, 1929
SDXL_WIDTHS = {"text_encoder": 8, "text_encoder_2": 12}


def reader(architecture: Architecture = Architecture.SD15, **settings: Any) -> PromptReader:
    widths = {"text_encoder": 8} if architecture == Architecture.SD15 else SDXL_WIDTHS
    suite = SuiteSettings.model_validate({"prompts": ["cat"], **settings})
    return PromptReader(suite, model_family(architecture), widths)


def chunks(reading: Reading, encoder: int = 0) -> list[Chunk]:
    (text,) = reading.texts
    return [row[encoder] for row in text.rows]


def ids(reading: Reading, encoder: int = 0) -> list[list[int]]:
    return [list(chunk.ids) for chunk in chunks(reading, encoder)]


def laid_out(*tokens: int, pad: int = END) -> list[int]:
    return [START, *tokens, END, *[pad] * (75 - len(tokens))]


class TestA1111:
    def test_a_chunk_has_75_tokens(self) -> None:
        assert ids(reader().read("cat " * 75, 1)) == [laid_out(*[CAT] * 75)]
        assert ids(reader().read("cat " * 76, 1)) == [laid_out(*[CAT] * 75), laid_out(CAT)]
        assert ids(reader().read("", 1)) == [laid_out()]

    @pytest.mark.parametrize("after", [1, 19])
    def test_a_full_chunk_ends_at_a_comma_among_its_last_20_tokens(self, after: int) -> None:
        before = 74 - after
        prompt = "cat " * before + ", " + "dog " * (after + 3)
        assert ids(reader().read(prompt, 1)) == [laid_out(*[CAT] * before, COMMA), laid_out(*[DOG] * (after + 3))]

    def test_a_comma_that_lies_further_back_moves_nothing(self) -> None:
        prompt = "cat " * 54 + ", " + "dog " * 30
        assert ids(reader().read(prompt, 1)) == [laid_out(*[CAT] * 54, COMMA, *[DOG] * 20), laid_out(*[DOG] * 10)]

    def test_a_comma_that_is_the_76th_token_begins_the_next_chunk(self) -> None:
        assert ids(reader().read("cat " * 75 + ", dog", 1)) == [laid_out(*[CAT] * 75), laid_out(COMMA, DOG)]

    def test_break_fills_the_chunk_and_a_last_one_adds_none(self) -> None:
        assert ids(reader().read("cat BREAK dog BREAK", 1)) == [laid_out(CAT), laid_out(DOG)]
        assert ids(reader().read("BREAK dog", 1)) == [laid_out(), laid_out(DOG)]

    def test_weights_stand_at_their_tokens(self) -> None:
        (chunk,) = chunks(reader().read("cat (dog dog:1.5) cat", 1))
        assert chunk.weights == (1.0, 1.0, 1.5, 1.5, *[1.0] * 73)

    def test_the_second_encoder_of_sdxl_is_padded_with_zeros(self) -> None:
        read = reader(Architecture.SDXL).read("cat BREAK dog", 1)
        assert ids(read, 0) == [laid_out(CAT), laid_out(DOG)]
        assert ids(read, 1) == [laid_out(CAT, pad=0), laid_out(DOG, pad=0)]

    def test_texts_of_a_changing_prompt_have_equally_many_chunks(self) -> None:
        read = reader().read("[cat:" + "dog " * 76 + ":0.5]", 10)
        assert [list(row[0].ids) for row in read.texts[0].rows] == [laid_out(CAT), laid_out()]
        assert read.phases == ((5, 0), (10, 1))
        assert read.chunk_count == 2

    def test_brackets_are_words_where_the_emphasis_is_none(self) -> None:
        assert reader(emphasis="none").read("(cat)", 1).texts[0].rows[0][0].token_count == 3
        assert reader(emphasis="ignore").read("(cat:1.5)", 1).texts[0].rows[0][0].token_count == 1

    def test_typographic_signs_are_mended_and_html_is_only_for_the_second_encoder(self) -> None:
        read = reader(Architecture.SDXL)
        assert read.read("\u201ccat\u201d", 1) == read.read('"cat"', 1)
        one, other = read.read("cat > <dog &amp;", 1), read.read("cat > <dog &", 1)
        assert ids(one, 1) == ids(other, 1)
        assert ids(one, 0) != ids(other, 0)


class TestComfyUI:
    def test_a_long_piece_fills_the_chunk(self) -> None:
        read = reader(syntax="comfyui").read("cat " * 70 + ", " + "dog " * 10, 1)
        assert ids(read) == [laid_out(*[CAT] * 70, COMMA, *[DOG] * 4), laid_out(*[DOG] * 6)]

    def test_a_piece_of_fewer_than_8_tokens_is_not_divided(self) -> None:
        read = reader(syntax="comfyui").read("cat " * 70 + "(" + "dog " * 7 + ":1.2)", 1)
        assert ids(read) == [laid_out(*[CAT] * 70), laid_out(*[DOG] * 7)]
        read = reader(syntax="comfyui").read("cat " * 70 + "(" + "dog " * 8 + ":1.2)", 1)
        assert ids(read) == [laid_out(*[CAT] * 70, *[DOG] * 5), laid_out(*[DOG] * 3)]

    def test_both_encoders_of_sdxl_are_padded_as_they_were_trained(self) -> None:
        read = reader(Architecture.SDXL, syntax="comfyui").read("cat", 1)
        assert (ids(read, 0), ids(read, 1)) == ([laid_out(CAT)], [laid_out(CAT, pad=0)])

    def test_texts_are_not_mended(self) -> None:
        read = reader(syntax="comfyui")
        assert read.read("\u201ccat\u201d", 1) != read.read('"cat"', 1)
        assert read.read("CAT\n cat", 1) == read.read("cat cat", 1)

    def test_break_and_tags_are_words(self) -> None:
        assert reader(syntax="comfyui").read("cat BREAK dog", 1).chunk_count == 1
        assert reader(syntax="comfyui").read("<lora:x:0.8>", 1).texts[0].rows[0][0].token_count > 3


def test_a_plain_prompt_is_cut_off_after_75_tokens() -> None:
    read = reader(syntax="plain").read("(cat) " * 80, 1)
    assert read.chunk_count == 1
    assert not read.is_weighted
    assert list(chunks(read)[0].ids)[76] == END


def test_a_prompt_that_is_none_is_refused_before_it_is_read() -> None:
    with pytest.raises(PromptError, match=r"has 2,000,000 characters, more than 100,000"):
        reader().read("a" * 2_000_000, 1)
    with pytest.raises(PromptError, match="chunks of 75 tokens, more than 50"):
        reader().read("cat " * 5000, 1)


def read_or_refused(prompt: str, syntax: str) -> Reading | str:
    """A prompt for SDXL and four steps, or why it cannot be read."""
    try:
        return reader(Architecture.SDXL, syntax=syntax).read(prompt, 4)
    except PromptError as error:
        return str(error)


@pytest.mark.parametrize("syntax", ["a1111", "comfyui", "plain"])
@settings(deadline=None)
@example(["<", "embedding:", "\n", "<lora:x:1>"])
@example(["<LORA:a", "\n", "b:1>"])
@given(st.lists(st.sampled_from([*"()[]:|\\,# <>\n", "a", "1.2", "BREAK", "AND", "embedding:", "<lora:x:1>"])))
def test_any_text_is_read_or_refused_in_one_line(syntax: str, parts: list[str]) -> None:
    read = read_or_refused("".join(parts), syntax)
    if isinstance(read, str):
        assert "\n" not in read
        return
    assert all(len(chunk.ids) == len(chunk.weights) == 77 for text in read.texts for row in text.rows for chunk in row)
    assert len({len(text.rows) for text in read.texts}) == 1
    assert read.phases[-1][0] == 4


# ------------------------------------------------------------------------------------------ embeddings


def vectors(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def placed(chunk: Chunk) -> Mapping[int, tuple[str, int]]:
    return {vector.position: (vector.inversion, vector.row) for vector in chunk.vectors}


class TestEmbeddings:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "embeddings"
        (folder / "sub").mkdir(parents=True)
        save_file({"emb_params": vectors(2, 8)}, folder / "easynegative.safetensors")
        torch.save({"string_to_param": {"*": vectors(3, 8)}, "name": "x", "step": 5}, folder / "sub" / "bad hands.pt")
        torch.save({"<style>": vectors(1, 8)[0]}, folder / "style.bin")
        save_file({"clip_l": vectors(2, 8), "clip_g": vectors(2, 12)}, folder / "both.safetensors")
        return folder

    def test_a1111_knows_them_by_their_bare_names(self, folder: Path) -> None:
        (chunk,) = chunks(reader(embeddings=str(folder)).read("cat, (EasyNegative:1.2), bad hands dog", 1))
        assert list(chunk.ids[:9]) == [START, CAT, COMMA, 0, 0, COMMA, 0, 0, 0]
        assert placed(chunk) == {
            3: ("easynegative", 0),
            4: ("easynegative", 1),
            6: ("bad hands", 0),
            7: ("bad hands", 1),
            8: ("bad hands", 2),
        }
        assert chunk.weights[2:6] == (1.0, 1.2, 1.2, 1.0)

    def test_an_unknown_bare_word_is_text(self, folder: Path) -> None:
        assert not chunks(reader(embeddings=str(folder)).read("cat, worst, bad", 1))[0].vectors

    def test_the_longest_name_wins(self, folder: Path) -> None:
        save_file({"x": vectors(1, 8)}, folder / "bad.safetensors")
        (chunk,) = chunks(reader(embeddings=str(folder)).read("bad hands bad", 1))
        assert [name for name, _ in placed(chunk).values()] == ["bad hands"] * 3 + ["bad"]

    def test_an_embedding_of_a1111_is_not_divided_between_chunks(self, folder: Path) -> None:
        first, second = chunks(reader(embeddings=str(folder)).read("cat " * 74 + "easynegative", 1))
        assert not first.vectors
        assert list(placed(second)) == [1, 2]

    @pytest.mark.parametrize(
        ("prompt", "rest"),
        [
            ("embedding:easynegative", []),
            ("embedding:easynegative.safetensors cat", [CAT]),
            ("embedding:easynegative, cat", [COMMA, CAT]),
        ],
    )
    def test_comfyui_knows_them_by_a_mark(self, prompt: str, rest: list[int], folder: Path) -> None:
        (chunk,) = chunks(reader(syntax="comfyui", embeddings=str(folder)).read(f"cat {prompt}", 1))
        assert list(chunk.ids[: 4 + len(rest)]) == [START, CAT, 0, 0, *rest]
        assert placed(chunk) == {2: ("easynegative", 0), 3: ("easynegative", 1)} or "safetensors" in prompt

    def test_comfyui_weighs_them_and_finds_them_in_folders(self, folder: Path) -> None:
        (chunk,) = chunks(reader(syntax="comfyui", embeddings=str(folder)).read("(embedding:style:1.3)", 1))
        assert chunk.weights[1] == 1.3
        save_file({"x": vectors(1, 8)}, folder / "sub" / "deep.safetensors")
        for name in ("deep", "sub/deep"):
            assert chunks(reader(syntax="comfyui", embeddings=str(folder)).read(f"embedding:{name}", 1))[0].vectors

    def test_sdxl_has_vectors_for_each_encoder(self, folder: Path) -> None:
        for syntax, prompt in (("a1111", "both"), ("comfyui", "embedding:both")):
            read = reader(Architecture.SDXL, syntax=syntax, embeddings=str(folder)).read(prompt, 1)
            assert [len(chunks(read, encoder)[0].vectors) for encoder in (0, 1)] == [2, 2]

    @pytest.mark.parametrize(
        ("prompt", "problem"),
        [
            ("embedding:easynegativ", r"'easynegativ' is not in .*: did you mean 'easynegative'"),
            ("embedding:EASYNEGATIVE", "did you mean 'easynegative'"),
            ("embedding:", "is not in"),
            ("embedding:../secret", "is not in"),
        ],
    )
    def test_one_that_is_not_there_is_refused_in_comfyui(self, prompt: str, problem: str, folder: Path) -> None:
        with pytest.raises(PromptError, match=problem):
            reader(syntax="comfyui", embeddings=str(folder)).read(f"cat {prompt}", 1)

    def test_a_name_without_a_folder_is_refused(self) -> None:
        with pytest.raises(PromptError, match="names no folder of embeddings: give `embeddings: FOLDER`"):
            reader(syntax="comfyui").read("embedding:x", 1)

    def test_one_for_another_model_is_refused_by_name(self, folder: Path) -> None:
        save_file({"x": vectors(2, 16)}, folder / "wide.safetensors")
        with pytest.raises(PromptError, match=r"'wide' .* expected vectors for clip_l of 8, got one tensor of 16"):
            reader(embeddings=str(folder)).read("wide", 1)
        with pytest.raises(PromptError, match=r"'easynegative' .*clip_l of 8 and clip_g of 12, got one tensor of 8"):
            reader(Architecture.SDXL, embeddings=str(folder)).read("easynegative", 1)

    @pytest.mark.parametrize("content", [b"", b"not torch", b"\x80\x02cos\nsystem\n."])
    def test_a_file_that_cannot_be_read_is_refused(self, content: bytes, folder: Path) -> None:
        (folder / "broken.pt").write_bytes(content or b"\x00")
        with pytest.raises(PromptError, match=r"broken\.pt"):
            reader(embeddings=str(folder)).read("broken", 1)

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ({"a": vectors(1, 8), "b": vectors(1, 8)}, "holds no embedding"),
            ({"string_to_param": {}}, "holds no embedding"),
            ({"a": torch.full((2, 8), torch.nan)}, "NaN"),
            ({"a": torch.zeros(2, 8, dtype=torch.int64)}, "expected floats"),
            ({"a": vectors(76, 8)}, "has 76 vectors: expected 1 to 75"),
            ([1, 2], "got a list"),
        ],
    )
    def test_a_file_that_holds_no_embedding_is_refused(self, content: Any, problem: str, folder: Path) -> None:
        torch.save(content, folder / "odd.pt")
        with pytest.raises(PromptError, match=problem):
            reader(embeddings=str(folder)).read("odd", 1)

    def test_the_parameters_of_the_first_scripts_are_read(self, folder: Path) -> None:
        parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors(2, 8))})
        torch.save({"string_to_token": {"*": 265}, "string_to_param": parameters}, folder / "old.pt")
        (chunk,) = chunks(reader(embeddings=str(folder)).read("old", 1))
        assert list(placed(chunk)) == [1, 2]

    def test_two_files_of_one_name_are_refused(self, folder: Path) -> None:
        save_file({"x": vectors(1, 8)}, folder / "sub" / "style.safetensors")
        with pytest.raises(PromptError, match=r"'style' is there 2 times"):
            reader(embeddings=str(folder)).read("style", 1)

    def test_a_folder_that_is_none_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(PromptError, match="is no folder"):
            reader(embeddings=str(tmp_path / "nowhere"))


def test_a_file_that_a1111_knows_by_a_name_with_a_suffix_in_it_is_used(tmp_path: Path) -> None:
    for name in ("v1.pt.safetensors", "old.bin.PT", "plain.SAFETENSORS"):
        (tmp_path / name).write_bytes(b"content")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "inner.pt").write_bytes(b"content")
    folder = InversionFolder(tmp_path, {})
    assert sorted(folder.stems) == ["inner", "old.bin", "plain", "v1.pt"]
