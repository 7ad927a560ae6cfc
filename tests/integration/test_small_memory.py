"""A device that cannot take a whole batch: smaller ones, said once, kept for the study, and the same pictures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from decoded import float_pixels
from demo_study import Recorder, ShortStudy, begin, reopen, short_spec
from torch import Tensor, nn
from torch.testing import assert_close

from optimizer.errors import NoMemoryError
from optimizer.observe.events import BatchReduced
from optimizer.outcome.export import Watch, deliver
from optimizer.rendering.largest_batches import LargestBatches
from optimizer.rendering.render import Renderer
from optimizer.runtime.machine import device_kind
from optimizer.runtime.memory import explain_out_of_memory
from optimizer.runtime.setup import build_renderer, build_scorers
from optimizer.work.trial_loop import TrialLoop
from scorers.memory import lacks_memory
from scorers.networks.inference import BATCH_SIZE, Runner
from studies.records import stored_trials
from studies.records.batch_limits import BatchLimit
from studies.records.stored_batch_limits import load_batch_limits, store_batch_limit

SMALL: dict[str, Any] = {
    "budget": {"trials": 3},
    "probes": {"profiles": 0},
    "scorers": {"clip_score": short_spec()["scorers"]["clip_score"]},
    "objective": {"clip_score": None},
    "final": {"top": 0},
}
GUIDED = 2  # the U-Net sees every image with and without its prompt
CPU = torch.device("cpu")


def quiet(_done: int) -> None: ...


@contextmanager
def room_for(images: int, module: nn.Module, rows: int = 1) -> Iterator[list[int]]:
    """A live module on a device whose memory takes so many images; yields the sizes of all batches it is given.

    Args:
        rows: of the module's input for an image.
    """
    seen: list[int] = []

    def check(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(len(arguments[0]) // rows)
        if seen[-1] > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    handle = module.register_forward_pre_hook(check)
    try:
        yield seen
    finally:
        handle.remove()


def room_to_denoise(images: int, short: ShortStudy) -> AbstractContextManager[list[int]]:
    return room_for(images, short.runtime.evaluator.renderer.models.unet, GUIDED)


def room_to_decode(images: int, short: ShortStudy) -> AbstractContextManager[list[int]]:
    return room_for(images, short.runtime.evaluator.renderer.models.vae.decoder)


def size_of(short: ShortStudy) -> tuple[int, int]:
    first = short.runtime.evaluator.renderer.items[0]
    return first.width, first.height


def test_smaller_batches_said_once_kept_for_the_study_and_the_same_pictures(tmp_path: Path) -> None:
    short = begin(tmp_path, SMALL)
    renderer, size = short.runtime.evaluator.renderer, size_of(short)
    with torch.inference_mode():
        expected = Renderer(renderer.models, renderer.suite, batch_size=2)
        images = expected.render().images
        assert_close(float_pixels(expected), float_pixels(renderer), atol=1e-4, rtol=1e-4)
    with room_to_denoise(3, short) as seen:
        recorder = short.run(stop_after=1)
        assert sorted(set(seen), reverse=True) == [8, 4, 2]
        reason = "CUDA out of memory. Tried to allocate 2.00 GiB."
        assert recorder.of(BatchReduced) == [
            BatchReduced(component="unet", images=images, reason=reason) for images in (4, 2)
        ]
        with torch.inference_mode():
            found = renderer.render().images
        assert all(torch.equal(*pair) for pair in zip(found, images, strict=True))
        seen.clear()
        assert short.run(stop_after=1).of(BatchReduced) == []
        assert set(seen) == {2}
    trials = stored_trials.load_trials(short.records)
    assert [(trial.state, trial.rendered) for trial in trials] == [("complete", 8)] * 2
    limit = BatchLimit(component="unet", size=size, images=2)
    assert trials[0].batch_limits == load_batch_limits(short.records, device_kind(CPU)) == (limit,)
    assert load_batch_limits(short.records, "another card, 8 GB") == ()
    short.database.close()

    again = reopen(tmp_path)  # another process, later
    with room_to_denoise(3, again) as seen:
        assert again.run().of(BatchReduced) == []
        assert set(seen) == {2}
    target = tmp_path / "merge.safetensors"
    proof = deliver(
        again.records,
        trials[0],
        again.runtime.plan,
        again.artifacts,
        target,
        overwrite=False,
        watch=Watch(written=quiet, compared=quiet, rendered=quiet),
    ).proof
    assert "all 8 renders of the file are identical, to the bit, to those that were scored" in proof
    again.database.close()


@pytest.mark.slow
def test_what_cannot_be_decoded_at_once_is_denoised_once_and_decoded_in_smaller_groups(tmp_path: Path) -> None:
    short = begin(tmp_path, SMALL)
    size = size_of(short)
    with room_to_denoise(8, short) as denoised, room_to_decode(3, short) as decoded:
        recorder = short.run(stop_after=1)
        steps = len(denoised)
        assert short.run(stop_after=1).of(BatchReduced) == []
    assert [(event.component, event.images) for event in recorder.of(BatchReduced)] == [("vae", 4), ("vae", 2)]
    assert set(denoised) == {8}
    assert len(denoised) == 2 * steps  # the trial that met with it denoised nothing again
    assert decoded == [8, 4, *[2] * 4, *[2] * 4]
    first, second = stored_trials.load_trials(short.records)
    limit = BatchLimit(component="vae", size=size, images=2)
    assert first.batch_limits == second.batch_limits == load_batch_limits(short.records, device_kind(CPU)) == (limit,)
    target = tmp_path / "merge.safetensors"
    watch = Watch(written=quiet, compared=quiet, rendered=quiet)
    with room_to_decode(8, short) as decoded:
        plan = short.runtime.plan
        done = deliver(short.records, first, plan, short.artifacts, target, overwrite=False, watch=watch)
    assert "all 8 renders of the file are identical, to the bit, to those that were scored" in done.proof
    short.database.close()


@pytest.mark.slow
def test_images_decoded_in_larger_groups_before_are_made_again(tmp_path: Path) -> None:
    """Another program may take its memory later: all pixels follow from the limit that the trial ends with."""
    short = begin(tmp_path, SMALL)
    size, models, suite = size_of(short), short.runtime.evaluator.renderer.models, short.runtime.spec.suite
    renderer, done = Renderer(models, suite, batch_size=4), list[int]()
    with torch.inference_mode():
        largest_batches = LargestBatches({("vae", size): 2})
        expected = Renderer(models, suite, batch_size=4, largest_batches=largest_batches).render()
        with ExitStack() as later:

            def advance(count: int) -> None:
                done.append(count)
                if len(done) == 1:
                    later.enter_context(room_to_decode(3, short))

            found = renderer.render(advance)
    assert done == [4, 4, 8]
    assert renderer.largest_batches.most == largest_batches.most
    assert all(torch.equal(one, other) for one, other in zip(found.images, expected.images, strict=True))
    short.database.close()


@pytest.mark.slow
def test_an_image_that_cannot_be_decoded_fails_its_trial(tmp_path: Path) -> None:
    short = begin(tmp_path, SMALL)
    with room_to_decode(0, short):
        short.run(stop_after=1)
    (trial,) = stored_trials.load_trials(short.records)
    assert trial.state == "failed"
    assert (trial.reason or "").startswith("out of memory decoding a single image of ")
    short.database.close()


def test_only_when_a_single_image_is_too_much_the_trial_fails(tmp_path: Path) -> None:
    short = begin(tmp_path, SMALL)
    with room_to_denoise(0, short):
        recorder = Recorder(stop_after=1)
        TrialLoop(short.records, short.runtime, short.artifacts, recorder, recorder.stop).run()
    assert [event.images for event in recorder.of(BatchReduced)] == [4, 2, 1]
    (trial,) = stored_trials.load_trials(short.records)
    width, height = size_of(short)
    assert trial.state == "failed"
    assert trial.reason == (
        f"out of memory denoising a single image of {width}x{height}: CUDA out of memory. Tried to allocate 2.00 GiB."
    )
    four, two, three = (BatchLimit(component="unet", size=(64, 64), images=images) for images in (4, 2, 3))
    decoded = BatchLimit(component="vae", size=(64, 64), images=1)
    for limit in (four, two, three, decoded):  # three is of a worker that knew less
        store_batch_limit(short.records, "card", limit)
    assert load_batch_limits(short.records, "card") == (two, decoded)
    short.database.close()


@pytest.mark.slow
def test_a_merge_without_memory_fails_its_trial_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where torch says it in another way, too."""
    short = begin(tmp_path, SMALL)
    resident = short.runtime.evaluator.resident
    merge, calls = resident.merge, itertools.count()
    monkeypatch.setattr(resident, "merge", lambda recipe: torch.empty(1 << 50) if not next(calls) else merge(recipe))
    recorder = Recorder(stop_after=2)
    TrialLoop(short.records, short.runtime, short.artifacts, recorder, recorder.stop).run()
    first, second = stored_trials.load_trials(short.records)
    assert (first.state, first.failure, second.state) == ("failed", "out_of_memory", "complete")
    short.database.close()


