"""Perturbed-attention guidance as a suite names it (Ahn et al., arXiv:2403.17377)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from basics.settings import FrozenSettings
from studies.spec.words import as_list

_LAYER: Final = re.compile(
    r"mid|down|up"  # every attention of this part
    r"|(mid_block|(down|up)_blocks\.\d+)(\.attentions\.\d+(\.transformer_blocks\.\d+)?)?"
)


class PagSettings(FrozenSettings):
    """How far an image is led away from one without self-attention, and in which layers that one has none.

    Layers are named as diffusers names them: `mid`, `down` and `up` for a whole part of the U-Net, or a block, a
    transformer in it, or a block of the transformer: `up_blocks.1`, `mid_block.attentions.0.transformer_blocks.3`.
    """

    scale: float = Field(ge=0, le=100)  # 0: none
    layers: Annotated[tuple[str, ...], BeforeValidator(as_list)] = Field(default=("mid",), min_length=1)

    @field_validator("layers")
    @classmethod
    def _known_layers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for layer in value:
            if _LAYER.fullmatch(layer) is None:
                msg = (
                    f"there is no layer {layer[:60]!r}: use mid, down or up, or a name of diffusers such as "
                    "up_blocks.1 or down_blocks.2.attentions.0"
                )
                raise ValueError(msg)
        return tuple(sorted(set(value)))


NO_PAG: Final = PagSettings(scale=0)


def _of_scale(value: Any) -> Any:
    """Return settings of a number, which is the scale: `pag: 3`, and of false, which is none.

    Raises:
        ValueError: it is true, a text or a list.
    """
    if value is False:
        return {"scale": 0}
    if value is True or isinstance(value, (str, list, tuple)):
        msg = "expected a scale such as 3, or a mapping such as {scale: 3, layers: [mid]}"
        raise ValueError(msg)
    return {"scale": value} if isinstance(value, (int, float)) else value


Pag = Annotated[PagSettings, BeforeValidator(_of_scale), AfterValidator(lambda pag: pag if pag.scale else NO_PAG)]
