"""The shared CLIP: the right numbers, one forward for all, and no model with the wrong activation."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file
from scorer_helpers import TINY_CLIP, picture

from basics.files import sha256_of
from scorers.aesthetics import clip_iqa, kinds, laion
from scorers.aesthetics.kinds import AestheticSettings, ClipIqaSettings
from scorers.config import ClipModelSettings
from scorers.errors import MissingWeightsError, ScorerSettingsError, WrongWeightsError
from scorers.networks import inference
from scorers.networks.clip.architecture import architecture_of, make_model
from scorers.networks.clip.embedder import ClipEmbedder, load_embedder, shared_embedder
from scorers.networks.clip.plan import plan_model
from scorers.networks.clip.preprocessing import preprocess_of
from scorers.networks.clip.tokenizer import token_count
from scorers.networks.clip.weights import load_weights, openai_digests, read_state
from scorers.prompt_fit import clip_score
from scorers.prompt_fit.kinds import ClipScoreSettings
from scorers.protocol import BuildContext, SuiteImages

if TYPE_CHECKING:
    from pathlib import Path

    from scorers.protocol import ImageScorer


@pytest.fixture
def reference(clip_dir: Path) -> open_clip.CLIP:
    """The same weights in open_clip's own hands."""
    model = open_clip.CLIP(**TINY_CLIP).eval()
    model.load_state_dict(load_file(clip_dir / "tiny.safetensors"))
    return model


@pytest.fixture
def context(device: torch.device, tmp_path: Path) -> BuildContext:
    return BuildContext(device=str(device), cache_dir=tmp_path / "cache")


@pytest.fixture
def embedder(clip_settings: ClipModelSettings, device: torch.device) -> ClipEmbedder:
    return load_embedder(clip_settings, str(device))


