"""What a U-Net's output means, read from the markers in its checkpoint.

Notation: x0 the clean latents, n unit noise, sigma the noise level of x = x0 + sigma * n.

- epsilon: the output is n (Stable Diffusion 1.5, SDXL).
- v: the output is (n - sigma * x0) / sqrt(sigma**2 + 1), after Salimans and Ho, arXiv:2202.00512. With zero terminal
  SNR the noise schedule is rescaled so that its last step is pure noise (Lin et al., arXiv:2305.08891).
- EDM: x0 = c_skip * x + c_out * output with Karras et al.'s preconditioning (arXiv:2206.00364, table 1); the U-Net gets
  the noise level as log(sigma) / 4. CosXL has sigma_data 1 and c_out negated, so that its output is v; Playground 2.5
  has sigma_data 0.5, and latents shifted and scaled per channel.

Markers are top-level keys: `v_pred`, `ztsnr`, `edm_vpred.sigma_max` and `.sigma_min`, `edm_mean` and `edm_std`.
The keys, their precedence and the numbers below are those of ComfyUI (comfy/supported_models.py, class SDXL, and
comfy/model_sampling.py); diffusers agrees (loaders/single_file_utils.py for Playground 2.5, the EDMEulerScheduler of
stabilityai/cosxl). A marker takes precedence over the metadata, which many tools write without regard to the model.
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

# `prediction_type` is the key of Stability AI's model metadata standard; ComfyUI writes `predict_key` instead.
METADATA_KEYS = ("modelspec.prediction_type", "modelspec.predict_key")
METADATA_KINDS: dict[str, Kind] = {"epsilon": "epsilon", "v": "v", "v_prediction": "v"}

SIGMA_MIN = 0.002
COSXL_SIGMA_DATA = 1.0
PLAYGROUND_SIGMA_MAX = 80.0
PLAYGROUND_SIGMA_DATA = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class EdmRange:
    """The noise levels on which an EDM model was trained, and the standard deviation of the data that it assumes."""

    sigma_min: float
    sigma_max: float
    sigma_data: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentStatistics:
    """Mean and standard deviation by which a model normalises its VAE's latents, one number for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model predicts, and on which noise schedule."""

    kind: Kind = "epsilon"  # as `modelspec.prediction_type` has it, in which EDM has no value of its own
    zero_snr: bool = False  # zero terminal SNR; only with kind v and without EDM
    edm: EdmRange | None = None  # None: the 1000 steps of Stable Diffusion
    latents: LatentStatistics | None = None  # Playground 2.5 only

    @property
    def name(self) -> str:
        """The name of the prediction, which must be the same for all parents."""
        if self.edm is None:
            return "v_prediction" if self.kind == "v" else "epsilon"
        return "EDM v_prediction" if self.kind == "v" else "EDM"

    @property
    def description(self) -> str:
        """One line for the user."""
        if self.edm is not None:
            return f"{self.name}, sigma {self.edm.sigma_min:g} to {self.edm.sigma_max:g}"
        return f"{self.name}, zero terminal SNR" if self.zero_snr else self.name


EPSILON = Prediction()


def markers_of(prediction: Prediction) -> frozenset[str] | None:
    """Return which of `MARKERS` a file with this prediction has; None for EDM models, which have other markers."""
    if prediction.edm is not None:
        return None
    present = {"v_pred": prediction.kind == "v", "ztsnr": prediction.zero_snr}
    return frozenset(key for key, is_present in present.items() if is_present)


def prediction_of(checkpoint: Checkpoint) -> Prediction:
    """Read what a file's model predicts; without any marker it predicts noise.

    Raises:
        CheckpointError: a marker is damaged, contradicts another, or names an unknown prediction.
    """
    return _edm_prediction(checkpoint) or _plain_prediction(checkpoint)


def prediction_or_problem(checkpoint: Checkpoint) -> Prediction | str:
    """Return `prediction_of` a file, or its error message where the file's markers are damaged or contradictory."""
    try:
        return prediction_of(checkpoint)
    except CheckpointError as error:
        return str(error)


def modelspec_kind(first: Checkpoint) -> str | None:
    """Return a merge's `modelspec.prediction_type`: what A predicts, or, where that is unclear, A's own value."""
    prediction = prediction_or_problem(first)
    return first.metadata.get(METADATA_KEYS[0]) if isinstance(prediction, str) else prediction.kind


