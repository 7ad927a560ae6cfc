"""What can only be seen on a CUDA card: its memory, its placements, its own kernels, and a study from end to end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_checkpoint
from decoded import float_pixels
from demo_study import DEMO, ShortStudy, begin, short_spec
from safetensors.torch import load_file
from torch import Tensor, nn

from optimizer.merging.engine.export import write_merge
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.placement import Placement
from optimizer.merging.engine.resident import ResidentModel
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.observe.events import BatchReduced
from optimizer.outcome.export import Watch, deliver, render_file
from optimizer.rendering.models import LiveModels, build_models, live_dtypes
from optimizer.rendering.render import Renderer
from optimizer.rendering.unet import GraphedUnet
from optimizer.trial.evaluation import pixels_digest
from search_spaces.blocks import Architecture, places
from studies.recipe.recipe import Operation, Parent, Recipe, Step, canonical_values
from studies.records import stored_renders, stored_trials
from studies.spec.samplers import SAMPLERS
from studies.spec.suite import SuiteSettings

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

CARD = torch.device("cuda")
MIB = 1 << 20
GREY_LEVELS = 13  # of 255, between images of one item from batches of different sizes
STUDY: dict[str, Any] = {
    "budget": {"trials": 3},
    "probes": {"profiles": 0},
    "final": {"top": 0},
    "render": {"device": "cuda", "degenerate_limit": 8},
}
OPERATIONS: Mapping[str, Operation] = {
    "two parents": Operation(method="weighted_sum", inputs=("A", "B")),
    "three parents": Operation(method="weighted_sum", inputs=("A", "B", "C")),
    "a difference": Operation(method="add_difference", inputs=("A", "B", "C")),
    "by whole tensors": Operation(method="ties", inputs=("A", "B", "C")),
    "by chance": Operation(method="dare_linear", inputs=("A", "B"), seed=4),
}


@pytest.fixture(scope="module", params=list(Architecture))
def parents(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, ...]:
    """Three small ones in fp16."""
    folder = tmp_path_factory.mktemp("parents")
    return tuple(
        Checkpoint.open(write_checkpoint(folder / f"{seed}.safetensors", request.param, seed)) for seed in range(3)
    )


def on_the_card(parents: tuple[Checkpoint, ...], placement: Placement | None = None) -> ResidentModel:
    return ResidentModel(
        Ingredients(Parents.of(parents)),
        device=CARD,
        live_dtypes=live_dtypes(CARD, torch.float16),
        placement=placement,
    )


def recipe_of(operation: Operation, architecture: Architecture, share: float = 0.4) -> Recipe:
    """Every slot at a share of its highest number."""
    numbers = tuple(share * slot.high for slot in operation.slots)
    return Recipe(
        architecture=architecture.value,
        parents=tuple(Parent(letter=letter, name=letter, sha256="0" * 64) for letter in "ABC"),
        steps=(Step(operation=operation, values=canonical_values(dict.fromkeys(places(architecture), numbers))),),
    )


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over all tensors' bytes, by their names."""
    found = hashlib.sha256()
    for key in sorted(tensors):
        found.update(key.encode() + tensors[key].cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_a_merge_is_the_same_wherever_its_sources_stay_and_what_the_file_holds(
    operation: Operation, parents: tuple[Checkpoint, ...], tmp_path: Path
) -> None:
    recipe, digests = recipe_of(operation, parents[0].architecture), {}
    for placement in Placement:
        model = on_the_card(parents, placement)
        model.merge(recipe)
        digests[placement] = digest(model.live_tensors())
    assert len(set(digests.values())) == 1, digests
    write_merge(tmp_path / "out.safetensors", recipe, Ingredients(Parents.of(parents)), {}, CARD)
    saved = load_file(tmp_path / "out.safetensors")
    live = on_the_card(parents).live_tensors()
    assert digest({key: saved[key].to(row.dtype) for key, row in live.items()}) == digests[Placement.DEVICE]


@pytest.mark.parametrize("placement", list(Placement))
def test_parameters_stay_in_their_storage_and_merges_take_no_more_memory(
    placement: Placement, parents: tuple[Checkpoint, ...]
) -> None:
    resident = on_the_card(parents, placement)
    models = build_models(resident)
    parts = [models.unet, models.vae, *models.text_encoders.values()]
    before = [row.data_ptr() for part in parts for row in part.parameters()]
    stores = {row.untyped_storage().data_ptr() for row in resident.live_tensors().values()}
    held = []
    for share in (0.1, 0.7, 0.3):
        for operation in OPERATIONS.values():
            resident.merge(recipe_of(operation, parents[0].architecture, share))
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_allocated())
    parameters = [row for part in parts for row in part.parameters()]
    assert [row.data_ptr() for row in parameters] == before
    assert {row.untyped_storage().data_ptr() for row in parameters} <= stores
    assert all(row.device.type == "cuda" for row in parameters)
    assert len(set(held[1:])) == 1  # the first round loads libraries, which keep work space


