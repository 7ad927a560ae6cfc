"""The strength of a LoRA's layers, where it is not stored as a tensor of each layer.

A layer changes its weight by scale * up @ down. kohya's scripts store alpha with every layer; scale is alpha / rank.
Other programs store a number for the whole file:

    PEFT                      `adapter_config.json` beside the file
    diffusers 0.34 and later  PEFT's configuration in the header, as `lora_adapter_metadata`, with `unet.lora_alpha` ...
    other trainers            single numbers in the header: `lora_alpha`, `ss_network_alpha`, `alpha`

PEFT's scale is alpha / r, or alpha / sqrt(r) if it is rank-stabilised (Kalajdzievski 2023, arXiv:2312.03732). Both
numbers may differ for layers that match a pattern. What else its configuration may ask for, and a sum of weights cannot
give, is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from basics.foreign import JSON_BYTES, parse_json, read_bytes
from optimizer.errors import LoraError
from studies.recipe.lora_files import files_of_lora

ADAPTER_METADATA: Final = "lora_adapter_metadata"
DEFAULT_ALPHA: Final = 8.0  # PEFT's, if a configuration has none

# Numbers for a whole file in its header, the first found counts: (alpha, the ranks that it may be divided by).
_HEADER_NUMBERS: Final = (
    ("lora_alpha", ("r", "lora_rank", "rank")),
    ("ss_network_alpha", ("ss_network_dim",)),
    ("alpha", ("rank", "r", "dim")),
)

# What a configuration may ask for besides low-rank products of linear layers and convolutions.
_UNSUPPORTED: Final = {
    "use_dora": "a DoRA (weights with a learned magnitude)",
    "use_qalora": "a QALoRA (for quantised weights)",
    "lora_bias": "a LoRA with biases",
    "modules_to_save": "a LoRA with whole layers beside its factors",
    "layer_replication": "a LoRA for a model with repeated layers",
    "target_parameters": "a LoRA of parameters outside layers",
    "trainable_token_indices": "a LoRA with trained tokens",
    "alora_invocation_tokens": "an activated LoRA, which acts on some tokens only",
    "kasa_config": "a KaSA (singular values adapted)",
    "monteclora_config": "a MonteCLoRA (weights drawn at random)",
    "use_bdlora": "a BD-LoRA (block-diagonal factors)",
    "arrow_config": "an Arrow router of several LoRAs",
}
_CHANGES_THE_MODEL: Final = re.compile(r"(?i)(pissa|olora|corda|loftq|lora_ga)")  # beginnings of `init_lora_weights`

_COMPONENT: Final = re.compile(
    r"(?P<component>unet|text_encoder(?:_\d)?|transformer|diffusion_model)\.(?P<module>.+)"
    r"|(?P<kohya>lora_(?:unet|te[12]?))[_.](?P<flat>.+)"
)
_COMPONENTS: Final = {
    "diffusion_model": "unet",
    "lora_unet": "unet",
    "lora_te": "text_encoder",
    "lora_te1": "text_encoder",
    "lora_te2": "text_encoder_2",
}

_QUANTIFIER = r"(?:\.[*+]|\\d\+)"
_PATTERN: Final = re.compile(rf"[\w.\\|^$-]*({_QUANTIFIER}[\w.\\|^$-]*){{0,2}}")


@dataclass(frozen=True, kw_only=True)
class AdapterConfiguration:
    """The part of PEFT's configuration of one component that decides how strong its layers are."""

    origin: str  # where it is stored, for messages
    alpha: float
    rank: float | None
    alpha_pattern: Mapping[str, float]  # regular expression -> alpha of the modules it matches; the first counts
    rank_pattern: Mapping[str, float]
    rank_stabilised: bool

    @classmethod
    def of(cls, settings: Mapping[str, Any], origin: str) -> AdapterConfiguration:
        """Read the settings of one component.

        Raises:
            ValueError, TypeError, OverflowError, re.error: a setting has no meaning.
        """
        rank = settings.get("r")
        return cls(
            origin=origin,
            alpha=_number(settings.get("lora_alpha", DEFAULT_ALPHA)),
            rank=None if rank is None else _number(rank),
            alpha_pattern=_patterns(settings.get("alpha_pattern")),
            rank_pattern=_patterns(settings.get("rank_pattern")),
            rank_stabilised=_flag(settings.get("use_rslora")),
        )

    def scale(self, module: str, rank: int) -> float:
        """Return the scale of a module, named without its component.

        Raises:
            ValueError: the configuration gives the module another rank, so it belongs to another LoRA.
        """
        expected = _matching(self.rank_pattern, module) or self.rank
        if expected not in {None, rank}:
            msg = f"rank {expected:g} for {module}, which has rank {rank}: it belongs to another LoRA"
            raise ValueError(msg)
        alpha = _matching(self.alpha_pattern, module)
        alpha = self.alpha if alpha is None else alpha
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


