"""What a U-Net's output means, read from the markers in its checkpoint.

Notation: x0 the clean latents, n unit noise, sigma the noise level of x = x0 + sigma * n.

- epsilon: the output is n (Stable Diffusion 1.5, SDXL).
- v: the output is (n - sigma * x0) / sqrt(sigma**2 + 1), after Salimans and Ho, arXiv:2202.00512. With zero terminal
  SNR the noise schedule is rescaled so that its last step is pure noise (Lin et al., arXiv:2305.08891).
- EDM: x0 = c_skip * x + c_out * output with Karras et al.'s preconditioning (arXiv:2206.00364, table 1); the U-Net gets
  the noise level as log(sigma) / 4. CosXL has sigma_data 1 and c_out negated, so that its output is v; Playground 2.5
  has sigma_data 0.5, and latents shifted and scaled per channel.
- flow: the output is n - x0 for x = (1 - sigma) * x0 + sigma * n with sigma from 0 to 1 (Lipman et al.,
  arXiv:2210.02747), and the U-Net gets 1000 * sigma as its time. The levels through which a sampler passes are bent
  towards noise by a shift (see levels.py).

Markers are top-level keys: `v_pred`, `ztsnr`, `edm_vpred.sigma_max` and `.sigma_min`, `edm_mean` and `edm_std`.
The keys, their precedence and the numbers below are those of ComfyUI (comfy/supported_models.py, class SDXL, and
comfy/model_sampling.py); diffusers agrees (loaders/single_file_utils.py for Playground 2.5, the EDMEulerScheduler of
stabilityai/cosxl). A marker takes precedence over the metadata, which many tools write without regard to the model.
A flow has no marker that other programs read: only the metadata may say it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from optimizer.errors import CheckpointError, ParentsDifferError, RenderError
from optimizer.merging.files.checkpoint import Checkpoint, letters
from optimizer.merging.files.diffusers_folder import PREDICTION_FIELD, SHIFT_FIELD
from studies.spec.suite import LEAST_SHIFT, MOST_SHIFT, USUAL_SHIFT, SuiteSettings

Kind = Literal["epsilon", "v", "flow"]

# `prediction_type` is the key of Stability AI's model metadata standard; ComfyUI writes `predict_key` instead.
METADATA_KEYS = (PREDICTION_FIELD, "modelspec.predict_key")
METADATA_KINDS: dict[str, Kind] = {
    "epsilon": "epsilon",
    "v": "v",
    "v_prediction": "v",
    "flow": "flow",
    "flow_prediction": "flow",  # as diffusers' schedulers call it
    "flow_matching": "flow",
    "rectified_flow": "flow",
}
HINT_FIELD = "modelspec.usage_hint"  # how to use a model, for people; programs show it
# Names of published models that follow a flow, as files and metadata write them: bigASP v2.5, NyaFlow, SD Flow, and
# what says it in words.
_FLOW_NAMES: Final = re.compile(
    r"big[\W_]*asp[\W_]*v?2[\W_]*5(?!\d)|nyaflow|\bsd[\W_]*flow|rectified[\W_]*flow|flow[\W_]*match", re.IGNORECASE
)
_NAME_FIELDS: Final = ("modelspec.title", "modelspec.merged_from", "ss_output_name", "ss_sd_model_name")

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
    shift: float | None = None  # of the noise levels; only, and always, with kind flow

    @property
    def name(self) -> str:
        """The name of the prediction, which must be the same for all parents."""
        if self.edm is None:
            return "v_prediction" if self.kind == "v" else self.kind
        return "EDM v_prediction" if self.kind == "v" else "EDM"

    @property
    def description(self) -> str:
        """One line for the user."""
        if self.edm is not None:
            return f"{self.name}, sigma {self.edm.sigma_min:g} to {self.edm.sigma_max:g}"
        if self.shift is not None:
            return f"{self.name}, shift {self.shift:g}"
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


def header_fields(prediction: Prediction) -> dict[str, str]:
    """Return the metadata that say what a file's model predicts, and of a flow how to render it.

    No program but ours reads a flow from a file, so the hint is for people.
    """
    if prediction.shift is None:
        return {PREDICTION_FIELD: prediction.kind}
    return {PREDICTION_FIELD: prediction.kind, SHIFT_FIELD: str(prediction.shift), HINT_FIELD: flow_hint(prediction)}


def header_fields_of_merge(first: Checkpoint) -> dict[str, str]:
    """Return the same of a merge: what A predicts, or, where that is unclear, A's own value."""
    prediction = prediction_or_problem(first)
    if isinstance(prediction, Prediction):
        return header_fields(prediction)
    return {key: first.metadata[key] for key in (PREDICTION_FIELD,) if key in first.metadata}


