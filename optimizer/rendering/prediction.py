"""What a U-Net's output means, read off the markers its checkpoint carries.

Notation: x0 the clean latents, n unit noise, sigma the noise level of x = x0 + sigma * n.

- epsilon: the output is n (Stable Diffusion 1.5, SDXL).
- v: the output is (n - sigma * x0) / sqrt(sigma**2 + 1), after Salimans and Ho, arXiv:2202.00512. With a zero terminal
  SNR the noise schedule is rescaled so that its last step holds nothing but noise (Lin et al., arXiv:2305.08891).
- EDM: x0 = c_skip * x + c_out * output with Karras et al.'s preconditioning (arXiv:2206.00364, table 1), the noise
  level told as log(sigma) / 4. CosXL has sigma_data 1 and c_out negated, so that its output is v; Playground 2.5 has
  sigma_data 0.5, and latents shifted and scaled per channel.

Markers are top-level keys: `v_pred`, `ztsnr`, `edm_vpred.sigma_max` and `.sigma_min`, `edm_mean` and `edm_std`.
They, their order and the numbers below are those of ComfyUI (comfy/supported_models.py, class SDXL, and
comfy/model_sampling.py); diffusers agrees (loaders/single_file_utils.py for Playground 2.5, the EDMEulerScheduler of
stabilityai/cosxl). A marker outweighs the metadata, which many tools write without looking at the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from optimizer.errors import CheckpointError, ParentsDifferError, RenderError
from optimizer.merging.files.checkpoint import Checkpoint, letters
from studies.spec.suite import SuiteSettings

Kind = Literal["epsilon", "v"]

# `prediction_type` is Stability AI's model metadata standard, `predict_key` what ComfyUI writes in its place.
METADATA_KEYS = ("modelspec.prediction_type", "modelspec.predict_key")
METADATA_KINDS: dict[str, Kind] = {"epsilon": "epsilon", "v": "v", "v_prediction": "v"}

SIGMA_MIN = 0.002
COSXL_SIGMA_DATA = 1.0
PLAYGROUND_SIGMA_MAX = 80.0
PLAYGROUND_SIGMA_DATA = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class EdmRange:
    """The noise levels an EDM model was trained for, and the deviation its preconditioning takes the data to have."""

    sigma_min: float
    sigma_max: float
    sigma_data: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentStatistics:
    """What a model takes off its VAE's latents and divides them by, one number a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model predicts, and on which noise schedule."""

    kind: Kind = "epsilon"  # as `modelspec.prediction_type` spells it, which knows nothing of EDM
    zero_snr: bool = False  # only with kind v and without EDM
    edm: EdmRange | None = None  # None: the 1000 steps of Stable Diffusion
    latents: LatentStatistics | None = None  # Playground 2.5 only

    @property
    def name(self) -> str:
        """What must be the same in all parents."""
        if self.edm is None:
            return "v_prediction" if self.kind == "v" else "epsilon"
        return "EDM v_prediction" if self.kind == "v" else "EDM"

    @property
    def words(self) -> str:
        """For people, one line."""
        if self.edm is not None:
            return f"{self.name}, sigma {self.edm.sigma_min:g} to {self.edm.sigma_max:g}"
        return f"{self.name}, zero terminal SNR" if self.zero_snr else self.name


EPSILON = Prediction()


def markers_of(prediction: Prediction) -> frozenset[str] | None:
    """Which of `MARKERS` a file has that predicts this; None for EDM models, which have markers of their own."""
    if prediction.edm is not None:
        return None
    marked = {"v_pred": prediction.kind == "v", "ztsnr": prediction.zero_snr}
    return frozenset(key for key, there in marked.items() if there)


def prediction_of(checkpoint: Checkpoint) -> Prediction:
    """What a file says its model predicts; one without any marker predicts noise.

    Raises:
        CheckpointError: a marker is damaged, contradicts another, or names a prediction that is not known.
    """
    return _edm_of(checkpoint) or _plain(checkpoint)


def prediction_or_problem(checkpoint: Checkpoint) -> Prediction | str:
    """As `prediction_of`; what is wrong, in one line, where a file's marks cannot be understood."""
    try:
        return prediction_of(checkpoint)
    except CheckpointError as error:
        return str(error)


def modelspec_kind(first: Checkpoint) -> str | None:
    """What a merge says in `modelspec.prediction_type`: what A predicts; where that is unclear, what A says there."""
    found = prediction_or_problem(first)
    return first.metadata.get(METADATA_KEYS[0]) if isinstance(found, str) else found.kind


def _plain(checkpoint: Checkpoint) -> Prediction:
    """Of a model that is not marked as EDM."""
    kind = "v" if "v_pred" in checkpoint.tensors else _kind_in_metadata(checkpoint)
    zero_snr = "ztsnr" in checkpoint.tensors
    if zero_snr and kind == "epsilon":
        raise CheckpointError(
            f"{checkpoint.path.name} is marked ztsnr, but nothing marks it as predicting v, as a model with zero "
            "terminal SNR must"
        )
    return Prediction(kind=kind, zero_snr=zero_snr)


