"""Embeddings of weighted, long and changing prompts, against the documented formulas on the tiny text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from embedded_prompts import conditions_of, embedded, encoder_of, item_of
from live import resident_of
from safetensors.torch import save_file
from small_files import small_parents
from torch import Tensor

from optimizer.families.registry import model_family
from optimizer.rendering.models import LiveModels, build_models
from optimizer.rendering.prompts.encoder import Conditions, phase_at
from optimizer.rendering.render import Renderer
from search_spaces.blocks import Architecture
from studies.spec.suite import SuiteSettings

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

START, END, COMMA, CAT, DOG = 49406, 49407, 267, 2368, 1929
BOTH = pytest.mark.parametrize("architecture", list(Architecture))
assert_close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def models(device: torch.device) -> dict[Architecture, LiveModels]:
    return {name: build_models(resident_of(small_parents(name)[:1], device)) for name in Architecture}


@torch.inference_mode()
def encoded(live: LiveModels, tokens: Sequence[int]) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """What each text encoder makes of one chunk, in float64, and the pooled text."""
    family = model_family(live.architecture)
    rows = [
        torch.tensor([[START, *tokens, END, *[reader.padding] * (75 - len(tokens))]], device=live.unet.device)
        for reader in family.readers
    ]
    found = family.embed(rows, live.text_encoders, 1)
    return tuple(layer[0].double().cpu() for layer in found.layers), None if found.pooled is None else found.pooled[0]


def weights_of(*weights: float) -> Tensor:
    return torch.tensor([1.0, *weights, *[1.0] * (76 - len(weights))]).double()[:, None]


def positive(conditions: Conditions) -> Tensor:
    return conditions.positive[0].embedding.tokens.double().cpu()


@BOTH
class TestWeights:
    def test_a1111_multiplies_and_restores_the_mean_of_each_encoder(
        self, architecture: Architecture, models: dict[Architecture, LiveModels]
    ) -> None:
        live, weights = models[architecture], weights_of(1, 1.5, 1.5)
        layers, pooled = encoded(live, [CAT, DOG, DOG])
        expected = torch.cat([z * weights * (z.mean() / (z * weights).mean()) for z in layers], dim=-1)
        found = conditions_of(live, "cat (dog dog:1.5)", syntax="a1111")
        assert_close(positive(found), expected)
        if pooled is not None:
            own = found.positive[0].embedding.pooled
            assert own is not None
            assert_close(own, pooled)

    def test_without_the_norm_it_only_multiplies(
        self, architecture: Architecture, models: dict[Architecture, LiveModels]
    ) -> None:
        layers, _ = encoded(models[architecture], [CAT, DOG])
        expected = torch.cat(layers, dim=-1) * weights_of(1, 0.5)
        found = conditions_of(models[architecture], "cat (dog:0.5)", syntax="a1111", emphasis="no_norm")
        assert_close(positive(found), expected)

    def test_ignored_weights_change_nothing(
        self, architecture: Architecture, models: dict[Architecture, LiveModels]
    ) -> None:
        found = conditions_of(models[architecture], "cat (dog:0.5)", syntax="a1111", emphasis="ignore")
        expected = torch.cat(encoded(models[architecture], [CAT, DOG])[0], dim=-1)
        assert_close(positive(found), expected)

    def test_comfyui_moves_away_from_the_empty_prompt(
        self, architecture: Architecture, models: dict[Architecture, LiveModels]
    ) -> None:
        live = models[architecture]
        z, empty = (torch.cat(encoded(live, tokens)[0], dim=-1) for tokens in ([CAT, DOG, DOG], []))
        found = conditions_of(live, "cat (dog dog:1.4)", syntax="comfyui")
        assert_close(positive(found), empty + (z - empty) * weights_of(1, 1.4, 1.4))

    @pytest.mark.parametrize("syntax", ["a1111", "comfyui"])
    def test_a_prompt_without_weights_has_the_bits_of_a_plain_one(
        self, syntax: str, architecture: Architecture, models: dict[Architecture, LiveModels]
    ) -> None:
        plain = embedded(models[architecture], ["a red apple"])["a red apple"]
        found = conditions_of(models[architecture], "a red apple", "a red apple", syntax=syntax)
        assert torch.equal(found.positive[0].embedding.tokens, plain.tokens)


@BOTH
class TestLength:
    def test_chunks_stand_in_a_row_and_the_first_one_is_pooled(
        self, architecture: Architecture, models: dict[Architecture, LiveModels]
    ) -> None:
        live = models[architecture]
        (first, pooled), (second, _) = encoded(live, [CAT] * 75), encoded(live, [CAT] * 5)
        for syntax in ("a1111", "comfyui"):
            found = conditions_of(live, "cat " * 80, "dog", syntax=syntax)
            assert_close(positive(found), torch.cat([torch.cat(first, -1), torch.cat(second, -1)]))
            own = found.positive[0].embedding.pooled
            if pooled is not None and own is not None:
                assert_close(own, pooled)

    def test_the_shorter_prompt_is_repeated(
        self, architecture: Architecture, models: dict[Architecture, LiveModels]
    ) -> None:
        live = models[architecture]
        dog = torch.cat(encoded(live, [DOG])[0], -1)
        for syntax in ("a1111", "comfyui"):
            found = conditions_of(live, "cat " * 80, "dog", syntax=syntax)
            tokens = found.negative[0].embedding.tokens.double().cpu()
            assert_close(tokens, torch.cat([dog, dog]))
            assert found.token_count == 154

    def test_comfyui_repeats_up_to_a_common_length(
        self, architecture: Architecture, models: dict[Architecture, LiveModels]
    ) -> None:
        found = conditions_of(models[architecture], "cat " * 80, "cat " * 160, syntax="comfyui")
        assert found.token_count == len(found.negative[0].embedding.tokens) == 6 * 77


def test_a_changing_prompt_has_phases_and_one_mean(models: dict[Architecture, LiveModels]) -> None:
    live = models[Architecture.SD15]
    found = conditions_of(live, "[cat:(dog:1.5):0.5]", syntax="a1111", steps=10)
    assert [phase.until_call for phase in found.positive] == [5, 10]
    (cat,), (dog,) = encoded(live, [CAT])[0], encoded(live, [DOG])[0]
    weighted = dog * weights_of(1.5)
    norm = (cat.mean() + dog.mean()) / (cat.mean() + weighted.mean())
    for phase, expected in zip(found.positive, (cat * norm, weighted * norm), strict=True):
        assert_close(phase.embedding.tokens.double().cpu(), expected)
    assert phase_at(found.positive, 5) == 0
    assert phase_at(found.positive, 6) == 1
    assert phase_at(found.positive, 11) == 0


def test_a1111_gives_sdxl_zeros_for_an_empty_negative_prompt(models: dict[Architecture, LiveModels]) -> None:
    live = models[Architecture.SDXL]
    found = conditions_of(live, "cat " * 80, "", syntax="a1111").negative[0].embedding
    assert found.pooled is not None
    assert not found.tokens.any()
    assert not found.pooled.any()
    for syntax in ("comfyui", "plain"):
        assert conditions_of(live, "cat", "", syntax=syntax).negative[0].embedding.tokens.any()
    assert conditions_of(models[Architecture.SD15], "cat", "", syntax="a1111").negative[0].embedding.tokens.any()


def test_items_may_read_different_layers(models: dict[Architecture, LiveModels]) -> None:
    live = models[Architecture.SD15]
    items = [item_of("cat", index=0, clip_skip=1), item_of("cat", index=1, clip_skip=2)]
    found = encoder_of(live).conditions(items)
    for item in items:
        alone = embedded(live, ["cat"], clip_skip=item.clip_skip)["cat"].tokens
        assert_close(found[item.index].positive[0].embedding.tokens, alone)
    assert not torch.equal(found[0].positive[0].embedding.tokens, found[1].positive[0].embedding.tokens)


# ------------------------------------------------------------------------------------------ embeddings


def token_vectors(live: LiveModels, *tokens: int) -> dict[str, Tensor]:
    """Token vectors of the live encoders under the names that files of textual inversion have."""
    found = {}
    for reader in model_family(live.architecture).readers:
        table = live.text_encoders[reader.component].get_input_embeddings().weight
        found[reader.clip] = table[list(tokens)].clone().cpu().contiguous()
    return found


@BOTH
@pytest.mark.parametrize(("syntax", "name"), [("a1111", "mystyle"), ("comfyui", "embedding:mystyle")])
def test_an_embedding_of_words_own_vectors_is_those_words(
    syntax: str, name: str, architecture: Architecture, models: dict[Architecture, LiveModels], tmp_path: Path
) -> None:
    live = models[architecture]
    vectors = token_vectors(live, CAT, DOG)
    save_file(vectors if len(vectors) > 1 else {"emb_params": vectors["clip_l"]}, tmp_path / "mystyle.safetensors")
    settings: dict[str, Any] = {"syntax": syntax, "embeddings": str(tmp_path)}
    found = conditions_of(live, f"a ({name}:1.3) bird", f"{name}", **settings)
    words = conditions_of(live, "a (cat dog:1.3) bird", "cat dog", syntax=syntax)
    for ours, expected in zip(found.positive + found.negative, words.positive + words.negative, strict=True):
        assert_close(ours.embedding.tokens, expected.embedding.tokens)
        if expected.embedding.pooled is not None:
            assert_close(ours.embedding.pooled, expected.embedding.pooled)
    for encoder in live.text_encoders.values():
        assert not encoder.get_input_embeddings()._forward_hooks


@BOTH
def test_long_weighted_and_plain_prompts_render_in_one_suite(
    architecture: Architecture, models: dict[Architecture, LiveModels]
) -> None:
    prompts = ["(cat:1.3)", {"prompt": "cat " * 100, "clip_skip": 2}, {"prompt": "dog", "negative": "bad, " * 90}]
    suite = SuiteSettings.model_validate(
        {"prompts": prompts, "sizes": (64,), "steps": 1, "cfg": 5.0, "sampler": "ddim_comfyui", "negative": "blurry"}
    )
    renders = Renderer(models[architecture], suite).render()
    assert [tuple(image.shape) for image in renders.images] == [(3, 64, 64)] * 3
    assert not torch.equal(renders.images[0], renders.images[2])
