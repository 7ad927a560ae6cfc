"""What a stored study may make a worker read: every path among its scorers' options, wherever it hides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from demo_study import short_spec
from safetensors.torch import save_file

from optimizer.errors import OutsideFoldersError
from optimizer.runtime.model_files import ModelFolders
from studies.records.values import StoredStudy
from studies.spec.fingerprints import named_paths
from studies.spec.scoring import ScorerEntry
from studies.spec.study import LoraSettings, StudySpec


def study_with(options: dict[str, Any]) -> StoredStudy:
    """A study without parents whose one scorer has these options, as somebody may have written them into a database."""
    spec = StudySpec.model_validate(short_spec(), context={"base_dir": Path("/")})
    scorers = {"one": ScorerEntry.model_construct(kind="one", options=options)}
    return StoredStudy(
        id=1,
        key="0" * 32,
        name="one",
        spec=spec.model_copy(update={"scorers": scorers, "parents": ()}),
        former_scheduler=None,
        suite_digest="",
        parents=(),
        software={},
        fingerprints={},
        created_at=0.0,
        status="active",
        priority=0,
    )


def test_paths_are_found_in_tables_and_lists_and_with_the_architecture_in_use() -> None:
    options = {
        "weights": "/w.pt",
        "model": "ViT-B-32",
        "clip": {"model": "tiny", "config_dir": "/clip", "pretrained": "laion2b"},
        "reference": ["/b", "/a", {"deeper": "/c"}],
        "crop": 224,
    }
    found = [str(path) for path in named_paths(options)]
    assert found == ["/clip/tiny.json", "/b", "/a", "/c", "/w.pt"]


@pytest.mark.parametrize(
    "options",
    [
        {"weights": "OUT/w.pt"},
        {"reference": ["IN/pictures", "OUT/pictures"]},
        {"clip": {"config_dir": "IN", "model": "../outside/secret"}},
        {"clip": {"config_dir": "IN/link", "model": "tiny"}},
    ],
)
def test_what_lies_outside_the_folders_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: placed(each) for name, each in value.items()}
        if isinstance(value, list):
            return [placed(each) for each in value]
        return str(value).replace("IN", str(inside)).replace("OUT", str(outside))

    folders = ModelFolders(folders=(inside,))
    with pytest.raises(OutsideFoldersError, match=r"scorer 'one' of this study is .*, outside the model folders"):
        folders.locate(study_with(placed(options)))
    assert (
        folders.locate(study_with({"weights": str(inside / "w.pt"), "clip": {"config_dir": str(inside)}})).parents == ()
    )


def test_the_configuration_of_a_lora_is_not_read_through_a_link_out_of_the_folders(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    save_file({"unet.conv_in.lora_A.weight": torch.zeros(1, 4)}, inside / "adapter_model.safetensors")
    (outside / "adapter_config.json").write_text('{"lora_alpha": 16}')
    (inside / "adapter_config.json").symlink_to(outside / "adapter_config.json")
    study = study_with({})
    loras = {"style": LoraSettings(path=inside / "adapter_model.safetensors")}
    study = replace(study, spec=study.spec.model_copy(update={"loras": loras}))
    with pytest.raises(OutsideFoldersError, match=r"the LoRA 'style' of this study is .*adapter_config\.json, outside"):
        ModelFolders(folders=(inside,)).locate(study)
    assert ModelFolders(folders=(inside, outside)).locate(study).spec.loras == loras