def stated_fields(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return those of `header_fields` that a file has."""
    if PREDICTION_FIELD not in metadata:
        return {}
    return {key: metadata[key] for key in (PREDICTION_FIELD, SHIFT_FIELD, HINT_FIELD) if key in metadata}


def flow_hint(prediction: Prediction) -> str:
    """Return how other programs render a model that follows a flow."""
    return (
        f"This model follows a flow (flow matching). In ComfyUI, put the node ModelSamplingSD3 with shift "
        f"{prediction.shift:g} between the checkpoint and the sampler; programs that cannot do this render noise."
    )


def unmarked_flow_note(checkpoint: Checkpoint) -> str | None:
    """Return a note on a file that is taken to predict noise although its name is that of a model that follows a flow.

    Returns:
        None for any other file.
    """
    prediction = prediction_or_problem(checkpoint)
    names = [checkpoint.path.name, *(checkpoint.metadata.get(field, "") for field in _NAME_FIELDS)]
    found = next((match[0] for name in names if (match := _FLOW_NAMES.search(name))), None)
    if prediction != EPSILON or found is None:
        return None
    return (
        f"{checkpoint.path.name} is called like a model that follows a flow ({found}), but nothing in it says so, and "
        "it is taken to predict noise"
    )


def _plain_prediction(checkpoint: Checkpoint) -> Prediction:
    """Read the prediction of a model that is not marked as EDM.

    Raises:
        CheckpointError: markers contradict each other, or name an unknown prediction.
    """
    kind = "v" if "v_pred" in checkpoint.tensors else _kind_in_metadata(checkpoint)
    zero_snr = "ztsnr" in checkpoint.tensors
    if kind == "flow":
        return Prediction(kind=kind, shift=_marked_shift(checkpoint) or USUAL_SHIFT)
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
    if prediction.kind == "flow":
        return Prediction(kind="flow", shift=_agreed_shift(parents, suite))
    if suite.shift != "auto":
        raise RenderError(
            f"`suite: {{shift: {suite.shift:g}}}` needs a model that follows a flow, {parents[0].path.name} predicts "
            f"{prediction.name}: leave the key out, or write `prediction: flow` too if a marker is missing"
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
                "where a marker is missing, say it with `suite: {prediction: v_prediction}` (or `epsilon`, `flow`)"
            )
    return first


def _parent_prediction(parent: Checkpoint) -> Prediction:
    edm = _edm_prediction(parent)
    if edm is not None:
        return edm
    try:
        return _plain_prediction(parent)
    except CheckpointError as error:
        advice = "say what it predicts with `suite: {prediction: v_prediction}` (or `epsilon`, or `flow` and `shift`)"
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
    if suite.prediction == "flow":
        return Prediction(kind="flow", shift=USUAL_SHIFT)
    return Prediction(kind="v" if suite.prediction == "v_prediction" else "epsilon")


def _agreed_shift(parents: Sequence[Checkpoint], suite: SuiteSettings) -> float:
    """Return the suite's shift, else the one that parents are marked with, else the usual one.

    Raises:
        ParentsDifferError: parents are marked with different ones, and the suite does not decide.
        CheckpointError: a parent is marked with one that is none.
    """
    if suite.shift != "auto":
        return suite.shift
    try:
        marked = {parent.path.name: shift for parent in parents if (shift := _marked_shift(parent)) is not None}
    except CheckpointError as error:
        raise CheckpointError(f"{error}; say which it is with `suite: {{shift: {USUAL_SHIFT:g}}}`") from error
    if len(set(marked.values())) > 1:
        each = ", ".join(f"{name} with {shift:g}" for name, shift in marked.items())
        raise ParentsDifferError(
            f"parents are marked with different shifts ({each}): say which holds for the merge with `suite: {{shift: "
            f"{USUAL_SHIFT:g}}}`"
        )
    return next(iter(marked.values()), USUAL_SHIFT)


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


def _marked_shift(checkpoint: Checkpoint) -> float | None:
    """Return the shift that a file is marked with; None where it has no mark.

    Raises:
        CheckpointError: it is no number, or out of range.
    """
    text = checkpoint.metadata.get(SHIFT_FIELD)
    if text is None:
        return None
    try:
        shift = float(text)
    except ValueError:
        shift = math.nan
    if not LEAST_SHIFT <= shift <= MOST_SHIFT:
        raise CheckpointError(
            f"{checkpoint.path.name} is marked with the shift {text[:20]!r}, expected a number from {LEAST_SHIFT:g} to "
            f"{MOST_SHIFT:g}"
        )
    return shift


def _kind_in_metadata(checkpoint: Checkpoint) -> Kind:
    for key in METADATA_KEYS:
        if key in checkpoint.metadata:
            value = checkpoint.metadata[key]
            if value not in METADATA_KINDS:
                raise CheckpointError(
                    f"{checkpoint.path.name} says {key} {value!r}, which cannot be rendered: expected epsilon, v or "
                    "flow"
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
