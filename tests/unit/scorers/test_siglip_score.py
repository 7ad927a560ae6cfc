"""SigLIP score on a small random SigLIP, against the formula on the SigLIP of transformers, and its tokenizer."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, cast

import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import load_file, save_file
from scorer_helpers import TINY_SIGLIP, embedder_of, forwards_of, picture
from siglip_reference import as_transformers, text_as_transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import SiglipTextConfig, SiglipTextModel, SiglipVisionConfig, SiglipVisionModel

from scorers import registry
from scorers.errors import MissingWeightsError, ScorerSettingsError, WrongWeightsError
from scorers.networks.siglip_tokenizer import SigLipTokenizer
from scorers.networks.tokenizer_files import is_of_siglip, public_tokenizer
from scorers.protocol import BuildContext, SuiteImages

if TYPE_CHECKING:
    from pathlib import Path

    from scorers.protocol import ImageScorer

TEXT: dict[str, Any] = dict(cast("dict[str, Any]", TINY_SIGLIP["text_cfg"])) | {
    "norm_kwargs": {"eps": 1e-6},
    "tokenizer_kwargs": {"clean": "canonicalize"},
}
WORDS = ("▁", "▁a", "▁cat", "▁dog", "▁in", "▁the", "▁rain", "s", "▁d")


def save_tokenizer(path: Path, first: tuple[str, str, str] = ("<pad>", "</s>", "<unk>"), more: int = 0) -> Path:
    """A small tokenizer.json of the published kind: pieces of words, and the end's token after each text."""
    words = (*WORDS, *(f"▁{number}x" for number in range(more)))
    pieces = [*((token, 0.0) for token in first), *((word, -float(len(word) < 3) - 2) for word in words)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {first[1]}", special_tokens=[(first[1], 1)])
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP as open_clip publishes it, with random weights, and its tokenizer.json."""
    folder = tmp_path_factory.mktemp("siglip")
    config = TINY_SIGLIP | {"text_cfg": TEXT}
    (folder / "siglip.json").write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(6)
    parts = {key: value for key, value in config.items() if key not in {"preprocess_cfg", "custom_text"}}
    state = open_clip.CustomTextCLIP(**parts).state_dict()
    save_file({key: value + 0.1 * torch.randn_like(value) for key, value in state.items()}, folder / "w.safetensors")
    save_tokenizer(folder / "tokenizer.json")
    return folder


def options(**changes: str) -> dict[str, object]:
    clip = {"model": "siglip", "pretrained": "w.safetensors", "config_dir": ".", "tokenizer": "tokenizer.json"}
    return {"clip": clip | changes}


def built(folder: Path, context: BuildContext, **changes: str) -> ImageScorer:
    settings = registry.parse_settings("siglip_score", options(**changes), folder)
    return cast("ImageScorer", registry.build("siglip_score", settings, context))


def in_float64(kind: Any, config: Any, state: dict[str, torch.Tensor]) -> Any:
    model, found = kind.from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True, dtype=torch.float64
    )
    assert not found["missing_keys"] | found["unexpected_keys"]
    return model.eval()


# Prompt -> the numbers of its tokens, by hand; then come the end and 1 up to 64.
PROMPTS = {
    "a cat": [4, 5],
    "The cats, in the RAIN!": [8, 5, 10, 7, 8, 9],
    "": [],
    "a d0g": [4, 11, 2],
    "a " * 99: [4] * 63,
}


def test_a_score_is_the_formula_on_the_siglip_of_transformers(folder: Path, context: BuildContext) -> None:
    images = tuple(picture(seed, 56, 56) for seed in range(5))  # the network's own size: nothing is resized
    scores = built(folder, context).score(SuiteImages(images=images, prompts=tuple(PROMPTS)))

    shape = {"hidden_size": 32, "num_attention_heads": 2, "hidden_act": "gelu"}
    vision = SiglipVisionConfig(
        **shape, intermediate_size=int(32 * 3.7362), num_hidden_layers=2, image_size=56, patch_size=14
    )
    text = SiglipTextConfig(
        **shape, intermediate_size=128, num_hidden_layers=1, vocab_size=100, max_position_embeddings=64,
        projection_size=32,
    )  # fmt: skip
    state = load_file(folder / "w.safetensors")
    tokens = torch.tensor([(numbers + [1] * 64)[:64] for numbers in PROMPTS.values()])
    with torch.no_grad():
        seen = in_float64(SiglipVisionModel, vision, as_transformers(state))(torch.stack(images).double() / 127.5 - 1)
        read = in_float64(SiglipTextModel, text, text_as_transformers(state))(input_ids=tokens)
        norms = seen.pooler_output.norm(dim=-1) * read.pooler_output.norm(dim=-1)
        expected = 100 * (seen.pooler_output * read.pooler_output).sum(dim=-1) / norms
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)
    assert scores.std() > 0.1


@pytest.mark.parametrize("first", [("<pad>", "</s>", "<unk>"), ("<pad>", "<eos>", "<bos>")], ids=["T5", "Gemma"])
def test_tokens_are_those_of_open_clips_tokenizer(first: tuple[str, str, str], tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "tokenizer.json", first)
    filling = "</s>" if "</s>" in first else "<pad>"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": filling, "eos_token": first[1]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    theirs = HFTokenizer(str(tmp_path), context_length=64, clean="canonicalize")(list(PROMPTS))
    assert torch.equal(SigLipTokenizer(tmp_path / "tokenizer.json", TEXT)(list(PROMPTS)), theirs)


def test_it_shares_the_network_and_its_forward_with_other_scorers_of_the_same_clip(
    folder: Path, context: BuildContext, suite: SuiteImages
) -> None:
    first = built(folder, context)
    second = cast(
        "ImageScorer", registry.build("clip_score", registry.parse_settings("clip_score", options(), folder), context)
    )
    assert embedder_of(first) is embedder_of(second)
    with forwards_of(first) as forwards:
        assert torch.equal(first.score(suite), second.score(suite))
    assert sum(forwards) == len(suite)
    assert embedder_of(first).preprocess.resize_mode == "squash"


def test_all_siglips_of_open_clip_have_a_public_tokenizer() -> None:
    configs = [open_clip.get_model_config(name) for name in open_clip.list_models() if "SigLIP" in name]
    assert len(configs) > 20
    for config in configs:
        assert is_of_siglip(config["text_cfg"])
        public = public_tokenizer(config["text_cfg"])
        assert public.repository.startswith("timm/")
        assert (public.size_bytes == 34_400_000) == (config["text_cfg"]["vocab_size"] == 256_000)


def test_another_clip_is_sent_to_clip_score(folder: Path, context: BuildContext) -> None:
    with pytest.raises(ScorerSettingsError, match=r"expects a SigLIP, got ViT-L-14: .*or use clip_score"):
        registry.build(
            "siglip_score",
            registry.parse_settings("siglip_score", {"clip": {"model": "ViT-L-14", "pretrained": "openai"}}, folder),
            context,
        )


def test_a_tokenizer_is_not_given_to_clips_own_vocabulary(clip_dir: Path, folder: Path, context: BuildContext) -> None:
    clip = {"model": "tiny", "pretrained": "tiny.safetensors", "config_dir": "."}
    given = {"clip": clip | {"tokenizer": str(folder / "tokenizer.json")}}
    with pytest.raises(ScorerSettingsError, match=r"option 'clip.tokenizer' is for a SigLIP, tiny is another"):
        registry.build("clip_score", registry.parse_settings("clip_score", given, clip_dir), context)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "is not a tokenizer.json"),
        (("<pad>", "x", "<unk>"), "is not the tokenizer of this SigLIP: .* got 12 with x"),
        (200, "is not the tokenizer of this SigLIP: expected at most 100 tokens, .* got 212 with </s>"),
    ],
)
def test_another_tokenizer_gets_one_line(
    content: str | int | tuple[str, str, str], message: str, folder: Path, context: BuildContext, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        save_tokenizer(path, more=content) if isinstance(content, int) else save_tokenizer(path, content)
    with pytest.raises(WrongWeightsError, match=message) as caught:
        built(folder, context, tokenizer=str(path))
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_told_in_seconds(
    folder: Path, context: BuildContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    began = time.monotonic()
    with pytest.raises(
        MissingWeightsError, match=r"tokenizer of ViT-B-16-SigLIP .*timm/ViT-B-16-SigLIP, .*clip.tokenizer"
    ):
        registry.build("siglip_score", registry.parse_settings("siglip_score", {}, tmp_path), context)
    named = {"clip": {"model": "ViT-SO400M-14-SigLIP-384", "pretrained": "webli"}}
    named["clip"]["tokenizer"] = str(folder / "tokenizer.json")
    with pytest.raises(MissingWeightsError, match=r"ViT-SO400M-14-SigLIP-384 / webli .*clip.pretrained"):
        registry.build("siglip_score", registry.parse_settings("siglip_score", named, tmp_path), context)
    with pytest.raises(MissingWeightsError, match=r"no file at .*none.json, named by option 'clip.tokenizer'"):
        built(folder, context, tokenizer="none.json")
    assert time.monotonic() - began < 8
