"""Settings of the built-in scorers, as a spec writes them. Frozen, unknown options refused, no torch.

How much a score weighs in the objective is a matter of the study, not of the scorer, and is not here.
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

from basics.settings import FrozenSettings

#: Kinds of file that weights may come in. All are opened without running code.
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def absolute_path(path: Path, info: ValidationInfo) -> Path:
    """`path` with `~` expanded and made absolute against `info.context["base_dir"]`, the folder of the spec.

    Never the current directory: a study that is resumed from elsewhere must find the same files.
    Raises ValueError for a relative path where no base_dir was passed.
    """
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    if not path.is_absolute():
        base_dir = (info.context or {}).get("base_dir")
        if base_dir is None:
            raise ValueError(f"relative path {str(path)!r} needs a base_dir in the validation context")
        path = Path(base_dir).absolute() / path
    return Path(os.path.normpath(path))


#: A path in a spec: relative to the folder of the spec, stored absolute.
SpecPath = Annotated[Path, AfterValidator(absolute_path)]


class ScorerSettings(FrozenSettings):
    """Base of all scorer settings; equal settings are equal and hash alike."""


class ClipModelSettings(ScorerSettings):
    """Which CLIP to embed with.

    A tag tells open_clip's file, its activation and its normalisation. A local file tells none of these, so
    for one of the built-in architectures say `trained_as`, the tag under which the file was published.
    """

    model: str = "ViT-L-14-quickgelu"  # an open_clip architecture, or the stem of a JSON file in config_dir
    pretrained: str = "openai"  # an open_clip tag, or a weight file
    trained_as: str | None = None  # for a weight file: the tag whose activation and normalisation it follows
    config_dir: SpecPath | None = None  # folder with own architectures, <model>.json as open_clip writes them

    @field_validator("pretrained")
    @classmethod
    def _make_file_absolute(cls, value: str, info: ValidationInfo) -> str:
        if value.startswith("~") or "/" in value or os.sep in value or value.endswith(WEIGHT_SUFFIXES):
            return str(absolute_path(Path(value), info))
        return value

    @model_validator(mode="after")
    def _check_source(self) -> ClipModelSettings:
        if self.trained_as is not None and self.weights_file is None:
            raise ValueError("trained_as belongs to a weight file in `pretrained`; with a tag leave it out")
        if self.config_dir is not None and self.weights_file is None:
            raise ValueError("an own architecture (config_dir) needs a weight file in `pretrained`, not a tag")
        return self

    @property
    def weights_file(self) -> Path | None:
        """The weight file, or None when `pretrained` is a tag."""
        path = Path(self.pretrained)
        return path if path.is_absolute() else None

    @property
    def tag(self) -> str | None:
        """The open_clip tag that describes the weights, if one is known."""
        return self.trained_as if self.weights_file else self.pretrained


class ClipScoreSettings(ScorerSettings):
    """Options of `clip_score`."""

    clip: ClipModelSettings = ClipModelSettings()


class AestheticSettings(ScorerSettings):
    """Options of `aesthetic`."""

    clip: ClipModelSettings = ClipModelSettings()
    head: SpecPath | None = None  # LAION head, v2 or v1; the pinned v2 file if absent


class ClipIqaSettings(ScorerSettings):
    """Options of `clip_iqa`."""

    clip: ClipModelSettings = ClipModelSettings()
    # (good, bad) prompts; the score is the mean over pairs. The default is the pair of the paper.
    pairs: Annotated[tuple[tuple[str, str], ...], Field(min_length=1)] = (("Good photo.", "Bad photo."),)


class InceptionSettings(ScorerSettings):
    """Options of `fid` and `kid`."""

    reference: SpecPath  # folder of images, searched recursively
    weights: SpecPath | None = None  # FID Inception in torch-fidelity's format; the pinned file if absent


class NetworkSettings(ScorerSettings):
    """Options of `frechet` and `kernel`."""

    reference: SpecPath  # folder of images, searched recursively
    network: str  # a timm architecture
    weights: SpecPath  # its weights
    input_size: Annotated[int, Field(ge=16, le=2048)] | None = None  # pixels; the network's own if absent
    unit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # 5 % of the reference spread if absent


class PixelSettings(ScorerSettings):
    """Pixel statistics have no options."""
