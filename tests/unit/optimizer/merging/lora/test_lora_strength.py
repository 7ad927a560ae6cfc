"""A LoRA's strength where it is not stored with its layers: PEFT's own result is the reference."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import small_shapes
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from optimizer.errors import LoraError
from optimizer.merging.files.hash_lookup import Candidate, candidates, find_by_sha256
from optimizer.merging.files.sources import TensorInfo
from optimizer.merging.lora.file import Lora, delta
from search_spaces.blocks import Architecture
from studies.recipe.lora_files import files_of_lora

SD15 = Architecture.SD15
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
KEYS = {
    f"{ATTENTION}.to_q": "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
    f"{ATTENTION}.to_k": "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_k.weight",
    "mid_block.resnets.0.time_emb_proj": "model.diffusion_model.middle_block.0.emb_layers.1.weight",
}
SHAPES = small_shapes("sd15")
TENSORS = {key: TensorInfo(torch.float16, SHAPES[key]) for key in KEYS.values()}


def model() -> nn.Module:
    """Return the three layers under diffusers' names, with zeros for weights."""
    root = nn.Module()
    for name, key in KEYS.items():
        parent = root
        *path, leaf = name.split(".")
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        layer = nn.Linear(SHAPES[key][1], SHAPES[key][0], bias=False)
        nn.init.zeros_(layer.weight)
        parent.add_module(leaf, layer)
    return root


def trained(folder: Path, *, safe: bool = True, **settings: Any) -> dict[str, Tensor]:
    """Write an adapter as PEFT does, and return the change that PEFT itself makes to each weight, by key."""
    targets = ["to_q", "to_k", "time_emb_proj"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings that PEFT does not follow
        adapter = get_peft_model(model(), LoraConfig(target_modules=targets, **settings))
        generator = torch.Generator().manual_seed(0)
        for name, parameter in adapter.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator)
        adapter.save_pretrained(str(folder), safe_serialization=safe)
        merged = adapter.merge_and_unload()
    return {KEYS[name.removesuffix(".weight")]: value.detach() for name, value in merged.named_parameters()}


def baked(path: Path) -> dict[str, Tensor]:
    targets = Lora.open(path).targets(TENSORS, SD15)
    return {key: delta(parts, SHAPES[key]) for key, parts in targets.items()}