# -------------------------------------------------------------------------------------- rendering


def suite(**changes: Any) -> SuiteSettings:
    settings: dict[str, Any] = {
        "prompts": ["a red apple", {"prompt": "a bird", "negative": "blurry"}],
        "seeds": (1, 2),
        "sizes": (64, (128, 64)),
        "steps": 4,
        "cfg": 5.0,
        "sampler": "euler",
    }
    return SuiteSettings.model_validate(settings | changes)


@pytest.fixture(scope="module")
def models(parents: tuple[Checkpoint, ...]) -> LiveModels:
    return build_models(on_the_card(parents[:1]))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_pixels_a_second_time_and_from_a_second_renderer(sampler: str, models: LiveModels) -> None:
    settings = suite(sampler=sampler)
    renderer = Renderer(models, settings)
    first, second = float_pixels(renderer), float_pixels(renderer)
    other = float_pixels(Renderer(models, settings))
    for one, two, three in zip(first, second, other, strict=True):
        assert one.isfinite().all()
        assert one.std() > 0
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def graphed(models: LiveModels) -> LiveModels:
    return replace(models, unet_call=GraphedUnet(models.unet))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_recorded_kernels_give_the_same_pixels(sampler: str, models: LiveModels) -> None:
    settings = suite(sampler=sampler)
    with recordings() as recorded:
        expected = Renderer(models, settings).render().images
        assert not recorded
        renderer = Renderer(graphed(models), settings)
        for _ in range(2):
            assert all(map(torch.equal, renderer.render().images, expected))
    assert len(recorded) == 2  # one for each size, at the first time


def test_a_graph_is_never_repeated_for_other_layers(models: LiveModels) -> None:
    """Without guidance all calls have the same shapes."""
    live = graphed(models)
    with recordings() as recorded:
        for pag in (0, 3, {"scale": 3, "layers": ["up"]}, 0):
            settings = suite(cfg=1, pag=pag, sizes=(128,))
            expected = Renderer(models, settings).render().images
            assert all(map(torch.equal, Renderer(live, settings).render().images, expected))
    assert len(recorded) == 3


def test_a_graph_recorded_before_a_merge_is_right_after_it(parents: tuple[Checkpoint, ...]) -> None:
    resident = on_the_card(parents)
    launched = build_models(resident)
    recorded = Renderer(graphed(launched), suite())
    digests = set()
    for share in (0.2, 0.9):
        resident.merge(recipe_of(OPERATIONS["three parents"], parents[0].architecture, share))
        renderer = Renderer(launched, suite())
        recorded.text_changed()
        images = recorded.render().images
        assert all(map(torch.equal, images, renderer.render().images))
        digests.add(images[0].numpy().tobytes())
    assert len(digests) == 2


def test_prompts_of_several_lengths_and_batches_have_graphs_of_their_own(models: LiveModels) -> None:
    settings = suite(prompts=("a", "a " * 100), seeds=(1, 2, 3), sizes=(64,))
    with recordings() as recorded:
        found = Renderer(graphed(models), settings, batch_size=2).render().images
    assert all(map(torch.equal, found, Renderer(models, settings, batch_size=2).render().images))
    assert len(recorded) == 4  # two lengths, batches of two and of one


@pytest.mark.parametrize("fault", ["waits", "differs"])
def test_a_network_that_cannot_be_recorded_is_launched(fault: str, models: LiveModels) -> None:
    """One that waits for the card breaks the recording; one that adds another number each time has another output."""
    calls = []

    def spoil(_module: nn.Module, _inputs: object, out: Tensor) -> Tensor:
        calls.append(0)
        return out * (1 + 0 * out.sum().item()) if fault == "waits" else out + 0.01 * len(calls)

    settings = suite(sizes=(64,))
    handle = models.unet.conv_in.register_forward_hook(spoil)
    try:
        renderer = Renderer(graphed(models), settings)
        first = renderer.render().images
        calls.clear()
        second = renderer.render().images
        assert len(calls) == settings.steps
    finally:
        handle.remove()
    if fault == "waits":
        expected = Renderer(models, settings).render().images
        assert all(map(torch.equal, first, expected))
        assert all(map(torch.equal, second, expected))


def test_recorded_kernels_make_room_before_a_batch_is_halved(models: LiveModels) -> None:
    settings = suite(seeds=(1, 2, 3, 4), sizes=(64,))
    live = graphed(models)
    renderer = Renderer(live, settings)
    expected = renderer.render().images
    refused: list[int] = []

    def lack(_: nn.Module, _inputs: object) -> None:
        if not refused:
            refused.append(torch.cuda.memory_reserved())
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = models.vae.decoder.register_forward_pre_hook(lack)
    try:
        found = renderer.render().images
    finally:
        handle.remove()
    assert refused
    assert all(map(torch.equal, found, expected))
    assert not live.unet_call.release()  # it happened already
    assert not renderer.largest_batches.known


