"""What a study needs whose objective has people's votes in it, and what does not go with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from scorers.votes.kinds import VOTED

if TYPE_CHECKING:
    from studies.spec.study import StudySpec

REMEMBERING: Final = ("cmaes", "nsgaii")  # samplers that keep what trials were worth when they ended


def check_preference(spec: StudySpec) -> None:
    """Refuse a study that asks people for votes and cannot use them.

    Raises:
        ValueError: it does; the message names the first reason.
    """
    for reason in (*_of_the_scorer(spec), *_of_the_study(spec)):
        raise ValueError(reason)


def preference_notes(spec: StudySpec) -> Iterator[str]:
    """Say what the votes of a study leave out of account."""
    weights = {prompt.weight for prompt in (*spec.suite.prompts, *(spec.final.prompts or ()))}
    if spec.voted is not None and len(weights) > 1:
        yield f"{spec.voted}: every vote counts once, whatever the weight of its prompt"


def _of_the_scorer(spec: StudySpec) -> Iterator[str]:
    """Yield what is wrong with where the scorer is named."""
    name = spec.voted
    if sum(entry.kind == VOTED for entry in spec.scorers.values()) > 1:
        yield f"scorers: kind {VOTED} is named twice, and a study has one set of votes: keep one of them"
    if name is not None and spec.scorers[name].groups:
        yield f"scorers: {name}: votes are on whole trials, not on groups of prompts: leave `groups` out"
    if name not in (spec.objectives or spec.terms):
        yield (
            f"scorers: {name} is in no objective, and `study votes` shows votes without it: leave it out, or name it "
            "in the objective"
        )
    prompts = (*spec.suite.prompts, *(spec.final.prompts or ()))
    if any(name in prompt.without for prompt in prompts):
        yield f"`without: [{name}]`: votes are on whole trials, not on some prompts: leave it out"
    if name in spec.constraints:
        yield f"constraints: {name} depends on votes that come later, so no trial can keep to it: remove the constraint"


def _of_the_study(spec: StudySpec) -> Iterator[str]:
    """Yield which other settings do not go with it."""
    name = spec.voted
    if spec.render.keep != "all":
        yield f"{name} needs the renders of every trial, to be voted on: say `render: {{keep: all}}`"
    if spec.racing is not None:
        yield f"`racing` cannot stop a trial by votes that come later, so it does not go with {name}: leave it out"
    if spec.budget.patience is not None:
        yield f"budget: patience compares values that later votes change, so it does not go with {name}: leave it out"
    if spec.warm_start is not None:
        yield f"`warm_start` does not take votes over, so it does not go with {name}: leave it out"
    if spec.sampler.name in REMEMBERING:
        yield (
            f"sampler {spec.sampler.name} keeps what trials were worth when they ended, and votes change it: "
            f"use depth, gp or tpe with {name}"
        )