def require_equal(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert tensor.abs().max() > 0
        torch.testing.assert_close(got[key], tensor, rtol=1e-5, atol=1e-5)


SETTINGS: dict[str, dict[str, Any]] = {
    "alpha": {"r": 4, "lora_alpha": 16},
    "less than 1": {"r": 8, "lora_alpha": 2},
    "rank-stabilised": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "alpha pattern": {"r": 4, "lora_alpha": 16, "alpha_pattern": {"to_k": 2, "mid_block.*": 12}},
    "rank pattern": {"r": 4, "lora_alpha": 16, "rank_pattern": {"attn1.to_q": 2, r"resnets\.\d+\.time_emb_proj": 6}},
    "both patterns": {"r": 4, "lora_alpha": 8, "rank_pattern": {"to_q": 2}, "alpha_pattern": {"^down_blocks.*to_q": 3}},
    "fan in": {"r": 4, "lora_alpha": 16, "fan_in_fan_out": True},  # linear layers ignore it
}


class TestConfigurationBeside:
    @pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
    @pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "torch.save"])
    def test_an_adapter_changes_weights_as_peft_itself_does(
        self, tmp_path: Path, settings: dict[str, Any], safe: bool
    ) -> None:
        wanted = trained(tmp_path, safe=safe, **settings)
        require_equal(baked(tmp_path / f"adapter_model.{'safetensors' if safe else 'bin'}"), wanted)

    def test_it_belongs_to_a_renamed_adapter(self, tmp_path: Path) -> None:
        wanted = trained(tmp_path, r=4, lora_alpha=16)
        (tmp_path / "adapter_model.safetensors").rename(tmp_path / "style.safetensors")
        require_equal(baked(tmp_path / "style.safetensors"), wanted)

    def test_it_does_not_belong_to_other_loras_in_the_folder(self, tmp_path: Path) -> None:
        trained(tmp_path, r=4, lora_alpha=16)
        adapter = load_file(tmp_path / "adapter_model.safetensors")
        named = {key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): row for key, row in adapter.items()}
        save_file(adapter, tmp_path / "another.safetensors")
        save_file(named, tmp_path / "kohya.safetensors")
        for name in ("another", "kohya"):
            assert files_of_lora(tmp_path / f"{name}.safetensors") == (tmp_path / f"{name}.safetensors",)
            assert {factors.scale for factors in Lora.open(tmp_path / f"{name}.safetensors").modules.values()} == {1.0}

    def test_it_is_told(self, tmp_path: Path) -> None:
        trained(tmp_path, r=4, lora_alpha=16, alpha_pattern={"to_k": 2})
        assert Lora.open(tmp_path / "adapter_model.safetensors").notes == (
            "the scale of 3 layers is 0.5 to 4 and comes from adapter_config.json beside it",
        )

    @pytest.mark.parametrize(
        ("setting", "value", "words"),
        [
            ("use_dora", True, "a DoRA"),
            ("modules_to_save", ["conv_in"], "whole layers"),
            ("bias", "all", "with biases"),
            ("peft_type", "LOHA", "kind LOHA"),
            ("init_lora_weights", "pissa_niter_16", "itself changed"),
            ("layer_replication", [[0, 4]], "repeated layers"),
            ("use_qalora", True, "quantised"),
            ("alpha_pattern", {"(a+)+b": 2}, "not supported"),
            ("alpha_pattern", {"to_k": "much"}, "damaged"),
            ("rank_pattern", {"*": 2}, "not supported"),
            ("rank_pattern", {"a": None}, "damaged"),
            ("alpha_pattern", [1], "not an object"),
            ("rank_pattern", 4, "not an object"),
            ("rank_pattern", "(a|b)", "not an object"),
            ("lora_alpha", "much", "damaged"),
            ("lora_alpha", None, "damaged"),
            ("use_rslora", "yes", "damaged"),
            ("r", 8, "belongs to another LoRA"),
        ],
    )
    def test_what_cannot_be_carried_out_is_refused(
        self, tmp_path: Path, setting: str, value: object, words: str
    ) -> None:
        trained(tmp_path, r=4, lora_alpha=16)
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
        with pytest.raises(LoraError, match=words) as caught:
            Lora.open(tmp_path / "adapter_model.safetensors")
        assert "adapter_config.json" in str(caught.value)

    @pytest.mark.parametrize("setting", ["alpha_pattern", "rank_pattern"])
    @pytest.mark.parametrize("pattern", [r"^down_blocks\.(0|1)\..*", "to_[qk]", r"(?:attn1|attn2)\.to_q", "to_q?"])
    def test_patterns_beyond_names_are_named_and_are_no_damage(
        self, tmp_path: Path, setting: str, pattern: str
    ) -> None:
        trained(tmp_path, r=4, lora_alpha=16)
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {setting: {"to_k": 4, pattern: 4}}))
        with pytest.raises(LoraError, match="such patterns are not supported here") as caught:
            Lora.open(tmp_path / "adapter_model.safetensors")
        assert f"{pattern!r} in its {setting}" in str(caught.value)
        assert "fetch" not in str(caught.value)

    @pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
    def test_damaged_text_is_refused(self, tmp_path: Path, text: str) -> None:
        trained(tmp_path, r=4, lora_alpha=16)
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(LoraError, match=r"adapter_config\.json beside it is not"):
            Lora.open(tmp_path / "adapter_model.safetensors")


class TestIdentity:
    def test_a_changed_configuration_is_another_lora(self, tmp_path: Path) -> None:
        trained(tmp_path, r=4, lora_alpha=16)
        path, configuration = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
        before = Lora.open(path)
        assert (before.files, Candidate.of(path).sha256()) == ((path, configuration), before.sha256)
        configuration.write_text(configuration.read_text().replace('"lora_alpha": 16', '"lora_alpha": 8'))
        assert Lora.open(path).sha256 != before.sha256

    def test_it_is_found_by_its_content(self, tmp_path: Path) -> None:
        for name, alpha in (("one", 16), ("two", 8)):
            trained(tmp_path / name, safe=False, r=4, lora_alpha=alpha)
        wanted = Lora.open(tmp_path / "two" / "adapter_model.bin").sha256
        found = find_by_sha256([wanted], candidates(tmp_path, {"adapter_model"}))
        assert found[wanted].path == tmp_path / "two" / "adapter_model.bin"