def _plain_prediction(checkpoint: Checkpoint) -> Prediction:
    """Read the prediction of a model that is not marked as EDM.

    Raises:
        CheckpointError: markers contradict each other, or name an unknown prediction.
    """
    kind = "v" if "v_pred" in checkpoint.tensors else _kind_in_metadata(checkpoint)
    zero_snr = "ztsnr" in checkpoint.tensors
    if zero_snr and kind == "epsilon":
        raise CheckpointError(
            f"{checkpoint.path.name} is marked ztsnr, but nothing marks it as predicting v, as a model with zero "
            "terminal SNR must"
        )
    return Prediction(kind=kind, zero_snr=zero_snr)


def agreed_prediction(parents: Sequence[Checkpoint], suite: SuiteSettings) -> Prediction:
    """Return what a merge of these parents predicts: what the suite says, else what all parents' markers say.

    Raises:
        ParentsDifferError: the markers differ, and the suite does not decide.
        CheckpointError: a parent's markers are damaged or contradictory.
        RenderError: the suite's settings do not fit the models.
    """
    prediction = _common_prediction(parents) if suite.prediction == "auto" else _stated_prediction(parents[0], suite)
    if suite.zero_snr is True and (prediction.kind != "v" or prediction.edm is not None):
        raise RenderError(
            f"`suite: {{zero_snr: true}}` needs v_prediction, {parents[0].path.name} predicts {prediction.name}: "
            "leave the key out, or write `prediction: v_prediction` too if a marker is missing"
        )
    if prediction.kind == "epsilon" or prediction.edm is not None:
        return prediction
    zero_snr = _common_zero_snr(parents) if suite.zero_snr == "auto" else suite.zero_snr
    return Prediction(kind=prediction.kind, zero_snr=zero_snr)


def _common_prediction(parents: Sequence[Checkpoint]) -> Prediction:
    """Return what all parents predict, by their markers.

    Raises:
        ParentsDifferError: they differ.
        CheckpointError: a parent's markers are damaged or contradictory.
    """
    first, *_ = predictions = [_parent_prediction(parent) for parent in parents]
    for letter, parent, prediction in zip(letters(len(parents)), parents, predictions, strict=True):
        if prediction.name != first.name:
            raise ParentsDifferError(
                f"parents must predict the same: A ({parents[0].path.name}) predicts {first.name}, "
                f"{letter} ({parent.path.name}) {prediction.name}, by their markers; use parents of one kind, or, "
                "where a marker is missing, say it with `suite: {prediction: v_prediction}` (or `epsilon`)"
            )
    return first


def _parent_prediction(parent: Checkpoint) -> Prediction:
    edm = _edm_prediction(parent)
    if edm is not None:
        return edm
    try:
        return _plain_prediction(parent)
    except CheckpointError as error:
        advice = "say what it predicts with `suite: {prediction: v_prediction}` (or `epsilon`)"
        raise CheckpointError(f"{error}; {advice}") from error


def _stated_prediction(first: Checkpoint, suite: SuiteSettings) -> Prediction:
    """Return the suite's prediction.

    Raises:
        RenderError: parent A is an EDM model, for which there is no such setting.
    """
    edm = _edm_prediction(first)
    if edm is not None:
        raise RenderError(
            f"{first.path.name} is marked as an {edm.name} model, `suite: {{prediction: {suite.prediction}}}` "
            "cannot render it: leave the key out"
        )
    return Prediction(kind="v" if suite.prediction == "v_prediction" else "epsilon")


def _common_zero_snr(parents: Sequence[Checkpoint]) -> bool:
    """Return whether all parents are marked for zero terminal SNR.

    Raises:
        ParentsDifferError: only some are.
    """
    marked = [parent for parent in parents if "ztsnr" in parent.tensors]
    if marked and len(marked) < len(parents):
        unmarked = next(parent for parent in parents if "ztsnr" not in parent.tensors)
        raise ParentsDifferError(
            f"{marked[0].path.name} is marked ztsnr (zero terminal SNR), {unmarked.path.name} is not: "
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


def _edm_prediction(checkpoint: Checkpoint) -> Prediction | None:
    """Read the prediction of a model that is marked as EDM; None for others.

    Raises:
        CheckpointError: a marker is damaged.
    """
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
    """Return a marker's values.

    Raises:
        CheckpointError: there are not exactly `count` finite ones.
    """
    if key not in checkpoint.tensors:
        raise CheckpointError(f"{checkpoint.path.name} lacks {key}, which its other EDM markers need: fetch it again")
    values = tuple(float(value) for value in checkpoint.tensor(key).flatten().tolist())
    if len(values) != count or not all(map(math.isfinite, values)):
        raise CheckpointError(
            f"{checkpoint.path.name} is marked {key} with {list(values)}, expected {count} finite numbers: "
            "the marker is damaged, fetch the file again"
        )
    return values
