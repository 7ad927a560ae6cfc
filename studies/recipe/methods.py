"""What every merge method takes and computes; the arithmetic is in optimizer/merging/methods.

Notation of the formulas: A, B, C ... = a step's inputs in order, r = a ratio, dB = B - A. If a method works on
differences, its first input is their base.

Sources: A1111 = AUTOMATIC1111/stable-diffusion-webui; supermerger = hako-mikan/sd-webui-supermerger;
sd-meh = s1dlx/meh; sd-mecha = ljleb/sd-mecha; mergekit = arcee-ai/mergekit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from search_spaces.slots import Slot

# What a method must read to compute one element of its result.
Scope = Literal[
    "element",  # the same element of every input: it runs over flat buffers, in pieces of any size
    "reduction",  # norms, dot products or means of the whole tensor
    "order",  # the rank of the element among those of its tensor
    "decomposition",  # the tensor in another basis: SVD, Fourier
]
ANY_NUMBER = 26  # of inputs: one for each letter


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodInfo:
    """The description of a merge method."""

    name: str
    formula: str
    source: str
    scope: Scope
    least_inputs: int
    most_inputs: int
    per_input: Slot | None = None  # a slot of every input except the first, with the input's name
    own: tuple[Slot, ...] = ()  # slots of the step as a whole
    ends_in: bool = False  # whether a ratio of 1 yields that input alone
    random: bool = False  # whether it drops elements at random; the step's seed decides which
    label: str = ""  # its name in other programs' `interp_method`

    def slots(self, inputs: Sequence[str]) -> tuple[Slot, ...]:
        """Return the slots of every place when this method merges these inputs, in the order that functions take."""
        if self.per_input is None:
            return self.own
        template = self.per_input
        each = (_named(template, name) for name in inputs[1:])
        return (*each, *self.own)

    def accepts(self, count: int) -> bool:
        """Return whether it merges this number of inputs."""
        return self.least_inputs <= count <= self.most_inputs

    @property
    def wanted_inputs(self) -> str:
        """The number of inputs that it takes, in words."""
        if self.least_inputs == self.most_inputs:
            return f"{self.least_inputs}"
        if self.most_inputs == ANY_NUMBER:
            return f"{self.least_inputs} or more"
        return f"{self.least_inputs} to {self.most_inputs}"


def is_random(method: str) -> bool:
    """Return whether there is a method of this name that drops elements at random."""
    return method in METHODS and METHODS[method].random


def _named(template: Slot, name: str) -> Slot:
    return Slot(
        name=name,
        kind=template.kind,
        default=template.default,
        low=template.low,
        high=template.high,
        least=template.least,
        most=template.most,
        description=template.description,
    )


def _ratio(name: str = "", description: str = "", *, default: float = 0.0, least: float | None = None) -> Slot:
    bounds = {} if least is None else {"least": least, "most": 1.0}
    return Slot(name=name, kind="ratio", default=default, description=description, **bounds)


def _share(name: str, default: float, low: float, high: float, description: str) -> Slot:
    """Describe a parameter that is a share between 0 and 1."""
    return Slot(
        name=name,
        kind="parameter",
        default=default,
        low=low,
        high=high,
        least=0.0,
        most=1.0,
        description=description,
    )


_WEIGHT = Slot(
    name="", kind="parameter", default=1.0, low=0.0, high=1.0, least=0.0, description="weight among the inputs"
)
_STRENGTH = _ratio("strength", "how much of the merged difference is added")
_KEPT = _share("density", 0.5, 0.1, 0.9, "share of each difference that is kept")
_TRIMMED = _share("density", 0.2, 0.1, 0.9, "share of each difference that is kept, the largest values first")
_VARYING = _share("density", 1.0, 0.1, 1.0, "share of the elements that differ, those that vary most, which is merged")
_OUTLIERS = _share("gamma", 0.01, 0.0, 0.1, "share of each difference dropped as outliers, the largest values")
_SPREAD = _share("epsilon", 0.1, 0.0, 0.3, "how far above and below the density the chance to be kept goes, by rank")

_ALL = (
    MethodInfo(
        name="weighted_sum",
        formula="(1-r)A + rB; further inputs are folded into the result so far, each with its own ratio",
        source="A1111, supermerger",
        scope="element",
        least_inputs=2,
        most_inputs=ANY_NUMBER,
        per_input=_ratio(),
        ends_in=True,
        label="Weighted sum",
    ),
    MethodInfo(
        name="n_average",
        formula="(A + B + ... ) / n",
        source="sd-mecha",
        scope="element",
        least_inputs=2,
        most_inputs=ANY_NUMBER,
    ),
    MethodInfo(
        name="add_difference",
        formula="A + r(B - C)",
        source="A1111",
        scope="element",
        least_inputs=3,
        most_inputs=3,
        own=(_ratio("difference", "how much of B - C is added"),),
        label="Add difference",
    ),
    MethodInfo(
        name="sum_twice",
        formula="(1-s)((1-r)A + rB) + sC",
        source="supermerger, sd-meh",
        scope="element",
        least_inputs=3,
        most_inputs=3,
        per_input=_ratio(),
        ends_in=True,
    ),
    MethodInfo(
        name="triple_sum",
        formula="(1-r-s)A + rB + sC",
        source="supermerger, sd-meh",
        scope="element",
        least_inputs=3,
        most_inputs=3,
        per_input=_ratio(),
    ),
    MethodInfo(
        name="task_arithmetic",
        formula="A + r dB + s dC + ...",
        source="Ilharco et al. 2023, arXiv 2212.04089; mergekit",
        scope="element",
        least_inputs=2,
        most_inputs=ANY_NUMBER,
        per_input=_ratio(),
    ),
    MethodInfo(
        name="weighted_subtraction",
        formula="(A - alpha beta B) / (1 - alpha beta)",
        source="sd-meh",
        scope="element",
        least_inputs=2,
        most_inputs=2,
        own=(
            Slot(name="alpha", kind="ratio", default=0.0, high=0.5, least=0.0, most=1.0),
            Slot(name="beta", kind="ratio", default=0.0, high=0.5, least=0.0, most=1.0),
        ),
    ),
    MethodInfo(
        name="multiply_difference",
        formula="C + sign(lerp(A, B, beta) - C) |A-C|^(1-alpha) |B-C|^alpha",
        source="sd-meh",
        scope="element",
        least_inputs=3,
        most_inputs=3,
        own=(_ratio("alpha", least=0.0), _ratio("beta", "whose sign the difference takes", least=0.0)),
    ),
    MethodInfo(
        name="similarity_add_difference",
        formula="lerp(A + alpha(B-C), lerp(A, B, alpha/2), s), s = beta (AB/max(|A|,|B|)^2 + 1)/2",
        source="sd-meh",
        scope="element",
        least_inputs=3,
        most_inputs=3,
        own=(_ratio("alpha"), _ratio("beta", "how far similar elements are averaged instead", least=0.0)),
    ),
    MethodInfo(
        name="train_difference",
        formula="A + 1.8 r (B-C) |B-A| / (|B-C| + |B-A|)",
        source="supermerger",
        scope="element",
        least_inputs=3,
        most_inputs=3,
        own=(_ratio("difference", "how much of B - C is trained in"),),
    ),
    MethodInfo(
        name="geometric",
        formula="real part of A^(1-r) B^r",
        source="sd-mecha (geometric_sum)",
        scope="element",
        least_inputs=2,
        most_inputs=2,
        per_input=_ratio(least=0.0),
        ends_in=True,
    ),
    MethodInfo(
        name="tensor_sum",
        formula="rows offset .. offset + r of the first dimension from B, wrapping round; the rest from A",
        source="supermerger, sd-meh",
        scope="order",
        least_inputs=2,
        most_inputs=2,
        per_input=_ratio(least=0.0),
        own=(_share("offset", 0.0, 0.0, 1.0, "where the rows of B begin"),),
        ends_in=True,
    ),
    MethodInfo(
        name="top_k_tensor_sum",
        formula="A's values in the order of B's, those whose magnitude lies within a window of quantiles; elsewhere A",
        source="sd-meh",
        scope="order",
        least_inputs=2,
        most_inputs=2,
        own=(
            _ratio("width", "width of the window of quantiles", least=0.0),
            _share("offset", 0.0, 0.0, 1.0, "where the window begins"),
        ),
    ),
    MethodInfo(
        name="slerp",
        formula="from A's direction to B's along the great circle, norm by lerp",
        source="sd-mecha",
        scope="reduction",
        least_inputs=2,
        most_inputs=2,
        per_input=_ratio(least=0.0),
        ends_in=True,
    ),
    MethodInfo(
        name="cosine_a",
        formula="lerp(A, B, clip(similarity - (1-r), 0, 1)), similarity = cosine between the columns of A and B",
        source="sd-mecha (add_cosine_a), supermerger (cosineA)",
        scope="reduction",
        least_inputs=2,
        most_inputs=2,
        per_input=_ratio(least=0.0),
    ),
    MethodInfo(
        name="cosine_b",
        formula="as cosine_a, similarity = mean of the columns' cosine and that of the whole tensors",
        source="sd-mecha (add_cosine_b), supermerger (cosineB)",
        scope="reduction",
        least_inputs=2,
        most_inputs=2,
        per_input=_ratio(least=0.0),
    ),
    MethodInfo(
        name="perpendicular",
        formula="A + r (part of B-C at right angles to A-C)",
        source="sd-mecha (add_perpendicular)",
        scope="reduction",
        least_inputs=3,
        most_inputs=3,
        own=(_ratio("difference", "how much of the perpendicular part is added"),),
    ),
    MethodInfo(
        name="euclidean_add_difference",
        formula="C + root mean square of the directions of A-C and B-C, by r, with the length of their lerp",
        source="sd-meh",
        scope="reduction",
        least_inputs=3,
        most_inputs=3,
        own=(_ratio("alpha", least=0.0),),
    ),
    MethodInfo(
        name="model_stock",
        formula="A + t mean(d), t = n cos / (1 + (n-1) cos), cos = mean cosine over all pairs of d",
        source="Jang et al. 2024, arXiv 2403.19522; mergekit",
        scope="reduction",
        least_inputs=3,
        most_inputs=ANY_NUMBER,
    ),
    MethodInfo(
        name="geometric_median",
        formula="the point with the least sum of distances to all inputs",
        source="Weiszfeld 1937; sd-mecha",
        scope="reduction",
        least_inputs=3,
        most_inputs=ANY_NUMBER,
    ),
    MethodInfo(
        name="ties",
        formula="A + strength (weighted mean of the trimmed differences that have the elected sign)",
        source="Yadav et al. 2023, arXiv 2306.01708; mergekit",
        scope="order",
        least_inputs=2,
        most_inputs=ANY_NUMBER,
        per_input=_WEIGHT,
        own=(_STRENGTH, _TRIMMED),
    ),
    MethodInfo(
        name="dare_linear",
        formula="A + r drop(dB) + s drop(dC) + ..., drop keeps a random share and divides by it",
        source="Yu et al. 2023, arXiv 2311.03099",
        scope="order",
        least_inputs=2,
        most_inputs=ANY_NUMBER,
        per_input=_ratio(),
        own=(_KEPT,),
        random=True,
    ),
    MethodInfo(
        name="dare_ties",
        formula="A + strength (weighted mean of the dropped differences that have the elected sign)",
        source="Yu et al. 2023, arXiv 2311.03099; mergekit",
        scope="order",
        least_inputs=2,
        most_inputs=ANY_NUMBER,
        per_input=_WEIGHT,
        own=(_STRENGTH, _KEPT),
        random=True,
    ),
    MethodInfo(
        name="della_linear",
        formula="as dare_linear, with a larger chance to be kept for larger values in each row",
        source="Deep et al. 2024, arXiv 2406.11617; mergekit",
        scope="order",
        least_inputs=2,
        most_inputs=ANY_NUMBER,
        per_input=_ratio(),
        own=(_KEPT, _SPREAD),
        random=True,
    ),
    MethodInfo(
        name="della",
        formula="as dare_ties, with a larger chance to be kept for larger values in each row",
        source="Deep et al. 2024, arXiv 2406.11617; mergekit",
        scope="order",
        least_inputs=2,
        most_inputs=ANY_NUMBER,
        per_input=_WEIGHT,
        own=(_STRENGTH, _KEPT, _SPREAD),
        random=True,
    ),
    MethodInfo(
        name="breadcrumbs",
        formula="A + r trim(dB) + s trim(dC) + ..., trim drops the share gamma of largest values and then the smallest",
        source="Davari and Belilovsky 2023, arXiv 2312.06795; mergekit",
        scope="order",
        least_inputs=2,
        most_inputs=ANY_NUMBER,
        per_input=_ratio(),
        own=(_KEPT, _OUTLIERS),
    ),
    MethodInfo(
        name="breadcrumbs_ties",
        formula="as ties, with differences trimmed as in breadcrumbs",
        source="mergekit",
        scope="order",
        least_inputs=2,
        most_inputs=ANY_NUMBER,
        per_input=_WEIGHT,
        own=(_STRENGTH, _KEPT, _OUTLIERS),
    ),
    MethodInfo(
        name="sce",
        formula="A + strength (mean of the differences of the elected sign, weighed by their energy), in the elements"
        " that vary most",
        source="Wan et al. 2024, arXiv 2408.07990; mergekit",
        scope="order",
        least_inputs=3,
        most_inputs=ANY_NUMBER,
        own=(_STRENGTH, _VARYING),
    ),
    MethodInfo(
        name="distribution_crossover",
        formula="A and B sorted in the order of C, then A's frequencies below 1-alpha and B's above",
        source="sd-meh, where alpha is 1-alpha",
        scope="decomposition",
        least_inputs=3,
        most_inputs=3,
        own=(_ratio("alpha", least=0.0), _share("width", 0.0, 0.0, 1.0, "width of the transition")),
    ),
    MethodInfo(
        name="rotate",
        formula="lerp(A, B Q^-1, r) Q^alignment, Q = the orthogonal matrix that turns A nearest to B, of rows less the"
        " mean, which alignment blends; vectors: lerp(A, B, r)",
        source="sd-meh, sd-mecha",
        scope="decomposition",
        least_inputs=2,
        most_inputs=2,
        per_input=_ratio(least=0.0),
        own=(_ratio("alignment", "how far the result is turned from A towards B", least=0.0),),
    ),
)

METHODS: Mapping[str, MethodInfo] = {info.name: info for info in _ALL}