@dataclass(frozen=True, kw_only=True)
class HeaderNumbers:
    """One alpha for every layer of a file, and the rank that it is divided by, from the file's header."""

    origin: str
    alpha: float
    rank: float | None  # None: that of each layer


@dataclass(frozen=True, kw_only=True)
class Strength:
    """The scales of the layers of one file that have none of their own."""

    file: str  # name, for messages
    configurations: Mapping[str, AdapterConfiguration] = field(default_factory=dict)  # by component; "" for any
    numbers: HeaderNumbers | None = None

    def scale(self, name: str, rank: int) -> float:
        """Return the scale of a layer without alpha: 1 where nothing is said about it.

        Args:
            name: of the layer, with its component if the file names it.

        Raises:
            LoraError: the settings are of another LoRA.
        """
        component, module = _component(name)
        configuration = self._configuration(component)
        if configuration is not None:
            try:
                return configuration.scale(module, rank)
            except ValueError as error:
                raise LoraError(f"{self.file}: {configuration.origin} says {error}; put its own file there") from error
        if self.numbers is not None:
            return self.numbers.alpha / (self.numbers.rank or rank)
        return 1.0

    def origin(self, name: str) -> str | None:
        """Return where the scale of a layer without alpha is stored; None if nowhere."""
        configuration = self._configuration(_component(name)[0])
        if configuration is not None:
            return configuration.origin
        return None if self.numbers is None else self.numbers.origin

    def _configuration(self, component: str) -> AdapterConfiguration | None:
        if component in self.configurations:
            return self.configurations[component]
        if not component and len(self.configurations) == 1:  # the file names no components, as PEFT alone
            return next(iter(self.configurations.values()))
        return self.configurations.get("")


def strength_of(path: Path, metadata: Mapping[str, str]) -> Strength:
    """Read what a LoRA's header says about its strength, or else the configuration beside it.

    Raises:
        LoraError: it is damaged, or asks for more than low-rank products.
    """
    if ADAPTER_METADATA in metadata:
        origin = f"its header's {ADAPTER_METADATA}"
        settings = _json_object(metadata[ADAPTER_METADATA], f"{path.name}: {origin}")
        return _configured(path, _by_component(settings), origin)
    _, *beside = files_of_lora(path)
    if beside:
        origin = f"{beside[0].name} beside it"
        try:
            text = read_bytes(beside[0], JSON_BYTES).decode("utf-8")
        except (OSError, ValueError) as error:
            raise LoraError(f"{path.name}: {origin} cannot be read ({error}): fetch both files again") from error
        return _configured(path, {"": _json_object(text, f"{path.name}: {origin}")}, origin)
    return Strength(file=path.name, numbers=_header_numbers(metadata))


def _configured(path: Path, settings: Mapping[str, Mapping[str, Any]], origin: str) -> Strength:
    for of_component in settings.values():
        _refuse_unsupported(path, of_component, origin)
        _refuse_patterns(path, of_component, origin)
    try:
        configurations = {
            component: AdapterConfiguration.of(of_component, origin) for component, of_component in settings.items()
        }
    except (ValueError, TypeError, OverflowError, re.error) as error:
        raise LoraError(f"{path.name}: {origin} is damaged ({error}); fetch it again") from error
    return Strength(file=path.name, configurations=configurations)


