"""The kinds of scorers of this folder, with their options and public weights.

No torch here: the command line lists scorers without it.
"""

from __future__ import annotations

from scorers.config import ClipModelSettings, ScorerSettings, SpecPath
from scorers.kind import ScorerKind, by_name
from scorers.networks.clip.files import ClipNeed
from scorers.protocol import ScorerInfo
from scorers.weights.needs import Need, OwnFile, WeightNeed
from scorers.weights.public import HubFile

PICKSCORE = ScorerInfo(
    name="pickscore",
    label="PickScore",
    summary="how much people would prefer an image for its prompt, by the choices of Pick-a-Pic",
    direction="maximize",
    # The sigmoid of a difference is the share of people who prefer the better image: 0.2 is 55 to 45. The scores of
    # today's models are about 18 to 24.
    unit=0.2,
    range=(-100.0, 100.0),
    limits=(-100.0, 100.0),
    scope="image",
)

# The page of the weights states no licence; that of https://github.com/yuvalkirstain/PickScore is MIT. No digest was
# found outside the hub, so only the hub vouches for the file of this commit. Looked up on 2026-11-27.
PICKSCORE_V1 = HubFile(
    title="PickScore v1",
    repository="yuvalkirstain/PickScore_v1",
    names=("model.safetensors",),
    size_bytes=3_940_000_000,
    licence="none stated (its code: MIT)",
    setting="weights",
    revision="a4e4367c6dfa7288a00c550414478f865b875800",
)

HPS = ScorerInfo(
    name="hps",
    label="HPS v2.1",
    summary="how much people would prefer an image for its prompt, by the choices of HPD v2: 100 x cosine",
    direction="maximize",
    # As for PickScore: in training the cosine had a factor of about 100. The scores of models are about 20 to 35.
    unit=0.2,
    range=(-100.0, 100.0),
    limits=(-100.0, 100.0),
    scope="image",
)

# The digest is the hub's for this commit; several public projects pin the same, and one of them the size. The licence
# is that of the weights' page and of https://github.com/tgxs002/HPSv2. Looked up on 2026-11-27.
HPS_V21 = HubFile(
    title="HPS v2.1",
    repository="xswu/HPSv2",
    names=("HPS_v2.1_compressed.pt",),
    size_bytes=1_972_490_005,
    licence="Apache-2.0",
    setting="weights",
    revision="697403c78157020a1ae59d23f111aa58ced35b0a",
    sha256="c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
)

IMAGEREWARD = ScorerInfo(
    name="imagereward",
    label="ImageReward",
    summary="how much people would prefer an image for its prompt, by ratings of DiffusionDB's images; 0 is average",
    direction="maximize",
    # As for PickScore: it was trained on the sigmoid of differences, and divided by about 1 afterwards.
    unit=0.2,
    range=(-3.0, 3.0),
    scope="image",
)

# The digest is the hub's for commit 7a9e21f, which added the file, and that which another public project gives for the
# file that it tested. The licence is that of the weights' page and of https://github.com/THUDM/ImageReward. Looked up
# on 2026-11-27.
IMAGEREWARD_V1 = HubFile(
    title="ImageReward v1.0",
    repository="zai-org/ImageReward",
    names=("ImageReward.pt",),
    size_bytes=1_786_880_927,
    licence="Apache-2.0",
    setting="weights",
    sha256="d71dc8d4912bc633c06ab8ef1ef6a81e8199d4369f14b47b29baf1d19de561f6",
)

# The vocabulary of BERT base uncased, which many models have copies of. Dozens of independent public projects pin this
# digest and size. Looked up on 2026-11-27.
BERT_VOCABULARY = HubFile(
    title="BERT vocabulary",
    repository="google-bert/bert-base-uncased",
    names=("vocab.txt",),
    size_bytes=231_508,
    licence="Apache-2.0",
    setting="vocabulary",
    sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
)

PERSONAL = ScorerInfo(
    name="personal",
    label="personal",
    summary="how much those would prefer an image whose votes `mergetune study train-personal` learned from",
    direction="maximize",
    # As for PickScore: the sigmoid of a difference is the share of votes for the better image. 0 is the average of the
    # images that were voted on.
    unit=0.2,
    range=(-20.0, 20.0),
    scope="image",
)


class PickScoreSettings(ScorerSettings):
    """Options of `pickscore`."""

    weights: SpecPath | None = None  # in the format of transformers' CLIPModel; None: the public file


class HpsSettings(ScorerSettings):
    """Options of `hps`."""

    weights: SpecPath | None = None  # in open_clip's format; None: the public file


class ImageRewardSettings(ScorerSettings):
    """Options of `imagereward`."""

    weights: SpecPath | None = None  # None: the public file
    vocabulary: SpecPath | None = None  # vocab.txt of BERT base uncased; None: the public file


class PersonalSettings(ScorerSettings):
    """Options of `personal`."""

    head: SpecPath  # as `mergetune study train-personal` writes it
    clip: ClipModelSettings = ClipModelSettings()  # that the head was trained on


def _pickscore_needs(settings: PickScoreSettings | None) -> tuple[Need, ...]:
    return (WeightNeed(named=settings.weights if settings else None, public=PICKSCORE_V1),)


def _hps_needs(settings: HpsSettings | None) -> tuple[Need, ...]:
    return (WeightNeed(named=settings.weights if settings else None, public=HPS_V21),)


def _imagereward_needs(settings: ImageRewardSettings | None) -> tuple[Need, ...]:
    settings = settings or ImageRewardSettings()
    return (
        WeightNeed(named=settings.weights, public=IMAGEREWARD_V1),
        WeightNeed(named=settings.vocabulary, public=BERT_VOCABULARY),
    )


def _personal_needs(settings: PersonalSettings | None) -> tuple[Need, ...]:
    named, clip = (None, ClipModelSettings()) if settings is None else (settings.head, settings.clip)
    return OwnFile(named=named, title="a head of `study train-personal`", setting="head"), ClipNeed(settings=clip)


KINDS = by_name(
    ScorerKind(
        info=PICKSCORE,
        settings=PickScoreSettings,
        builder="scorers.preference.pickscore:build",
        needs=_pickscore_needs,
    ),
    ScorerKind(
        info=HPS,
        settings=HpsSettings,
        builder="scorers.preference.hps:build",
        needs=_hps_needs,
    ),
    ScorerKind(
        info=IMAGEREWARD,
        settings=ImageRewardSettings,
        builder="scorers.preference.imagereward:build",
        needs=_imagereward_needs,
    ),
    ScorerKind(
        info=PERSONAL,
        settings=PersonalSettings,
        builder="scorers.preference.personal:build",
        needs=_personal_needs,
    ),
)
