"""`mergetune lora extract` and `mergetune lora bake` as a user types them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import random_tensors, write_checkpoint
from command_line import Call, caller, enter
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from search_spaces.blocks import Architecture, blocks

LAYER = "model.diffusion_model.middle_block.1.proj_in.weight"  # a 1x1 convolution
MODULE = "lora_unet_mid_block_attentions_0_proj_in"
OTHER_LAYER = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
OTHER_MODULE = "text_encoder.text_model.encoder.layers.0.mlp.fc1"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints and LoRAs, good and bad; read only."""
    folder = tmp_path_factory.mktemp("files")
    write_checkpoint(folder / "a.safetensors", seed=1)
    write_checkpoint(folder / "b.safetensors", seed=2)
    write_checkpoint(folder / "xl.safetensors", "sdxl")
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(shape, generator=generator) * 0.05 for shape in ((128, 4, 1, 1), (4, 128, 1, 1)))
    kohya = {f"{MODULE}.lora_up.weight": up, f"{MODULE}.lora_down.weight": down, f"{MODULE}.alpha": torch.tensor(2.0)}
    save_file(kohya, folder / "style.safetensors")
    save_file(
        {
            f"{OTHER_MODULE}.lora_B.weight": torch.randn(128, 3, generator=generator) * 0.05,
            f"{OTHER_MODULE}.lora_A.weight": torch.randn(3, 64, generator=generator) * 0.05,
        },
        folder / "words.safetensors",
    )
    for suffix in ("pt", "pth", "bin"):
        torch.save(kohya, folder / f"style.{suffix}")
    torch.save({"state_dict": kohya, "epoch": 3}, folder / "style.ckpt")
    torch.save({"x": os.system}, folder / "code.pt")
    torch.save([up, down], folder / "list.pt")
    save_file(
        {key.replace(MODULE, "lora_te_text_model_encoder_layers_0_mlp_fc1"): row for key, row in kohya.items()},
        folder / "sd15.safetensors",
        metadata={"ss_base_model_version": "sd_v1"},
    )
    save_file(kohya | {f"{MODULE}.dora_scale": torch.ones(128, 1)}, folder / "dora.safetensors")
    save_file({f"{MODULE}x{key.removeprefix(MODULE)}": row for key, row in kohya.items()}, folder / "odd.safetensors")
    return folder


@pytest.fixture
def folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files linked in."""
    return enter(tmp_path, monkeypatch, files)


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`mergetune lora ARGUMENTS` in this process and folder."""
    return caller(monkeypatch, capsys, "lora")


def product(file: Path, module: str, up: str, down: str) -> np.ndarray:
    """up @ down in float64."""
    tensors = load_file(file)
    factors = [tensors[f"{module}.{name}.weight"].flatten(1).double().numpy() for name in (up, down)]
    result: np.ndarray = factors[0] @ factors[1]
    return result


