"""The built-in scorers: what they measure, which direction is better, and which difference counts as one step.

`unit` is the difference in the suite's mean that counts as one step. It only weighs scores against each other when
several are added into one objective; a study with one score never uses it. The values are our judgement of comparable
steps, not measurements. The comment beside each explains it.
"""

from __future__ import annotations

from scorers.protocol import ScorerInfo

# Fréchet and kernel distances of fewer than 8 images are meaningless. Below 32, their bias exceeds any difference
# between models: the FID of clean CIFAR images to other clean ones is 299 with 8 images, 210 with 32 and 168 with 64.
SET_MIN_IMAGES = 8
SET_ADVISED_IMAGES = 32

CLIP_SCORE = ScorerInfo(
    name="clip_score",
    label="CLIP score",
    summary="how well an image fits its prompt: 100 x cosine of their CLIP embeddings",
    direction="maximize",
    # One point; the scores of matching images and prompts are about 20 to 35.
    unit=1.0,
    range=(-100.0, 100.0),
    scope="image",
)

AESTHETIC = ScorerInfo(
    name="aesthetic",
    label="LAION aesthetic",
    summary="how much people would like an image, 1 to 10, predicted from its CLIP embedding",
    direction="maximize",
    # A quarter of a point on the raters' scale of ten.
    unit=0.25,
    range=(1.0, 10.0),
    scope="image",
)

CLIP_IQA = ScorerInfo(
    name="clip_iqa",
    label="CLIP-IQA",
    summary="probability that CLIP prefers the good word of a pair of opposites",
    direction="maximize",
    unit=0.05,  # five percentage points
    range=(0.0, 1.0),
    scope="image",
)

FID = ScorerInfo(
    name="fid",
    label="FID",
    summary="Fréchet distance to reference images on the Inception network of 2015",
    direction="minimize",
    # A twentieth of the value of clean images against clean images at n = 32.
    unit=10.0,
    range=(0.0, 500.0),
    scope="set",
    min_images=SET_MIN_IMAGES,
    advised_images=SET_ADVISED_IMAGES,
)

KID = ScorerInfo(
    name="kid",
    label="KID",
    summary="kernel distance (unbiased) to reference images on the Inception network of 2015",
    direction="minimize",
    # A fiftieth of the nominal range, as for FID.
    unit=0.01,
    range=(0.0, 0.5),
    scope="set",
    min_images=SET_MIN_IMAGES,
    advised_images=SET_ADVISED_IMAGES,
)

FRECHET = ScorerInfo(
    name="frechet",
    label="FD",
    summary="Fréchet distance to reference images on a timm network of your choice; not FID",
    direction="minimize",
    # Every network has its own scale of features. So the builder replaces this by 5 % of the spread of the reference
    # set, unless the settings give a unit.
    unit=1.0,
    range=(0.0, float("inf")),
    scope="set",
    min_images=SET_MIN_IMAGES,
    advised_images=SET_ADVISED_IMAGES,
)

KERNEL = ScorerInfo(
    name="kernel",
    label="MMD",
    summary="kernel distance (unbiased) to reference images on a timm network of your choice; not KID",
    direction="minimize",
    unit=1.0,  # replaced as that of FRECHET
    range=(0.0, float("inf")),
    scope="set",
    min_images=SET_MIN_IMAGES,
    advised_images=SET_ADVISED_IMAGES,
)

SHARPNESS = ScorerInfo(
    name="sharpness",
    label="sharpness",
    summary="spread of the Laplacian of luma, in grey levels: fine detail, but noise too",
    direction="maximize",
    unit=1.0,  # one grey level of 255
    range=(0.0, 100.0),
    scope="image",
)

CONTRAST = ScorerInfo(
    name="contrast",
    label="RMS contrast",
    summary="standard deviation of luma, 0 to 0.5",
    direction="maximize",
    unit=0.02,  # five grey levels
    range=(0.0, 0.5),
    scope="image",
)

COLOURFULNESS = ScorerInfo(
    name="colourfulness",
    label="colourfulness",
    summary="Hasler and Süsstrunk's M3: 0 grey, 33 moderate, 59 quite, 109 extremely colourful",
    direction="maximize",
    unit=5.0,  # a third of a step on the authors' verbal scale (15, 33, 45, 59, 82, 109)
    range=(0.0, 110.0),
    scope="image",
)

CLIPPING = ScorerInfo(
    name="clipping",
    label="clipping",
    summary="share of pixels that are pure black or pure white",
    direction="minimize",
    unit=0.02,  # two percent of the pixels
    range=(0.0, 1.0),
    scope="image",
)
