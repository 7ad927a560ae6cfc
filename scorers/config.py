"""Settings of the built-in scorers, as in a spec: frozen, without unknown options, without torch.

The weight of a score in the objective belongs to the study and is not part of these settings.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from basics.names import as_on_disk, from_home
from basics.settings import FrozenSettings

#: Suffixes of weight files. All are opened without running code from them.
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def absolute_path(path: Path, info: ValidationInfo) -> Path:
    """Expand `~/` and make the path absolute against `info.context["base_dir"]`, the folder of the spec.

    The current directory is never used: a study that is resumed from elsewhere must find the same files.

    Raises:
        ValueError: the path is relative and there is no base_dir.
    """
    path = from_home(path)
    if not path.is_absolute():
        base_dir = (info.context or {}).get("base_dir")
        if base_dir is None:
            raise ValueError(f"expected an absolute path, got {str(path)!r}: pass a base_dir in the validation context")
        path = Path(base_dir).absolute() / path
    return as_on_disk(Path(os.path.normpath(path)))


def spec_path(text: str, info: ValidationInfo) -> str:
    """Return a path that is written among other values as an absolute one: see `absolute_path`."""
    return str(absolute_path(Path(text), info))


#: A path in a spec. It may be relative to the folder of the spec, and is stored as an absolute path.
SpecPath = Annotated[Path, AfterValidator(absolute_path)]


#: A folder of images, searched recursively, that a scorer compares with.
ReferencePath = Annotated[SpecPath, Field(description="a folder of images to compare with")]


class ScorerSettings(FrozenSettings):
    """The base of all scorer settings. Settings with equal values are equal and have the same hash."""


class ClipModelSettings(ScorerSettings):
    """The CLIP to embed with.

    A tag of open_clip determines the file, its activation and its normalisation. A local file determines none of these,
    so for a built-in architecture, set `trained_as` to the tag under which the file was published.
    """

    model: str = "ViT-L-14-quickgelu"  # an open_clip architecture, or the stem of a JSON file in config_dir
    pretrained: str = "openai"  # an open_clip tag, or a weight file
    trained_as: str | None = None  # for a weight file: the tag with its activation and normalisation
    config_dir: SpecPath | None = None  # folder of your own architectures: <model>.json in open_clip's format
    tokenizer: SpecPath | None = None  # tokenizer.json of a SigLIP; None: the public file. CLIP's own is in open_clip

    @field_validator("pretrained")
    @classmethod
    def _make_file_absolute(cls, value: str, info: ValidationInfo) -> str:
        if value.startswith("~") or "/" in value or os.sep in value or value.endswith(WEIGHT_SUFFIXES):
            return spec_path(value, info)
        return value

    @model_validator(mode="after")
    def _check_source(self) -> ClipModelSettings:
        if self.trained_as is not None and self.weights_file is None:
            raise ValueError("trained_as needs a weight file in `pretrained`, got a tag: leave trained_as out")
        if self.config_dir is not None and self.weights_file is None:
            raise ValueError(
                "config_dir needs a weight file in `pretrained`, got a tag: give the file, or leave config_dir out"
            )
        return self

    @property
    def weights_file(self) -> Path | None:
        """The weight file; None if `pretrained` is a tag."""
        path = Path(self.pretrained)
        return path if path.is_absolute() else None

    @property
    def tag(self) -> str | None:
        """The open_clip tag that describes the weights; None if there is none."""
        return self.trained_as if self.weights_file else self.pretrained
