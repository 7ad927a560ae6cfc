"""A second pass at a larger size as a suite names it: A1111's "hires fix"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from basics.settings import FrozenSettings
from studies.spec.sizes import MOST_PIXELS
from studies.spec.words import letters

LatentUpscaler = Literal[
    "latent",
    "latent_antialiased",
    "latent_bicubic",
    "latent_bicubic_antialiased",
    "latent_nearest",
    "latent_nearest_exact",
]
PixelUpscaler = Literal["lanczos", "nearest"]
UpscalerName = Literal[LatentUpscaler, PixelUpscaler]
LATENT_UPSCALERS: Final[tuple[str, ...]] = get_args(LatentUpscaler)
UPSCALERS: Final[tuple[str, ...]] = (*LATENT_UPSCALERS, *get_args(PixelUpscaler))
MOST_SCALE: Final = 8.0
MOST_LEVELS: Final = 1000  # that a model has
CELL: Final = 8  # pixels of a side that a latent covers


def read_upscaler(value: Any) -> Any:
    """Return the upscaler of a name in any spelling; "None" of A1111 enlarges by Lanczos.

    Raises:
        ValueError: it is none of ours; those of other programs are models of their own.
    """
    if not isinstance(value, str):
        return value
    known = {letters(name): name for name in UPSCALERS} | {"none": "lanczos"}
    if letters(value) not in known:
        msg = (
            f"{value[:40]!r} is no upscaler of a suite: use one of {', '.join(UPSCALERS)}; upscalers that are models "
            "of their own, such as ESRGAN, are not read"
        )
        raise ValueError(msg)
    return known[letters(value)]


class HiresSettings(FrozenSettings):
    """How an image is enlarged and sampled again, from noise of a lower level; the defaults are A1111's."""

    OTHER_WORDS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("upscale", "upscaleby", "hiresupscale", "factor", "hrscale"), "scale"),
        **dict.fromkeys(("denoisingstrength", "strength"), "denoise"),
        **dict.fromkeys(("hiressteps", "hrsecondpasssteps"), "steps"),
        **dict.fromkeys(("hiresupscaler", "hrupscaler", "upscalemethod"), "upscaler"),
        **dict.fromkeys(("size", "width", "height"), "write `scale`, by which both sides are multiplied"),
        **dict.fromkeys(
            ("sampler", "schedule", "cfg", "cfgrescale", "pag", "prompt", "negative", "seed", "seeds"),
            "the second pass has that of the first",
        ),
    }
    scale: float = Field(default=2.0, ge=1, le=MOST_SCALE)  # by which both sides are multiplied
    steps: int | None = Field(default=None, ge=1, le=1000)  # of the second pass; None: as many as the first has
    denoise: float = Field(default=0.7, ge=0, le=1)  # share of the noise levels that the second pass takes; 0: none
    upscaler: Annotated[UpscalerName, BeforeValidator(read_upscaler)] = "latent"

    @property
    def is_on(self) -> bool:
        """Whether there is a second pass."""
        return self.denoise > 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of the second pass in pixels, from those of the first: whole latents, as in A1111."""
        return int(width * self.scale) // CELL * CELL, int(height * self.scale) // CELL * CELL


NO_HIRES: Final = HiresSettings(scale=1, denoise=0)


def why_impossible(hires: HiresSettings, width: int, height: int, first_steps: int) -> str | None:
    """Say why an image cannot have a second pass: it is too large, or the last steps of more than a model has levels.

    Args:
        width, height: of the first pass, in pixels.
        first_steps: of the first pass, which the second has too where it names none.

    Returns:
        The reason as a clause, None where the image can have it.
    """
    if not hires.is_on:
        return None
    size = hires.size(width, height)
    if max(size) > MOST_PIXELS:
        return f"hires of {width}x{height} gives {size[0]}x{size[1]}, and at most {MOST_PIXELS} are rendered"
    steps = hires.steps or first_steps
    if steps / hires.denoise > MOST_LEVELS:
        return (
            f"hires makes {steps} steps at denoise {hires.denoise:g}, the last of {steps / hires.denoise:,.0f}, and a "
            f"model has {MOST_LEVELS} noise levels: use a denoise of at least {steps / MOST_LEVELS:g}, or fewer steps"
        )
    return None


def at_length(value: Any) -> Any:
    """Return settings of a short form: false or 0 for none, true for the defaults, another number for the scale.

    Raises:
        ValueError: it is a text or a list.
    """
    if isinstance(value, (str, list, tuple)):
        msg = "expected false, a scale such as 1.5, or a mapping such as {scale: 2, denoise: 0.5}"
        raise ValueError(msg)
    if value is True:
        return {}
    if not isinstance(value, (int, float)):
        return value
    return {"scale": value} if value else NO_HIRES


def _with_noise(hires: HiresSettings) -> HiresSettings:
    if not hires.is_on and hires != NO_HIRES:
        msg = "`denoise: 0` would only enlarge the image: write a number above 0, or `hires: false` for no second pass"
        raise ValueError(msg)
    return hires


Hires = Annotated[HiresSettings, BeforeValidator(at_length), AfterValidator(_with_noise)]