def header(folder: Path, metadata: dict[str, str], **settings: Any) -> Path:
    """Write PEFT's tensors alone, with a header."""
    trained(folder / "peft", **settings)
    save_file(load_file(folder / "peft" / "adapter_model.safetensors"), folder / "style.safetensors", metadata)
    return folder / "style.safetensors"


class TestHeader:
    @pytest.mark.parametrize(
        ("metadata", "scale"),
        [
            ({"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 10})}, 2.5),
            ({"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 10, "unet.use_rslora": True})}, 5.0),
            ({"ss_network_dim": "4", "ss_network_alpha": "1.0"}, 0.25),
            ({"lora_alpha": "6", "r": "4"}, 1.5),
            ({"alpha": "8"}, 2.0),
            ({"ss_network_dim": "4", "ss_network_alpha": "Dynamic"}, 1.0),
            ({"ss_network_dim": "16", "ss_network_alpha": "16.0"}, 1.0),  # layers of less than the rank asked for
            ({}, 1.0),
        ],
    )
    def test_its_alpha_counts_where_layers_have_none(
        self, tmp_path: Path, metadata: dict[str, str], scale: float
    ) -> None:
        lora = Lora.open(header(tmp_path, metadata, r=4))
        assert {factors.scale for factors in lora.modules.values()} == {scale}
        assert [f"{scale:g}" in note for note in lora.notes] == ([True] if scale != 1 else [])

    def test_alphas_of_the_layers_themselves_count_first(self, tmp_path: Path) -> None:
        path = header(tmp_path, {}, r=4)
        tensors = load_file(path)
        alphas = {key.replace("lora_A.weight", "alpha"): torch.tensor(2.0) for key in tensors if "lora_A" in key}
        save_file(tensors | alphas, path, {"ss_network_alpha": "16", "ss_network_dim": "4"})
        lora = Lora.open(path)
        assert ({factors.scale for factors in lora.modules.values()}, lora.notes) == ({0.5}, ())

    @pytest.mark.parametrize("setting", ["unet.use_dora", "use_dora"])
    def test_what_cannot_be_carried_out_is_refused(self, tmp_path: Path, setting: str) -> None:
        with pytest.raises(LoraError, match="a DoRA"):
            Lora.open(header(tmp_path, {"lora_adapter_metadata": json.dumps({setting: True})}, r=4))


class TestNumbersOfLayers:
    @pytest.mark.parametrize(
        ("numbers", "scale"),
        [
            ({"alpha": 2.0}, 0.5),
            ({"alpha": 2.0, "scale": 3.0}, 3.0),  # A1111's network.py: `scale` stands for alpha / rank
            ({"alpha": 2.0, "scalar": 0.5}, 0.25),  # LyCORIS's locon.py: the product times `scalar`
            ({"scalar": 0.5}, 0.5),
        ],
    )
    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    def test_alpha_scale_and_scalar(self, tmp_path: Path, numbers: dict[str, float], scale: float, suffix: str) -> None:
        module = "lora_unet_mid_block_resnets_0_time_emb_proj"
        tensors: dict[str, Any] = {
            f"{module}.lora_up.weight": torch.ones(8, 4),
            f"{module}.lora_down.weight": torch.ones(4, 8),
        }
        path = tmp_path / f"style{suffix}"
        if suffix == ".pt":  # where a number may be a plain one
            torch.save(tensors | {f"{module}.{name}": value for name, value in numbers.items()}, path)
        else:
            save_file(tensors | {f"{module}.{name}": torch.tensor(value) for name, value in numbers.items()}, path)
        assert Lora.open(path).modules[module].scale == scale
