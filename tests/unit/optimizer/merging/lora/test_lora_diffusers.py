"""Extracted LoRAs as another program reads them: diffusers loads and fuses the file, and must get what we bake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import random_tensors, write_checkpoint
from diffusers_pipelines import converted, parameters, small_pipeline
from torch import Tensor

from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.lora.extract import extract, write_lora
from optimizer.merging.lora.file import Lora, delta
from optimizer.merging.lora.names import Naming
from search_spaces.blocks import Architecture


def baked(tensors: Mapping[str, Tensor], checkpoint: Checkpoint, lora: Lora, weight: float) -> dict[str, Tensor]:
    result = dict(tensors)
    for key, parts in lora.targets(checkpoint.tensors, checkpoint.architecture).items():
        result[key] = tensors[key] + weight * delta(parts, tensors[key].shape)
    return result


@pytest.mark.parametrize("naming", ["kohya", "diffusers"])
@pytest.mark.parametrize("architecture", list(Architecture))
def test_diffusers_fuses_an_extracted_file_to_the_weights_we_bake(
    tmp_path: Path, architecture: Architecture, naming: Naming
) -> None:
    """Every layer that a LoRA can hold, of ranks that differ: 4 outputs of the last layer limit it there."""
    a, b = (
        Checkpoint.open(write_checkpoint(tmp_path / f"{seed}.safetensors", architecture.value, seed))
        for seed in range(2)
    )
    file = tmp_path / "lora.safetensors"
    write_lora(file, extract(a, b, rank=16, conv_rank=8), naming)
    tensors = {
        key: tensor.float()
        for key, tensor in random_tensors(architecture.value, 0).items()
        if "position_ids" not in key
    }
    pipeline: Any = small_pipeline(architecture, tensors)
    pipeline.load_lora_weights(str(tmp_path), weight_name=file.name, adapter_name="extracted")
    names = ["unet", "text_encoder", *(["text_encoder_2"] if architecture == Architecture.SDXL else [])]
    pipeline.fuse_lora(components=names, lora_scale=0.7)
    pipeline.unload_lora_weights()

    lora = Lora.open(file)
    ours = converted(architecture, baked(tensors, a, lora, 0.7))
    before = converted(architecture, tensors)
    changed = 0
    for name in names:
        theirs = parameters(getattr(pipeline, name), ours[name])
        for parameter, value in theirs.items():
            torch.testing.assert_close(value.detach(), ours[name][parameter], rtol=0, atol=1e-6, msg=parameter)
            changed += not torch.equal(value, before[name][parameter])
    assert changed == len(lora.modules)