def agreed_prediction(parents: Sequence[Checkpoint], suite: SuiteSettings) -> Prediction:
    """What a merge of these parents predicts: what the suite says, else what all the parents say.

    Raises:
        ParentsDifferError: they say different things, and the suite does not decide.
        CheckpointError: a parent's markers make no sense.
        RenderError: the suite asks for what the models cannot do.
    """
    found = _shared(parents) if suite.prediction == "auto" else _stated(parents[0], suite)
    if suite.zero_snr is True and (found.kind != "v" or found.edm is not None):
        raise RenderError(
            f"`suite: {{zero_snr: true}}` needs v_prediction, {parents[0].path.name} predicts {found.name}: "
            "leave the key out, or write `prediction: v_prediction` too if a marker is missing"
        )
    if found.kind == "epsilon" or found.edm is not None:
        return found
    zero_snr = _shared_zero_snr(parents) if suite.zero_snr == "auto" else suite.zero_snr
    return Prediction(kind=found.kind, zero_snr=zero_snr)


def _shared(parents: Sequence[Checkpoint]) -> Prediction:
    found = [_of_parent(parent) for parent in parents]
    names = letters(len(parents))
    for letter, parent, other in zip(names, parents, found, strict=True):
        if other.name != found[0].name:
            raise ParentsDifferError(
                f"parents must predict the same: A ({parents[0].path.name}) predicts {found[0].name}, "
                f"{letter} ({parent.path.name}) {other.name}, by their markers; use parents of one kind, or, where a "
                "marker is missing, say it with `suite: {prediction: v_prediction}` (or `epsilon`)"
            )
    return found[0]


def _of_parent(parent: Checkpoint) -> Prediction:
    special = _edm_of(parent)
    if special is not None:
        return special
    try:
        return _plain(parent)
    except CheckpointError as error:
        advice = "say what it predicts with `suite: {prediction: v_prediction}` (or `epsilon`)"
        raise CheckpointError(f"{error}; {advice}") from error


def _stated(first: Checkpoint, suite: SuiteSettings) -> Prediction:
    special = _edm_of(first)
    if special is not None:
        raise RenderError(
            f"{first.path.name} is marked as an {special.name} model, `suite: {{prediction: {suite.prediction}}}` "
            "cannot render it: leave the key out"
        )
    return Prediction(kind="v" if suite.prediction == "v_prediction" else "epsilon")


def _shared_zero_snr(parents: Sequence[Checkpoint]) -> bool:
    marked = [parent for parent in parents if "ztsnr" in parent.tensors]
    if marked and len(marked) < len(parents):
        bare = next(parent for parent in parents if "ztsnr" not in parent.tensors)
        raise ParentsDifferError(
            f"{marked[0].path.name} is marked ztsnr (zero terminal SNR), {bare.path.name} is not: "
            "say which holds for the merge with `suite: {zero_snr: true}` (or `false`)"
        )
    return bool(marked)


# ------------------------------------------------------------------------------------------ markers


def _kind_in_metadata(checkpoint: Checkpoint) -> Kind:
    for key in METADATA_KEYS:
        if key in checkpoint.metadata:
            value = checkpoint.metadata[key]
            if value not in METADATA_KINDS:
                raise CheckpointError(
                    f"{checkpoint.path.name} says {key} {value!r}, which cannot be rendered: expected epsilon or v"
                )
            return METADATA_KINDS[value]
    return "epsilon"


def _edm_of(checkpoint: Checkpoint) -> Prediction | None:
    keys = checkpoint.tensors
    if "edm_mean" in keys or "edm_std" in keys:
        edm = EdmRange(sigma_min=SIGMA_MIN, sigma_max=PLAYGROUND_SIGMA_MAX, sigma_data=PLAYGROUND_SIGMA_DATA)
        return Prediction(edm=edm, latents=_statistics(checkpoint))
    if "edm_vpred.sigma_max" in keys or "edm_vpred.sigma_min" in keys:
        return Prediction(kind="v", edm=_cosxl_range(checkpoint))
    return None


def _cosxl_range(checkpoint: Checkpoint) -> EdmRange:
    (sigma_max,) = _numbers(checkpoint, "edm_vpred.sigma_max", 1)
    sigma_min = SIGMA_MIN
    if "edm_vpred.sigma_min" in checkpoint.tensors:
        (sigma_min,) = _numbers(checkpoint, "edm_vpred.sigma_min", 1)
    if not 0 < sigma_min < sigma_max:
        raise CheckpointError(
            f"{checkpoint.path.name} is marked for noise levels from {sigma_min:g} to {sigma_max:g}: expected "
            "0 < edm_vpred.sigma_min < edm_vpred.sigma_max; fetch the file again"
        )
    return EdmRange(sigma_min=sigma_min, sigma_max=sigma_max, sigma_data=COSXL_SIGMA_DATA)


def _statistics(checkpoint: Checkpoint) -> LatentStatistics:
    channels = checkpoint.tensors["edm_mean"].size if "edm_mean" in checkpoint.tensors else 0
    mean = _numbers(checkpoint, "edm_mean", channels)
    std = _numbers(checkpoint, "edm_std", channels)
    if not channels or min(std) <= 0:
        raise CheckpointError(
            f"{checkpoint.path.name} has an edm_std that is not positive: the marker is damaged, fetch the file again"
        )
    return LatentStatistics(mean=mean, std=std)


def _numbers(checkpoint: Checkpoint, key: str, count: int) -> tuple[float, ...]:
    """A marker's values; CheckpointError unless there are `count` finite ones."""
    if key not in checkpoint.tensors:
        raise CheckpointError(f"{checkpoint.path.name} lacks {key}, which its other EDM markers need: fetch it again")
    values = tuple(float(value) for value in checkpoint.tensor(key).flatten().tolist())
    if len(values) != count or not all(map(math.isfinite, values)):
        raise CheckpointError(
            f"{checkpoint.path.name} is marked {key} with {list(values)}, expected {count} finite numbers: "
            "the marker is damaged, fetch the file again"
        )
    return values