def _refuse_unsupported(path: Path, settings: Mapping[str, Any], origin: str) -> None:
    """Refuse a configuration of what is more, or other, than low-rank products.

    Raises:
        LoraError: it asks for that.
    """
    found = [(key, what) for key, what in _UNSUPPORTED.items() if settings.get(key)]
    kind = settings.get("peft_type")
    if kind is not None and str(kind).upper().rpartition(".")[2] != "LORA":
        found.append(("peft_type", f"an adapter of PEFT's kind {kind}"))
    if settings.get("bias") not in {None, "none"}:
        found.append(("bias", "a LoRA with biases"))
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and _CHANGES_THE_MODEL.match(start):
        found.append(("init_lora_weights", f"a LoRA for a model that was itself changed ({start})"))
    if found:
        key, what = found[0]
        raise LoraError(
            f"{path.name} is {what}: {origin} sets {key}, and only plain LoRAs can be baked in; use a plain LoRA"
        )


def _refuse_patterns(path: Path, settings: Mapping[str, Any], origin: str) -> None:
    """Refuse patterns beyond `_PATTERN`: a file could give one that matches endlessly, by alternatives in a row too.

    Raises:
        LoraError: there is one.
    """
    for key in ("alpha_pattern", "rank_pattern"):
        patterns = settings.get(key)
        names = patterns if isinstance(patterns, Mapping) else ()  # what it is otherwise is said later
        found = [name for name in names if not _PATTERN.fullmatch(name)]
        if found:
            raise LoraError(
                f"{path.name}: {origin} has {found[0]!r} in its {key}, and such patterns are not supported here: only "
                r"names with at most two of `.*`, `.+` and `\d+` are; name each layer that it stands for"
            )


def _by_component(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Split `unet.lora_alpha` into component and setting; settings without component stand under the empty name."""
    components: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        component, _, setting = key.rpartition(".")
        components.setdefault(component, {})[setting] = value
    return components


def _header_numbers(metadata: Mapping[str, str]) -> HeaderNumbers | None:
    """Return the first alpha in a header; None if it has none.

    kohya's scripts write `Dynamic` where the numbers differ between layers; each layer then has its own.
    """
    for key, rank_keys in _HEADER_NUMBERS:
        if key not in metadata:
            continue
        rank_key = next((name for name in rank_keys if name in metadata), None)
        try:
            alpha = _number(metadata[key])
            rank = None if rank_key is None else _number(metadata[rank_key])
        except ValueError:
            return None
        return HeaderNumbers(origin=f"its header's {key}", alpha=alpha, rank=rank)
    return None


def _component(name: str) -> tuple[str, str]:
    """Split a layer's name into its component, empty if it has none, and the module."""
    match = _COMPONENT.fullmatch(name)
    if match is None:
        return "", name
    component = match["component"] or match["kohya"]
    return _COMPONENTS.get(component, component), match["module"] or match["flat"]


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        stored = parse_json(text)
    except ValueError as error:
        raise LoraError(f"{where} is not JSON; fetch the file again") from error
    if not isinstance(stored, dict):
        raise LoraError(f"{where} is not a JSON object; fetch the file again")
    return stored


def _number(value: Any) -> float:
    """Return a finite number, also from a text.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not math.isfinite(float(value)):
        msg = f"{value!r} is not a finite number"
        raise ValueError(msg)
    return float(value)


def _flag(value: Any) -> bool:
    """Return a truth value.

    Raises:
        ValueError: it is something else.
    """
    if value is not None and not isinstance(value, bool):
        msg = f"{value!r} is neither true nor false"
        raise ValueError(msg)
    return bool(value)


def _patterns(value: Any) -> dict[str, float]:
    """Return PEFT's patterns, which are regular expressions, with their numbers; see also `_refuse_patterns`.

    Raises:
        ValueError, re.error: they are no patterns, or no numbers.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        msg = f"{value!r} is not an object of patterns"
        raise ValueError(msg)
    for pattern in value:
        re.compile(pattern)
    return {pattern: _number(number) for pattern, number in value.items()}


def _matching(patterns: Mapping[str, float], module: str) -> float | None:
    """Return the number of the first pattern that matches a module's name, as PEFT matches: its end, from a dot on."""
    return next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), None)