@contextmanager
def recordings() -> Iterator[list[object]]:
    """Yield the graphs that are recorded meanwhile."""
    made: list[object] = []
    begin = torch.cuda.CUDAGraph.capture_begin

    def capture_begin(graph: torch.cuda.CUDAGraph, *arguments: Any, **settings: Any) -> None:
        made.append(graph)
        begin(graph, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.CUDAGraph, "capture_begin", capture_begin)
        yield made


@contextmanager
def card_with(free: int) -> Iterator[None]:
    """At most so many bytes beside what this process holds of the card now."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CARD).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + free) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@contextmanager
def hungry(module: nn.Module, nbytes: int) -> Iterator[list[int]]:
    """A module that takes so many bytes of the card more for each row of a batch; yields the batches it was given."""
    seen: list[int] = []

    def take(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(len(arguments[0]))
        torch.empty(len(arguments[0]) * nbytes, dtype=torch.uint8, device=CARD)

    handle = module.register_forward_pre_hook(take)
    try:
        yield seen
    finally:
        handle.remove()


def test_a_batch_that_denoising_has_no_memory_for_is_halved(models: LiveModels) -> None:
    """Guidance gives the U-Net two rows an image: eight images would take 16 GiB, and there are 10."""
    settings = suite(seeds=(1, 2, 3, 4), sizes=(64,))
    expected = Renderer(models, settings, batch_size=4).render().images
    renderer = Renderer(models, settings)
    with card_with(10 << 30), hungry(models.unet.conv_in, 1 << 30) as seen:
        images = renderer.render().images
    assert renderer.largest_batches.most == {("unet", (64, 64)): 4}
    assert seen[0] == 16
    assert set(seen[1:]) == {8}
    torch.testing.assert_close(torch.stack(images), torch.stack(expected), rtol=0, atol=GREY_LEVELS)


def test_decoding_that_has_too_little_memory_for_all_at_once_still_gives_the_images(models: LiveModels) -> None:
    settings = suite(seeds=(1, 2, 3, 4), sizes=(64,))
    expected = Renderer(models, settings).render().images
    with card_with(5 << 30), hungry(models.vae.post_quant_conv, 1 << 30) as seen:
        images = Renderer(models, settings).render().images
    assert max(seen) > min(seen)
    torch.testing.assert_close(torch.stack(images), torch.stack(expected), rtol=0, atol=GREY_LEVELS)


# ------------------------------------------------------------------------------------------ a study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ShortStudy:
    """Three trials of the demo's checkpoints, scored by CLIP and by a distance between sets."""
    short = begin(tmp_path_factory.mktemp("study"), STUDY)
    short.run()
    return short


def test_a_study_runs_its_trials(study: ShortStudy) -> None:
    trials = stored_trials.load_trials(study.records)
    assert [(trial.state, trial.reason) for trial in trials] == [("complete", None)] * 3
    assert all(trial.machine["device"] == torch.cuda.get_device_name(CARD) for trial in trials)
    assert len({tuple(trial.objectives.values()) for trial in trials}) == len(trials)


def test_an_export_is_proven_and_renders_the_stored_digests_twice(study: ShortStudy, tmp_path: Path) -> None:
    trial = stored_trials.load_trials(study.records)[-1]
    target = tmp_path / "merge.safetensors"
    watch = Watch(written=lambda _: None, compared=lambda _: None, rendered=lambda _: None)
    done = deliver(
        study.records,
        trial,
        study.runtime.plan,
        study.artifacts,
        target,
        overwrite=False,
        watch=watch,
    )
    assert not done.difference
    stored = [render.pixels_sha256 for render in stored_renders.load_renders(study.records, trial)]
    with torch.inference_mode():
        for _ in range(2):
            assert [pixels_digest(image) for image in render_file(target, study.study)] == stored


def test_a_trial_whose_batches_are_too_large_succeeds_with_smaller_ones(tmp_path: Path) -> None:
    scorers = {"clip_score": short_spec()["scorers"]["clip_score"]}
    short = begin(tmp_path, STUDY | {"scorers": scorers, "objective": {"clip_score": None}})
    unet = short.runtime.evaluator.renderer.models.unet
    with card_with(10 << 30), hungry(unet.conv_in, 1 << 30):
        recorder = short.run(stop_after=1)
    assert [row.state for row in recorder.finished] == ["complete"]
    reduced = recorder.of(BatchReduced)[0]
    assert (reduced.component, reduced.images) == ("unet", 4)


def test_the_demos_checkpoints_are_known_to_the_card(study: ShortStudy) -> None:
    """The live model is on the card, and parent A there is parent A's file."""
    resident = study.runtime.evaluator.resident
    resident.merge(stored_trials.load_trials(study.records)[0].recipe)
    stored = load_file(DEMO / "animals.safetensors")
    assert all(
        torch.equal(row.cpu(), stored[key].to(row.dtype)) and row.device.type == "cuda"
        for key, row in resident.live_tensors().items()
    )