class TestBake:
    def test_a_process_bakes_loras_of_two_conventions_at_their_weights(self, folder: Path) -> None:
        words = [sys.executable, "-m", "optimizer.cli", "lora", "bake", "a.safetensors"]
        words += ["style.safetensors:0.75", "words.safetensors:-0.5", "-o", "baked.safetensors", "--dtype", "fp32"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "style at 0.75: 1 layer in M00" in done.stdout
        assert "words at -0.5: 1 layer in text_encoder" in done.stdout
        before, after = random_tensors("sd15", 1), load_file(folder / "baked.safetensors")
        changes = {  # alpha 2 of rank 4, and none
            LAYER: 0.75 * (2 / 4) * product(folder / "style.safetensors", MODULE, "lora_up", "lora_down"),
            OTHER_LAYER: -0.5 * product(folder / "words.safetensors", OTHER_MODULE, "lora_B", "lora_A"),
        }
        assert before.keys() == after.keys()
        for key, tensor in before.items():
            if key in changes:
                wanted = tensor.double().numpy() + changes[key].reshape(tensor.shape)
                np.testing.assert_allclose(after[key].numpy(), wanted, rtol=1e-6, atol=1e-7)
            else:
                assert torch.equal(after[key], tensor.to(after[key].dtype)), key
        assert {row.dtype for row in after.values()} == {torch.float32, torch.int64}

    def test_a_weight_beyond_the_usual_is_taken_from_who_insists(self, call: Call) -> None:
        outcome = call("bake", "a.safetensors", "style.safetensors:-4", "-o", "baked.safetensors", "--force", code=0)
        assert "at -4 is far beyond -3 to 3" in outcome.err
        assert "style at -4" in outcome.out

    def test_the_file_says_what_went_into_it_and_keeps_the_checkpoints_dtype(self, call: Call, folder: Path) -> None:
        outcome = call("bake", "a.safetensors", "style.safetensors", "-o", "baked.safetensors")
        assert (outcome.code, outcome.err) == (0, "")
        with safe_open(folder / "baked.safetensors", "pt") as file:
            metadata = file.metadata()
            assert file.get_tensor(LAYER).dtype == torch.float16
        recipe = json.loads(metadata["mergetune.recipe"])
        assert [(lora["name"], lora["weight"]) for lora in recipe["loras"]] == [("style", 1.0)]
        assert [parent["name"] for parent in recipe["parents"]] == ["a"]
        assert metadata["modelspec.title"] == "baked"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "suffix", ["pt", "ckpt", *(pytest.param(end, marks=pytest.mark.slow) for end in ("pth", "bin"))]
    )
    def test_a_file_of_torch_save_is_baked_as_the_same_in_safetensors(
        self, call: Call, folder: Path, suffix: str
    ) -> None:
        call("bake", "a.safetensors", "style.safetensors", "-o", "wanted.safetensors", code=0)
        done = call("bake", "a.safetensors", f"style.{suffix}", "-o", "got.safetensors", code=0)
        assert "style at 1: 1 layer in M00" in done.out
        wanted, got = load_file(folder / "wanted.safetensors"), load_file(folder / "got.safetensors")
        assert wanted.keys() == got.keys()
        assert all(torch.equal(got[key], tensor) for key, tensor in wanted.items())

    @pytest.mark.slow
    def test_an_adapter_of_peft_goes_in_at_its_own_strength_and_says_so(self, call: Call, folder: Path) -> None:
        tensors = load_file(folder / "words.safetensors")
        adapter = folder / "adapter"
        adapter.mkdir()
        named = {key.replace("text_encoder", "base_model.model", 1): row for key, row in tensors.items()}
        save_file(named, adapter / "adapter_model.safetensors")
        (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 3, "lora_alpha": 12}')
        done = call(
            "bake",
            "a.safetensors",
            adapter / "adapter_model.safetensors",
            "-o",
            "o.safetensors",
            "--dtype",
            "fp32",
            code=0,
        )
        assert "the scale of 1 layer is 4 and comes from adapter_config.json beside it" in done.out
        change = load_file(folder / "o.safetensors")[OTHER_LAYER] - random_tensors("sd15", 1)[OTHER_LAYER].float()
        wanted = 4 * product(folder / "words.safetensors", OTHER_MODULE, "lora_B", "lora_A")
        np.testing.assert_allclose(change.numpy(), wanted, rtol=1e-5, atol=1e-6)


class TestExtract:
    @pytest.mark.slow
    @pytest.mark.parametrize("naming", [pytest.param("kohya", marks=pytest.mark.slow), "diffusers"])
    def test_the_whole_difference_baked_onto_a_gives_bs_layers(self, call: Call, folder: Path, naming: str) -> None:
        done = call(
            "extract", "a.safetensors", "b.safetensors", "-o", "l.safetensors", "--rank", "999", "--naming", naming
        )
        assert (done.code, done.err) == (0, "")
        names = set(load_file(folder / "l.safetensors"))
        spelled = (
            f"{MODULE}.lora_up.weight" if naming == "kohya" else "unet.mid_block.attentions.0.proj_in.lora_B.weight"
        )
        assert spelled in names
        assert call("bake", "a.safetensors", "l.safetensors", "-o", "again.safetensors").code == 0
        wanted, got = random_tensors("sd15", 2), load_file(folder / "again.safetensors")
        for key in (LAYER, OTHER_LAYER, "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"):
            torch.testing.assert_close(got[key], wanted[key], rtol=2e-3, atol=1e-4)

    def test_the_table_has_every_block_and_its_shares_make_a_whole(self, call: Call, folder: Path) -> None:
        arguments = ("a.safetensors", "b.safetensors", "-o", "l.safetensors", "--rank", "6", "--conv-rank", "2")
        done = call("extract", *arguments)
        rows = {
            match[1]: [float(share) for share in re.findall(r"([\d.]+)%", match[2])]
            for match in re.finditer(r"(\w+) +│((?: *[\d.]+% *│){4})", done.out)
        }
        assert list(rows) == ["text_encoder", *blocks(Architecture.SD15), "total"]
        for place, (_, kept, lost, outside) in rows.items():
            assert kept + lost + outside == pytest.approx(100, abs=0.16), place
        parts = sum(share * kept for place, (share, kept, *_) in rows.items() if place != "total") / 100
        assert parts == pytest.approx(rows["total"][1], abs=0.5)
        with safe_open(folder / "l.safetensors", "pt") as file:
            stated = json.loads(file.metadata()["mergetune.kept_energy"])
            ranks = {file.get_tensor(key).shape[0] for key in file.keys() if key.endswith("lora_down.weight")}  # noqa: SIM118
        assert 100 * stated["M00"] == pytest.approx(rows["M00"][1], abs=0.051)
        assert ranks == {6, 2}
        assert "the VAEs differ" in done.out

    def test_an_existing_file_is_replaced_only_on_demand(self, call: Call, folder: Path) -> None:
        (folder / "l.safetensors").write_text("mine")
        arguments = ("extract", "a.safetensors", "b.safetensors", "-o", "l.safetensors", "--rank", "1")
        refused = call(*arguments)
        assert (refused.code, (folder / "l.safetensors").read_text()) == (2, "mine")
        assert "l.safetensors exists" in refused.err
        assert call(*arguments, "--force").code == 0
        assert load_file(folder / "l.safetensors")


