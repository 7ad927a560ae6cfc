"""Train a personal head: from comparisons to the head, or a refusal that says what would help."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from basics.messages import counted
from optimizer.errors import TooFewVotesError
from optimizer.personal.comparisons import Compared, ComparedRenders
from optimizer.personal.regression import (
    FEWEST_GROUPS,
    Agreement,
    Differences,
    Floats,
    grouped,
    held_out_agreement,
    trained,
)
from optimizer.rendering.contact_sheet import to_tensor
from scorers.aesthetics.heads import Affine
from scorers.networks.clip.embedder import ClipEmbedder
from scorers.preference.personal_head import PersonalHead, Training
from studies.errors import RenderLostError
from studies.files.artifacts import Artifacts

LEAST_SHARE: Final = 0.6  # of held-out votes with which a head must agree
CHANCE: Final = 0.5  # share of votes with which one agrees that knows nothing
BATCH: Final = 32  # renders in memory at once
ADVICE: Final = "vote on more pairs, or learn from one person's votes alone with --person; nothing was written"


@dataclass(frozen=True, kw_only=True)
class LearnedTaste:
    """A trained head and what it is worth."""

    head: PersonalHead
    agreement: Agreement


def embed_renders(
    compared: Compared, artifacts: Artifacts, embedder: ClipEmbedder, advance: Callable[[], None] = lambda: None
) -> dict[str, Floats]:
    """Return file -> the embedding of a render [d]; those that are gone or damaged are left out.

    Args:
        advance: called after each render.

    Raises:
        ArtifactError: the artifact store fails.
    """
    files = compared.files
    found: dict[str, Floats] = {}
    for start in range(0, len(files), BATCH):
        images = dict(_opened(files[start : start + BATCH], artifacts, advance))
        if images:
            found |= dict(zip(images, embedder.embed(list(images.values())).double().numpy(), strict=True))
    return found


def _opened(
    files: tuple[str, ...], artifacts: Artifacts, advance: Callable[[], None]
) -> Iterator[tuple[str, torch.Tensor]]:
    for file in files:
        try:
            picture = artifacts.open_render(file)
        except RenderLostError:
            continue
        finally:
            advance()
        yield file, to_tensor(picture)


def with_embeddings(compared: Compared, embeddings: Mapping[str, Floats]) -> Compared:
    """Leave out comparisons of which a render has no embedding."""
    kept = tuple(each for each in compared.comparisons if {each.first, each.second} <= embeddings.keys())
    return Compared(comparisons=kept, lost=compared.lost + len(compared.comparisons) - len(kept))


def require_enough(compared: Compared) -> None:
    """Refuse votes that cannot be divided into some to learn from and some to check by.

    Raises:
        TooFewVotesError: they are on too few items.
    """
    items = len({each.item for each in _decided(compared)})
    if items < FEWEST_GROUPS:
        lost = f", without {counted(compared.lost, 'vote')} on renders that are not stored" if compared.lost else ""
        raise TooFewVotesError(
            f"expected votes that prefer one of two renders on at least {FEWEST_GROUPS} items (a prompt with a seed), "
            f"got {counted(len(_decided(compared)), 'such vote')} on {items}{lost}: vote on more of them "
            "(`study vote`), in studies with `render: {keep: all}`"
        )


def learn_taste(
    compared: Compared, embeddings: Mapping[str, Floats], embedder: ClipEmbedder, clip: str
) -> LearnedTaste:
    """Train a head on comparisons.

    Args:
        embeddings: of all renders.
        clip: the embedder's name, for people.

    Raises:
        TooFewVotesError: they are too few, or the head agrees with too few held-out votes.
    """
    require_enough(compared)
    differences = Differences(
        x=np.array([embeddings[each.first] - embeddings[each.second] for each in compared.comparisons]),
        y=np.array([each.share for each in compared.comparisons]),
        groups=grouped([each.item for each in compared.comparisons]),
    )
    agreement = held_out_agreement(differences)
    _require_agreement(agreement, compared)
    weights = trained(differences)
    return LearnedTaste(head=_head(weights, compared, embeddings, embedder, clip, agreement), agreement=agreement)


def _require_agreement(agreement: Agreement, compared: Compared) -> None:
    """Refuse a head that says little of votes that it has not seen.

    Raises:
        TooFewVotesError: it does.
    """
    if agreement.share >= LEAST_SHARE and agreement.interval[0] > CHANCE:
        return
    raise TooFewVotesError(
        f"expected a head that agrees with at least {100 * LEAST_SHARE:.0f} % of held-out votes and surely with more "
        f"than half, got {agreement_text(agreement)} on {counted(compared.items, 'item')} by "
        f"{', '.join(compared.people)}: {ADVICE}"
    )


def agreement_text(agreement: Agreement) -> str:
    """Return an agreement in words: "71 % (95 % interval 62 to 79 %), 85 of 120 votes"."""
    low, high = agreement.interval
    return (
        f"{100 * agreement.share:.0f} % (95 % interval {100 * low:.0f} to {100 * high:.0f} %), {agreement.agreed} of "
        f"{counted(agreement.votes, 'vote')}"
    )


def _head(
    weights: Floats,
    compared: Compared,
    embeddings: Mapping[str, Floats],
    embedder: ClipEmbedder,
    clip: str,
    agreement: Agreement,
) -> PersonalHead:
    """Return the head under which the average of the renders scores 0."""
    average = np.mean([embeddings[file] for file in compared.files], axis=0)
    layer = Affine(torch.from_numpy(weights)[None], torch.tensor([-float(average @ weights)], dtype=torch.float64))
    training = Training(
        clip=clip,
        clip_digest=embedder.digest,
        votes=str(len(compared.comparisons)),
        people=", ".join(compared.people),
        agreement=agreement_text(agreement),
        trained_on=time.strftime("%Y-%m-%d", time.gmtime()),
    )
    return PersonalHead(layer=layer, training=training)


def _decided(compared: Compared) -> list[ComparedRenders]:
    return [each for each in compared.comparisons if each.share != CHANCE]