def test_a_scorer_without_memory_takes_fewer_images_at_once_and_only_then_fails_its_trial(tmp_path: Path) -> None:
    short = begin(tmp_path, SMALL)
    scorer: Any = short.runtime.evaluator.scoring.scorers["clip_score"]
    with room_for(3, scorer._embedder._model.visual) as seen:
        short.run(stop_after=1)
        assert seen == [8, 4, *[2] * 4]
    with room_for(0, scorer._embedder._model.visual) as seen:
        short.run(stop_after=1)
    assert seen == [2, 1]  # and not every image alone, to find one that is to blame
    first, second = stored_trials.load_trials(short.records)
    assert (first.state, second.state, second.failure) == ("complete", "failed", "out_of_memory")
    assert second.reason == "out of memory in scorer clip_score: CUDA out of memory. Tried to allocate 2.00 GiB."
    short.database.close()


def test_a_scorer_that_had_no_memory_for_a_moment_keeps_its_batch() -> None:
    network = torch.nn.Linear(3, 2)
    runner, images = Runner(network), [torch.zeros(3, 4, 4, dtype=torch.uint8)] * 8

    def never(batch: list[torch.Tensor]) -> torch.Tensor:
        raise torch.OutOfMemoryError(f"CUDA out of memory with {len(batch)}")

    def pooled(batch: list[torch.Tensor]) -> torch.Tensor:
        rows: torch.Tensor = network(torch.stack(batch).float().mean(dim=(2, 3)))
        return rows

    with pytest.raises(torch.OutOfMemoryError, match="with 1"):
        runner.map(images, never)
    assert runner.batch_size == BATCH_SIZE
    with room_for(4, network):
        runner.map(images, pooled)
    assert runner.batch_size == 4