def save_archive(model: torch.nn.Module, path: Path) -> Path:
    """A TorchScript archive, as OpenAI published CLIP."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(str(path))  # type: ignore[no-untyped-call]
    return path


def test_image_embeddings_are_those_of_open_clip(
    embedder: ClipEmbedder, reference: open_clip.CLIP, suite: SuiteImages
) -> None:
    transform = image_transform_v2(PreprocessCfg(size=32), is_train=False)
    inputs = torch.stack([transform(Image.fromarray(i.permute(1, 2, 0).numpy())) for i in suite.images])
    with torch.no_grad():
        expected = reference.encode_image(inputs, normalize=True)
    ours = embedder.embed_images(suite)
    assert (ours.shape, ours.dtype, str(ours.device)) == ((9, 24), torch.float32, "cpu")
    torch.testing.assert_close(ours, expected, atol=0.02, rtol=0)  # a grey level apart, see test_images


def test_text_embeddings_are_those_of_open_clip(embedder: ClipEmbedder, reference: open_clip.CLIP) -> None:
    prompts = ["a cat", "a dog in the rain", "a cat"]
    with torch.no_grad():
        expected = reference.encode_text(open_clip.tokenize(prompts), normalize=True)
    torch.testing.assert_close(embedder.embed_texts(prompts), expected, atol=1e-6, rtol=0)


def test_a_network_that_takes_turns_gives_the_same_rows_and_leaves_the_device(
    clip_settings: ClipModelSettings, device: torch.device, suite: SuiteImages
) -> None:
    stays = load_embedder(clip_settings, str(device))
    held = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    turns = load_embedder(clip_settings, str(device), in_turns=True)
    for _ in range(2):
        alone = SuiteImages(images=suite.images, prompts=suite.prompts)
        with torch.inference_mode():
            assert torch.equal(turns.embed_images(alone), stays.embed_images(suite))
            assert torch.equal(turns.embed_texts(["a cat", "a dog"]), stays.embed_texts(["a cat", "a dog"]))
    assert (torch.cuda.memory_allocated() if device.type == "cuda" else 0) == held
    assert {parameter.device.type for parameter in turns._model.parameters()} == {"cpu"}


def test_clip_score_is_a_hundred_cosines(embedder: ClipEmbedder, suite: SuiteImages) -> None:
    images, texts = embedder.embed_images(suite), embedder.embed_texts(suite.prompts)
    expected = 100 * torch.nn.functional.cosine_similarity(images.double(), texts.double())
    scores = clip_score.ClipScorer(embedder).score(suite)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)


def test_clip_score_is_not_cut_off_at_zero() -> None:
    axis = torch.tensor([[1.0, 0.0]])
    assert clip_score.clip_score(axis, -axis).item() == -100


def test_clip_iqa_is_a_softmax_over_each_pair(embedder: ClipEmbedder, suite: SuiteImages) -> None:
    pairs = (("Good photo.", "Bad photo."), ("Sharp photo.", "Blurry photo."))
    scores = clip_iqa.ClipIqaScorer(embedder, pairs).score(suite)
    images = embedder.embed_images(suite).double()
    each = []
    for pair in pairs:
        logits = embedder.logit_scale * images @ embedder.embed_texts(pair).double().T
        each.append(logits.softmax(dim=-1)[:, 0])
    torch.testing.assert_close(scores, torch.stack(each).mean(dim=0))
    assert embedder.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)  # CLIP's value before training


def test_all_clip_scorers_share_one_model_and_one_forward(
    clip_settings: ClipModelSettings, context: BuildContext, suite: SuiteImages, tmp_path: Path
) -> None:
    torch.save({"weight": torch.ones(1, 24), "bias": torch.zeros(1)}, tmp_path / "head.pth")
    head = AestheticSettings(clip=clip_settings, head=tmp_path / "head.pth")
    scorers: list[ImageScorer] = [
        clip_score.build(ClipScoreSettings(clip=clip_settings), context),
        clip_iqa.build(ClipIqaSettings(clip=clip_settings), context),
        laion.build(head, context),
    ]
    model = shared_embedder(clip_settings, context)._model
    forwards: list[int] = []
    hook = model.visual.register_forward_hook(lambda _m, inputs, _o: forwards.append(len(inputs[0])))
    try:
        for scorer in scorers:
            assert scorer.score(suite).shape == (9,)
    finally:
        hook.remove()
    assert sum(forwards) == len(suite)


def test_texts_are_embedded_once_across_trials(embedder: ClipEmbedder, suite: SuiteImages) -> None:
    seen: list[int] = []
    hook = embedder._model.transformer.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    for _ in range(3):
        embedder.embed_texts(suite.prompts)
    hook.remove()
    assert seen == [5]


def test_scores_do_not_depend_on_order_or_batch(embedder: ClipEmbedder) -> None:
    images = tuple(picture(seed, 30 + seed % 3, 40) for seed in range(2 * inference.BATCH_SIZE + 3))
    prompts = tuple(f"number {seed}" for seed in range(len(images)))
    scorer = clip_score.ClipScorer(embedder)
    whole = scorer.score(SuiteImages(images=images, prompts=prompts))
    backwards = scorer.score(SuiteImages(images=images[::-1], prompts=prompts[::-1]))
    single = [
        scorer.score(SuiteImages(images=(image,), prompts=(prompt,))).item()
        for image, prompt in zip(images, prompts, strict=True)
    ]
    torch.testing.assert_close(whole, backwards.flip(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(whole, torch.tensor(single, dtype=torch.float64), atol=1e-4, rtol=0)


def test_too_many_images_at_once_become_half_as_many_from_then_on(
    clip_settings: ClipModelSettings, caplog: pytest.LogCaptureFixture
) -> None:
    images, seen = tuple(picture(seed, 30, 40) for seed in range(9)), list[int]()
    whole, short = (load_embedder(clip_settings) for _ in range(2))

    def check(_module: object, arguments: tuple[torch.Tensor, ...]) -> None:
        seen.append(len(arguments[0]))
        if seen[-1] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    short._model.visual.register_forward_pre_hook(check)
    for _ in range(2):
        suite = SuiteImages(images=images, prompts=("",) * 9)
        torch.testing.assert_close(short.embed_images(suite), whole.embed_images(suite), atol=1e-5, rtol=0)
    assert seen == [9, 5, 3, 3, 3, 3, 3, 3]
    assert [message.split("processes ")[1][:8] for message in caplog.messages] == ["3 images"]


def test_scoring_leaves_the_renderers_settings_alone(embedder: ClipEmbedder, suite: SuiteImages) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = embedder.embed_images(suite)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    outside = embedder.embed_images(SuiteImages(images=suite.images, prompts=suite.prompts))
    torch.testing.assert_close(inside, outside, atol=1e-5, rtol=0)  # bfloat16 would be 1e-2 away


def test_tokens_are_counted_with_start_and_end() -> None:
    assert token_count("a cat") == 4
    assert token_count("cat " * 76) == 78


def test_an_architecture_that_open_clip_does_not_take_is_named() -> None:
    with pytest.raises(ScorerSettingsError, match=r"open_clip cannot build a CLIP from this architecture.*colour"):
        make_model({"embed_dim": 8, "vision_cfg": {"layers": 1}, "text_cfg": {"layers": 1}, "colour": 1})


# Which model a file is for


@pytest.mark.parametrize(
    ("model", "tag", "quick"),
    [
        ("ViT-L-14-quickgelu", "openai", True),
        ("ViT-L-14", "openai", True),  # the tag knows better than the name
        ("ViT-L-14", "laion2b_s32b_b82k", False),
        ("ViT-B-32", "laion2b_s34b_b79k", False),
    ],
)
def test_the_activation_and_normalisation_of_a_file_follow_its_tag(
    model: str, tag: str, quick: bool, tmp_path: Path
) -> None:
    (tmp_path / "w.safetensors").touch()
    settings = ClipModelSettings(model=model, pretrained=str(tmp_path / "w.safetensors"), trained_as=tag)
    plan = plan_model(settings)
    assert plan.config["quick_gelu"] is quick
    expected = 0.5 if tag == "laion2b_s32b_b82k" else 0.48145466
    assert preprocess_of(224, plan.normalisation).mean[0] == expected


def test_a_file_that_does_not_tell_its_activation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").touch()
    settings = ClipModelSettings(model="ViT-L-14", pretrained=str(tmp_path / "w.safetensors"))
    with pytest.raises(WrongWeightsError, match=r"without an error: set clip.trained_as to .* openai, "):
        plan_model(settings)
    assert plan_model(settings.model_copy(update={"model": "ViT-L-14-quickgelu"})).config["quick_gelu"]


def test_quick_gelu_changes_the_numbers(clip_settings: ClipModelSettings, suite: SuiteImages, tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps(TINY_CLIP | {"quick_gelu": False}), encoding="utf-8")
    plain = clip_settings.model_copy(update={"config_dir": tmp_path})
    embeddings = [load_embedder(settings).embed_images(suite) for settings in (clip_settings, plain)]
    assert not torch.allclose(embeddings[0], embeddings[1], atol=1e-4)


def test_openais_archive_is_known_by_its_format_and_opened_by_its_digest(
    reference: open_clip.CLIP, tmp_path: Path
) -> None:
    archive = save_archive(torch.nn.Linear(3, 2).half(), tmp_path / "ViT-L-14.pt")
    settings = ClipModelSettings(model="ViT-L-14", pretrained=str(archive))
    assert plan_model(settings).config["quick_gelu"] is True
    with pytest.raises(WrongWeightsError, match="TorchScript archive, which may run code"):
        read_state(archive)
    state = read_state(archive, frozenset([sha256_of(archive)]))
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        "weight": torch.float32,
        "bias": torch.float32,
    }


def test_openais_digests_are_read_from_open_clips_table() -> None:
    digests = openai_digests()
    assert "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836" in digests  # ViT-L-14.pt
    assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)


@pytest.mark.parametrize("wrapped", [False, True])
def test_training_checkpoints_of_open_clip_load_too(
    wrapped: bool, clip_settings: ClipModelSettings, clip_dir: Path, suite: SuiteImages, tmp_path: Path
) -> None:
    state = load_file(clip_dir / "tiny.safetensors")
    content = {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}
    torch.save(content if wrapped else state, tmp_path / "tiny.pt")
    other = clip_settings.model_copy(update={"pretrained": str(tmp_path / "tiny.pt")})
    embeddings = [load_embedder(settings).embed_images(suite) for settings in (clip_settings, other)]
    torch.testing.assert_close(embeddings[0], embeddings[1], atol=1e-6, rtol=0)


def test_a_model_with_a_timm_tower_loads(suite: SuiteImages, tmp_path: Path) -> None:
    config = {
        "embed_dim": 16,
        "vision_cfg": {"timm_model_name": "test_efficientnet", "image_size": 64, "timm_proj": "linear"},
        "text_cfg": TINY_CLIP["text_cfg"],
    }
    (tmp_path / "lit.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(make_model(config | {"custom_text": True}).state_dict(), tmp_path / "lit.safetensors")
    (tmp_path / "lit.json").write_text(json.dumps(config | {"custom_text": True}), encoding="utf-8")
    settings = ClipModelSettings(model="lit", pretrained=str(tmp_path / "lit.safetensors"), config_dir=tmp_path)
    embedder = load_embedder(settings)
    assert embedder.preprocess.size == (64, 64)
    assert embedder.embed_images(suite).norm(dim=-1).tolist() == pytest.approx([1] * 9, abs=1e-5)


@pytest.mark.parametrize("fault", ["missing", "extra", "other size"])
def test_weights_that_do_not_fit_exactly_are_refused(
    fault: str, clip_settings: ClipModelSettings, clip_dir: Path, tmp_path: Path
) -> None:
    state = load_file(clip_dir / "tiny.safetensors")
    if fault == "missing":
        del state["ln_final.bias"]
    elif fault == "extra":
        state["more"] = torch.ones(1)
    else:  # of a 64-pixel model: open_clip's own loader would resample this and say nothing
        state["visual.positional_embedding"] = torch.zeros(65, 32)
    save_file(state, tmp_path / "w.safetensors")
    settings = clip_settings.model_copy(update={"pretrained": str(tmp_path / "w.safetensors")})
    with pytest.raises(WrongWeightsError, match=f"does not fit the CLIP architecture {settings.model} ") as caught:
        load_embedder(settings)
    assert "\n" not in str(caught.value)
    assert "`clip.pretrained`" in str(caught.value)
    assert "`clip.model`" in str(caught.value)


def test_of_many_keys_that_do_not_fit_three_are_told(
    clip_settings: ClipModelSettings, clip_dir: Path, tmp_path: Path
) -> None:
    state = {name: value for name, value in load_file(clip_dir / "tiny.safetensors").items() if "visual" in name}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WrongWeightsError, match=r"\(missing positional_embedding, \S+, \S+ and \d+ more\): ") as caught:
        load_weights(make_model(architecture_of(clip_settings)), tmp_path / "w.safetensors", "tiny")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "ViT-Z-1"}, "no architecture 'ViT-Z-1'"),
        ({"model": "ViT-L14"}, "no architecture 'ViT-L14': use one such as .*ViT-L-14"),
        ({"pretrained": "laion9b"}, r"no weights 'laion9b' for 'ViT-L-14-quickgelu': choose one of openai"),
        (
            {"model": "big", "pretrained": "/w.pth", "config_dir": "DIR"},
            "no CLIP architecture .*big.json.*config_dir .tiny",
        ),
    ],
)
def test_settings_that_name_nothing_are_told(change: dict[str, str], message: str, clip_dir: Path) -> None:
    options = {key: value.replace("DIR", str(clip_dir)) for key, value in change.items()}
    with pytest.raises(ScorerSettingsError, match=message):
        plan_model(ClipModelSettings.model_validate(options))


def test_a_folder_without_any_architecture_is_told_as_such(tmp_path: Path) -> None:
    settings = ClipModelSettings(model="big", pretrained="/w.pth", config_dir=tmp_path)
    with pytest.raises(ScorerSettingsError, match=r"no CLIP architecture .*big\.json: give the folder that has it"):
        plan_model(settings)


def test_a_missing_file_is_told_before_its_activation_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"named by option 'clip.pretrained'"):
        plan_model(ClipModelSettings(model="ViT-L-14", pretrained=str(tmp_path / "none.safetensors")))


def test_a_tag_that_is_not_here_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingWeightsError) as caught:
        plan_model(ClipModelSettings())
    for part in ("ViT-L-14-quickgelu / openai", "timm/vit_large_patch14_clip_224.openai", "clip.pretrained"):
        assert part in str(caught.value)


# The aesthetic head


def head_state(seed: int = 0, width: int = 24) -> dict[str, torch.Tensor]:
    """A v2 head in the format of LAION's file, random."""
    generator = torch.Generator().manual_seed(seed)
    widths = (width, 1024, 128, 64, 16, 1)
    state = {}
    for index, entry, out in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        state[f"layers.{index}.weight"] = torch.randn(out, entry, generator=generator) / math.sqrt(entry)
        state[f"layers.{index}.bias"] = torch.randn(out, generator=generator)
    return state


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_v2_head_is_laions_network(
    suffix: str, clip_settings: ClipModelSettings, context: BuildContext, suite: SuiteImages, tmp_path: Path
) -> None:
    # The network as LAION trains it: dropouts between the layers, so that 1, 3 and 5 have no weights.
    nn = torch.nn
    network = nn.Module()
    network.layers = nn.Sequential(
        nn.Linear(24, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )
    path = tmp_path / f"head{suffix}"
    save_file(network.state_dict(), path) if suffix == ".safetensors" else torch.save(network.state_dict(), path)
    scorer = laion.build(AestheticSettings(clip=clip_settings, head=path), context)
    embeddings = shared_embedder(clip_settings, context).embed_images(suite)
    with torch.no_grad():
        expected = network.layers.eval()(embeddings)[:, 0].double()
    torch.testing.assert_close(scorer.score(suite), expected, atol=1e-5, rtol=0)


def test_a_v1_head_is_one_linear_layer(
    clip_settings: ClipModelSettings, context: BuildContext, suite: SuiteImages, tmp_path: Path
) -> None:
    weight = np.linspace(-1, 1, 24, dtype=np.float32)
    torch.save({"weight": torch.from_numpy(weight)[None], "bias": torch.tensor([5.0])}, tmp_path / "v1.pth")
    scorer = laion.build(AestheticSettings(clip=clip_settings, head=tmp_path / "v1.pth"), context)
    embeddings = shared_embedder(clip_settings, context).embed_images(suite).numpy()
    np.testing.assert_allclose(scorer.score(suite).numpy(), embeddings @ weight + 5, atol=1e-5)


def test_a_head_for_another_clip_is_refused(
    clip_settings: ClipModelSettings, context: BuildContext, tmp_path: Path
) -> None:
    torch.save(head_state(width=768), tmp_path / "head.pth")
    settings = AestheticSettings(clip=clip_settings, head=tmp_path / "head.pth")
    with pytest.raises(WrongWeightsError, match=r"embeddings of width 768, this CLIP gives 24"):
        laion.build(settings, context)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.2.weight": torch.zeros(100, 1024)}, r"expected linear layers \[\(1024, 24\)"),
        ({"layers.6.bias": torch.zeros(3)}, "expected linear layers"),
        ({"layers.8.weight": torch.zeros(1)}, "is not a LAION aesthetic head: expected keys"),
    ],
)
def test_a_head_with_other_layers_is_refused(change: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(WrongWeightsError, match=message):
        laion.read_head(head_state() | change, "head.pth")


@pytest.mark.parametrize(
    ("model", "tag"), [("ViT-L-14", "laion2b_s32b_b82k"), ("ViT-L-14-336", "openai"), ("ViT-B-32", "openai")]
)
def test_laions_head_is_not_put_on_another_clip(
    model: str, tag: str, context: BuildContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither fetched nor from a copy of one's own: its width alone would not tell."""
    other = ClipModelSettings(model=model, pretrained=tag)
    said = f"with CLIP weights 'openai', not on {model} with '{tag}'"
    with pytest.raises(ScorerSettingsError, match=said):
        laion.build(AestheticSettings(clip=other), context)
    torch.save(head_state(width=768), tmp_path / "copy.pth")
    public = replace(kinds.AESTHETIC_V2, sha256=sha256_of(tmp_path / "copy.pth"))
    monkeypatch.setattr(kinds, "AESTHETIC_V2", public)
    with pytest.raises(ScorerSettingsError, match=said):
        laion.build(AestheticSettings(clip=other, head=tmp_path / "copy.pth"), context)


def test_a_missing_head_is_told_before_clip_is_loaded(context: BuildContext, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable = replace(kinds.AESTHETIC_V2, url="http://127.0.0.1:9/head.pth")
    monkeypatch.setattr(kinds, "AESTHETIC_V2", unreachable)
    with pytest.raises(MissingWeightsError, match=r"LAION aesthetic head v2 .* name a local copy with option 'head'"):
        laion.build(AestheticSettings(), context)