OUT = ("-o", "out.safetensors")
BAD = [
    (("extract", "a.safetensors", "gone.safetensors", *OUT), ["no checkpoint at gone.safetensors"]),
    (("extract", "a.safetensors", "a.safetensors", *OUT), ["does not differ", "nothing to extract"]),
    (("extract", "a.safetensors", "xl.safetensors", *OUT), ["a.safetensors is sd15", "xl.safetensors is sdxl"]),
    (("extract", "a.safetensors", "style.safetensors", *OUT), ["style.safetensors", "a LoRA"]),
    (("extract", "a.safetensors", "b.safetensors", "--rank", "0", *OUT), ["--rank"]),
    (("extract", "a.safetensors", "b.safetensors", "--conv-rank", "-1", *OUT), ["--conv-rank"]),
    (("extract", "a.safetensors", "b.safetensors", "--naming", "lycoris", *OUT), ["--naming", "kohya"]),
    (("extract", "a.safetensors", "b.safetensors"), ["--output"]),
    (("extract", "a.safetensors", "b.safetensors", "-o", "out.ckpt"), ["ends in .safetensors"]),
    (("extract", "a.safetensors", "b.safetensors", "-o", "no/out.safetensors"), ["in a folder that exists"]),
    (("extract", "a.safetensors", "b.safetensors", "-o", "b.safetensors", "--force"), ["one of the files to read"]),
    (("bake", "a.safetensors", *OUT), ["LORA"]),
    (("bake", "gone.safetensors", "style.safetensors", "-o", "no/o.safetensors"), ["in a folder that exists"]),
    (("bake", "a.safetensors", "gone.safetensors:0.5", *OUT), ["no LoRA at gone.safetensors"]),
    (("bake", "a.safetensors", "style.safetensors:much", *OUT), ["style.safetensors:much", "LORA:WEIGHT"]),
    (("bake", "a.safetensors", "style.safetensors:inf", *OUT), ["style.safetensors:inf", "finite"]),
    (("bake", "a.safetensors", "style.safetensors:80", *OUT), ["at 80 is far beyond -3 to 3: did you mean 0.8?"]),
    (("bake", "a.safetensors", "words.safetensors:-5", *OUT), ["did you mean -0.5?", "--force"]),
    (("bake", "a.safetensors", "dora.safetensors", *OUT), ["dora.safetensors is a DoRA"]),
    (("bake", "a.safetensors", "code.pt", *OUT), ["code.pt holds executable code", "posix.system"]),
    (("bake", "a.safetensors", "list.pt", *OUT), ["list.pt holds a LoRA of cloneofsimo's", "`lora_add"]),
    (("bake", "a.safetensors", ".", *OUT), ["no LoRA at .", "a folder", "adapter_model.safetensors"]),
    (("bake", "a.safetensors", "odd.safetensors", *OUT), ["1 of its 1 layers are not in the checkpoint", f"{MODULE}x"]),
    (("bake", "a.safetensors", "b.safetensors", *OUT), ["b.safetensors is a checkpoint"]),
    (("bake", "xl.safetensors", "sd15.safetensors", *OUT), ["a LoRA for SD1.5, the checkpoint is SDXL"]),
    (("bake", "style.safetensors", "style.safetensors", *OUT), ["a LoRA"]),
    (("bake", "a.safetensors", "style.safetensors", "-o", "style.safetensors", "--force"), ["one of the files"]),
    (("bake", "a.safetensors", "style.safetensors", "--dtype", "int8", *OUT), ["--dtype"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_gets_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], words: list[str], call: Call, folder: Path
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    outcome = call(*arguments)
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("error: "), outcome
    assert outcome.err.count("\n") == 1, outcome
    for word in words:
        assert word in outcome.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