@pytest.mark.slow
def test_models_and_scorers_that_do_not_fit_while_they_are_loaded_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = begin(tmp_path, SMALL)
    monkeypatch.setattr("optimizer.runtime.setup.build", lambda *_arguments: torch.empty(1 << 50))
    monkeypatch.setattr("optimizer.runtime.setup.build_models", lambda *_arguments, **_settings: torch.empty(1 << 50))
    spec, plan = short.runtime.spec, short.runtime.plan
    with pytest.raises(NoMemoryError, match=r"^not enough memory on cpu to load the scorer clip_score: .*; stop other"):
        build_scorers(spec, CPU, tmp_path / "cache")
    with pytest.raises(NoMemoryError, match=r"^not enough memory on cpu to load the models: .*; stop other programs"):
        build_renderer(plan.ingredients, spec.suite, spec.render, CPU, None)
    with pytest.raises(RuntimeError, match="must match"), explain_out_of_memory("the models", CPU):
        raise RuntimeError("The size of tensor a (3) must match")
    short.database.close()


def test_want_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 50)
    assert lacks_memory(found.value)
    assert lacks_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not lacks_memory(RuntimeError("The size of tensor a (3) must match"))
    assert not lacks_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "cusolver error: CUSOLVER_STATUS_NOT_INITIALIZED, when calling `cusolverDnCreate(handle)`",
        "FIND was unable to find an engine to execute this computation",
        "GET was unable to find an engine to execute this computation",
        "MPS backend out of memory (MPS allocated: 17.9 GB, other allocations: 1.2 MB, max allowed: 18.1 GB).",
        "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8",
    ],
)
def test_libraries_have_their_own_words_for_it(message: str) -> None:
    assert lacks_memory(RuntimeError(message))
    assert not lacks_memory(KeyError(message))
