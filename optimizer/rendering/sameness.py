"""Which renders of suites are the same image, whatever was written: what reaches the model is compared.

A CPU generator of torch keeps the low 32 bits of a seed (it is a Mersenne Twister, seeded by one 32-bit word). A text
encoder reads token ids: CLIP's tokenizer lowers capitals, mends and unescapes the text, collapses spaces, and cuts
plain prompts off after 77 tokens. Of other prompts their chunks, weights and embeddings count. A negative prompt is not
read without guidance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

from optimizer.families.registry import model_family
from optimizer.rendering.batching import stages
from optimizer.rendering.enlarging import needs_vae
from optimizer.rendering.prompts.reading import PromptReader, Reading
from optimizer.rendering.sampling.second_pass import all_steps
from search_spaces.blocks import Architecture
from studies.spec.hires import NO_HIRES
from studies.spec.samplers import SAMPLER_INFOS, ProgramName, Sampling
from studies.spec.study import StudySpec
from studies.spec.suite import SuiteItem, SuiteSettings, noise_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """All that a model is given for one item of a suite."""

    prompt: tuple[Reading, ...]  # in each pass
    negative: tuple[Reading, ...] | None  # None without guidance
    clip_skip: int
    weighting: tuple[object, ...] | None  # what is made of weights and of unequal lengths; None where there are none
    zeroed: bool  # whether zeros stand for the negative prompt
    noise: int  # see `noise_of`; a Brownian path depends on the whole seed
    size: tuple[int, int]  # width and height in pixels
    sampling: Sampling  # of the first pass
    second: tuple[object, ...] | None  # what decides the second pass beside the first, if there is one


def model_inputs(suite: SuiteSettings, architecture: Architecture) -> tuple[ModelInput, ...]:
    """Return what a model of the family is given for each item, in the suite's order.

    Raises:
        PromptError: a prompt cannot be read, or names an embedding that cannot be used.
    """
    family = model_family(architecture)
    reader = PromptReader(suite, family)
    zeroes = suite.syntax == "a1111" and family.zeroes_empty_negative
    return tuple(_model_input(item, suite, reader, zeroes=zeroes) for item in suite.items())


def _model_input(item: SuiteItem, suite: SuiteSettings, reader: PromptReader, *, zeroes: bool) -> ModelInput:
    prompt = _readings(item.prompt, item.sampling, reader)
    negative = _readings(item.negative, item.sampling, reader, negative=True) if item.sampling.is_guided else None
    read = prompt if negative is None else (*prompt, *negative)
    weighted = any(each.is_weighted for each in read) or len({each.chunk_count for each in read}) > 1
    return ModelInput(
        prompt=prompt,
        negative=negative,
        clip_skip=item.clip_skip,
        weighting=(suite.syntax, suite.emphasis) if weighted else None,
        zeroed=zeroes and negative is not None and negative[0].is_empty,
        noise=item.seed if SAMPLER_INFOS[item.sampling.sampler].is_brownian else noise_of(item.seed),
        size=(item.width, item.height),
        sampling=_once(item.sampling),
        second=_second_pass(item, suite.program),
    )


def _once(sampling: Sampling) -> Sampling:
    """Return the sampling of the first pass as it is written where several ways mean one."""
    layers = tuple(sorted({"mid" if layer == "mid_block" else layer for layer in sampling.pag.layers}))
    once = replace(sampling, hires=NO_HIRES, pag=sampling.pag.model_copy(update={"layers": layers}))
    return once if once.is_guided else replace(once, cfg=1.0, cfg_rescale=0.0)


def _second_pass(item: SuiteItem, program: ProgramName) -> tuple[object, ...] | None:
    """Return size, steps and upscaler of a second pass; the steps of all levels stand for its strength."""
    second, hires, size = item.sampling.second, item.sampling.hires, item.image_size
    if second is None:
        return None
    stays = size == (item.width, item.height) and not needs_vae(hires.upscaler)
    return size, second.steps, all_steps(second.steps, hires.denoise, program), None if stays else hires.upscaler


def _readings(text: str, sampling: Sampling, reader: PromptReader, *, negative: bool = False) -> tuple[Reading, ...]:
    """Return a prompt as each pass reads it."""
    calls = sampling.prompt_steps
    first = reader.read(text, calls, negative=negative)
    if sampling.second is None:
        return (first,)
    return first, reader.read(text, sampling.second.prompt_steps, negative=negative, before=calls)


# ------------------------------------------------------------------------------------------ within a study


def repeated_renders(spec: StudySpec, architecture: Architecture, *, begun: bool = False) -> Iterator[str]:
    """Say which renders of the suite, and of the final's, are an image that another one gives already.

    Args:
        begun: whether the study is stored already, so that they stay.
    """
    in_suite = _repeated_in(spec.suite, architecture, begun=begun)
    yield from (f"suite: {repeated}" for repeated in in_suite)
    if spec.final.top:
        yield from seen_seeds(spec)
        in_final = _repeated_in(spec.held_out, architecture, begun=begun)
        yield from (f"final: {repeated}" for repeated in in_final if repeated not in in_suite)  # of the same prompts


def _repeated_in(suite: SuiteSettings, architecture: Architecture, *, begun: bool) -> list[str]:
    then = "gains and intervals count it once" if begun else "remove one"
    first: dict[ModelInput, SuiteItem] = {}
    said: set[str] = set()
    for item, given in zip(suite.items(), model_inputs(suite, architecture), strict=True):
        if given in first:
            said.add(f"{_why_same(first[given], item, suite)}, so both render the same image: {then}")
        first.setdefault(given, item)
    return sorted(said)


def _why_same(one: SuiteItem, other: SuiteItem, suite: SuiteSettings) -> str:
    """Say why two items that are written differently are one image."""
    reasons = []
    if one.seed != other.seed:
        reasons.append(f"seed {other.seed} gives the noise of seed {one.seed} (only a seed's low 32 bits count)")
    if one.prompt != other.prompt:
        reasons.append(f"the prompts {_short(one.prompt)} and {_short(other.prompt)} {_read_alike(suite)}")
    if one.negative != other.negative:
        negatives = f"the negative prompts {_short(one.negative)} and {_short(other.negative)}"
        unread = f"are not read at cfg {other.sampling.cfg:g}"
        reasons.append(f"{negatives} {_read_alike(suite) if other.sampling.is_guided else unread}")
    if one.sampling.cfg != other.sampling.cfg:
        reasons.append(f"cfg {one.sampling.cfg:g} and {other.sampling.cfg:g} both render without guidance")
    return " and ".join(reasons)


def _read_alike(suite: SuiteSettings) -> str:
    if suite.syntax == "plain":
        return "are read as the same (capitals, repeated spaces and what follows the 77th token do not count)"
    return "are read as the same (capitals, repeated spaces and brackets that change no weight do not count)"


def _short(text: str) -> str:
    """Return a text for a message, in quotes: its beginning and, as long texts differ there, its end."""
    return repr(text if len(text) <= 60 else f"{text[:30]} ... {text[-25:]}")


def seen_seeds(spec: StudySpec) -> Iterator[str]:
    """Say which seeds of the final give noise that the search has seen."""
    seen = {noise_of(item.seed): item.seed for item in spec.suite.items()}
    for seed in dict.fromkeys(item.seed for item in spec.held_out.items()):
        if noise_of(seed) in seen:
            yield (
                f"final: seed {seed} gives the noise of the suite's seed {seen[noise_of(seed)]} (only a seed's low 32 "
                "bits count): the final needs seeds that the search has not seen, so choose others or leave `seeds` out"
            )


# ------------------------------------------------------------------------------------------ between studies


def same_renders(one: SuiteSettings, other: SuiteSettings, architecture: Architecture) -> bool:
    """Return whether two suites render the same images item by item, to the last bit if not in stages.

    Embeddings and LoRAs are taken to be the same: their content is a fingerprint of a study.

    Raises:
        PromptError: an embedding is not in the folder of the first suite.
    """
    if (one.embeddings is None) != (other.embeddings is None):
        return False
    other = other.model_copy(update={"embeddings": one.embeddings})
    if one.digest == other.digest:
        return True
    if _settings(one) != _settings(other) or model_inputs(one, architecture) != model_inputs(other, architecture):
        return False
    return _text_batches(one) == _text_batches(other)


def same_stages(
    one: SuiteSettings, other: SuiteSettings, size: int | None, orders: tuple[str | None, str | None] = (None, None)
) -> bool:
    """Return whether two suites that render the same images are divided into the same stages of this size.

    Args:
        orders: of either one's stages, as for `stages`.
    """
    return _numbers(one, size, orders[0]) == _numbers(other, size, orders[1])


def _numbers(suite: SuiteSettings, size: int | None, order: str | None) -> list[list[int]]:
    return [[item.index for item in stage] for stage in stages(suite, size, order)]


def _settings(suite: SuiteSettings) -> tuple[object, ...]:
    """Return what is the same for all items; settings left to the models' markers are covered by the parents."""
    noise = suite.program, suite.ensd, suite.sgm_noise_multiplier
    return *noise, suite.size_conditioning, suite.prediction, suite.zero_snr, suite.shift, suite.lora_strengths


def _text_batches(suite: SuiteSettings) -> tuple[object, ...]:
    """Return how many texts are embedded together, and the place of each that is read: last bits depend on it."""
    items = suite.items()
    place = {text: row for row, text in enumerate(dict.fromkeys(chain(*((i.prompt, i.negative) for i in items))))}
    read = [(place[item.prompt], place[item.negative] if item.sampling.is_guided else None) for item in items]
    return len(place), read
