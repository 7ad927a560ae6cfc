"""One recipe, two executors: what is live in memory is what the exported file holds, bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from checkpoints import small_shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from small_files import small_parents
from torch import Tensor

from optimizer.errors import ExportError
from optimizer.merging.checkpoint import Checkpoint, sha256_of
from optimizer.merging.export import atomic_file, export_layout, write_merge
from optimizer.merging.layout import Component
from optimizer.merging.resident import EXPORT_DTYPES, ResidentModel
from search_spaces.blocks import Architecture, place_of, places
from studies.recipe import METHODS, DtypeName, Parent, Recipe, canonical_ratios

COMPONENTS: tuple[Component, ...] = ("unet", "vae", "text_encoder", "text_encoder_2")
ON_CPU = dict.fromkeys(COMPONENTS, torch.float32)
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
POSITIONS = {
    Architecture.SD15: "cond_stage_model.transformer.text_model.embeddings.position_ids",
    Architecture.SDXL: "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
}
ONLY_A = "model.diffusion_model.middle_block.0.only_in_a.weight"
ONLY_B = "model.diffusion_model.middle_block.0.only_in_b.weight"
EMA = "model_ema.diffusion_modelmiddle_block00weight"
MARKERS = {
    "v_pred": torch.zeros(0),
    "alphas_cumprod": torch.linspace(0, 1, 11),
    "edm_vpred.sigma_max": torch.tensor(80.0),
}


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@cache
def some_shapes(architecture: Architecture) -> Mapping[str, tuple[int, ...]]:
    """A few tensors of every place, none of them large."""
    by_place: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for key, shape in small_shapes(architecture.value).items():
        if torch.Size(shape).numel() < 20_000 and not key.endswith("position_ids"):
            by_place.setdefault(place_of(key, architecture), []).append((key, shape))
    assert set(by_place) == set(places(architecture))
    return {key: shape for rows in by_place.values() for key, shape in (*rows[:2], rows[-1])}


def parent_tensors(
    architecture: Architecture, index: int, seed: int, dtypes: Sequence[torch.dtype]
) -> dict[str, Tensor]:
    """One parent; several dtypes are dealt out to its tensors."""
    generator, dealer = torch.Generator().manual_seed(seed * 7 + index), random.Random(seed * 7 + index)
    tensors = {
        key: torch.randn(shape, generator=generator).to(dealer.choice(dtypes))
        for key, shape in some_shapes(architecture).items()
    }
    tensors |= {EMA: torch.randn(9, generator=generator), POSITIONS[architecture]: torch.arange(77)[None]}
    tensors |= {key: value + index for key, value in MARKERS.items()}
    if index == 0:
        tensors[ONLY_A] = torch.randn(33, generator=generator).to(dealer.choice(dtypes))
    else:
        tensors[ONLY_B] = torch.randn(5, generator=generator)
    return tensors


@dataclass(frozen=True, kw_only=True)
class Case:
    """Parents and the recipes that are made of them."""

    architecture: Architecture
    method: str
    parents: int
    dtypes: tuple[tuple[torch.dtype, ...], ...]  # per parent
    export: DtypeName | None
    seed: int

    def recipe(self, seed: int) -> Recipe:
        """Random ratios, many of them 0, 1/2 or 1."""
        dealer = random.Random(seed)
        letters = tuple("ABC"[: self.parents])
        slots = len(METHODS[self.method].slots(letters))
        ratios = {
            place: tuple(dealer.choice((0.0, 1.0, 0.5, dealer.random(), dealer.random())) for _ in range(slots))
            for place in places(self.architecture)
        }
        return Recipe(
            architecture=self.architecture.value,
            method=self.method,
            parents=tuple(Parent(letter=letter, name=letter, sha256="0" * 64) for letter in letters),
            ratios=canonical_ratios(ratios),
            dtype=self.export,
        )

    def open(self, folder: Path) -> list[Checkpoint]:
        opened = []
        for index in range(self.parents):
            path = folder / f"{index}.safetensors"
            save_file(parent_tensors(self.architecture, index, self.seed, self.dtypes[index]), path)
            opened.append(Checkpoint.open(path))
        return opened


@st.composite
def cases(draw: st.DrawFn) -> Case:
    method = draw(st.sampled_from(sorted(METHODS)))
    parents = draw(st.integers(METHODS[method].least_parents, METHODS[method].most_parents))
    kinds = [(dtype,) for dtype in FLOATS]
    one_kind = st.sampled_from(kinds).map(lambda kind: (kind,) * parents)
    mixed = st.tuples(*[st.sampled_from([*kinds, FLOATS])] * parents)
    return Case(
        architecture=draw(st.sampled_from(list(Architecture))),
        method=method,
        parents=parents,
        dtypes=draw(one_kind | mixed),
        export=draw(st.sampled_from([None, "fp16", "bf16", "fp32"])),
        seed=draw(st.integers(0, 1_000)),
    )


def resident_of(case: Case, parents: Sequence[Checkpoint], live: torch.dtype = torch.float32) -> ResidentModel:
    return ResidentModel(parents, device="cpu", live_dtypes=dict.fromkeys(COMPONENTS, live), export_dtype=case.export)


def read(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dictionary


@settings(max_examples=30, deadline=None)
@given(case=cases(), seeds=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)))
def test_the_live_model_is_what_the_file_holds_and_any_recipe_can_be_made_again(
    case: Case, seeds: tuple[int, int]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parents = case.open(folder)
        resident = resident_of(case, parents)
        first, second = case.recipe(seeds[0]), case.recipe(seeds[1])
        resident.merge(first)
        before = {key: bits(row) for key, row in resident.live_tensors().items()}
        written = write_merge(folder / "out.safetensors", first, parents, {"format": "pt"})
        saved = read(written.path)
        assert saved.keys() == resident.live_tensors().keys()
        for key, row in saved.items():
            assert bits(row) == bits(resident.live_tensors()[key].to(row.dtype)), key

        changed = resident.merge(second)
        assert changed == {place for place, ratios in first.ratios if ratios != second.by_place[place]}
        assert {
            place_of(key, case.architecture) for key, row in resident.live_tensors().items() if bits(row) != before[key]
        } <= changed
        assert resident.merge(second) == frozenset()
        resident.merge(first)
        assert {key: bits(row) for key, row in resident.live_tensors().items()} == before


@settings(max_examples=10, deadline=None)
@given(case=cases(), live=st.sampled_from([torch.float16, torch.bfloat16]))
def test_a_half_precision_pipeline_holds_the_saved_values_rounded_once_more(case: Case, live: torch.dtype) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parents = case.open(folder)
        resident = resident_of(case, parents, live)
        recipe = case.recipe(3)
        resident.merge(recipe)
        saved = read(write_merge(folder / "out.safetensors", recipe, parents, {}).path)
        for key, row in resident.live_tensors().items():
            assert bits(row) == bits(saved[key].to(row.dtype)), key


HALVES = ((torch.float16,), (torch.float16,))


def plain_case(architecture: Architecture = Architecture.SD15, export: DtypeName | None = None) -> Case:
    return Case(architecture=architecture, method="weighted_sum", parents=2, dtypes=HALVES, export=export, seed=11)


class TestResident:
    @pytest.mark.parametrize("architecture", list(Architecture))
    def test_it_begins_as_parent_a(self, architecture: Architecture, tmp_path: Path) -> None:
        case = plain_case(architecture)
        resident = resident_of(case, case.open(tmp_path))
        stored = parent_tensors(architecture, 0, 11, case.dtypes[0])
        for key, row in resident.live_tensors().items():
            assert bits(row.to(stored[key].dtype)) == bits(stored[key]), key

    @pytest.mark.parametrize("architecture", list(Architecture))
    def test_a_ratio_reaches_its_place_and_no_other(self, architecture: Architecture, tmp_path: Path) -> None:
        case = plain_case(architecture)
        resident = resident_of(case, case.open(tmp_path))
        a, b = (parent_tensors(architecture, index, 11, case.dtypes[index]) for index in range(2))
        for chosen in places(architecture):
            ratios = {place: (1.0 if place == chosen else 0.0,) for place in places(architecture)}
            resident.merge(
                Recipe(
                    architecture=architecture.value,
                    method="weighted_sum",
                    parents=case.recipe(0).parents,
                    ratios=canonical_ratios(ratios),
                )
            )
            for key in some_shapes(architecture):
                wanted = b if place_of(key, architecture) == chosen else a
                assert torch.equal(resident.live_tensors()[key], wanted[key].float()), (chosen, key)

    def test_what_no_ratio_applies_to_stays_parent_as(self, tmp_path: Path) -> None:
        case = plain_case(export="bf16")
        resident = resident_of(case, case.open(tmp_path))
        for seed in range(3):
            resident.merge(case.recipe(seed))
        live, stored = resident.live_tensors(), parent_tensors(Architecture.SD15, 0, 11, case.dtypes[0])
        for key in (*MARKERS, POSITIONS[Architecture.SD15]):
            assert live[key].dtype == stored[key].dtype
            assert torch.equal(live[key], stored[key])
        assert torch.equal(live[ONLY_A], stored[ONLY_A].bfloat16().float())
        assert ONLY_B not in live
        assert EMA not in live

    def test_merges_stay_in_the_same_memory_and_take_no_more(self, tmp_path: Path) -> None:
        case = plain_case()
        resident = resident_of(case, case.open(tmp_path))
        places_in_memory = {key: row.data_ptr() for key, row in resident.live_tensors().items()}
        held = resident.nbytes()
        for seed in range(5):
            resident.merge(case.recipe(seed))
        assert {key: row.data_ptr() for key, row in resident.live_tensors().items()} == places_in_memory
        assert resident.nbytes() == held

    def test_tensors_do_not_overlap(self, tmp_path: Path) -> None:
        case = plain_case()
        live = resident_of(case, case.open(tmp_path)).live_tensors()
        spans = sorted((row.data_ptr(), row.data_ptr() + row.nbytes) for row in live.values() if row.numel())
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


class TestFile:
    @pytest.mark.parametrize("architecture", list(Architecture))
    def test_a_whole_small_model_agrees_with_memory(self, architecture: Architecture, tmp_path: Path) -> None:
        case = Case(
            architecture=architecture,
            method="weighted_sum",
            parents=3,
            dtypes=(*HALVES, (torch.float16,)),
            export=None,
            seed=0,
        )
        parents, recipe = small_parents(architecture), case.recipe(5)
        resident = resident_of(case, parents)
        resident.merge(recipe)
        seen: list[int] = []
        written = write_merge(tmp_path / "out.safetensors", recipe, parents, {"format": "pt"}, seen.append)
        saved = read(written.path)
        assert list(Checkpoint.open(written.path).tensors) == list(parents[0].tensors)
        assert [
            key for key, row in resident.live_tensors().items() if bits(row.to(saved[key].dtype)) != bits(saved[key])
        ] == []
        assert sum(seen) == sum(row.nbytes for row in saved.values())

    def test_the_header_is_what_other_programs_expect(self, tmp_path: Path) -> None:
        case = plain_case()
        metadata = {"format": "pt", "a": "0x" + "0" * 64, "sd_merge_recipe": '{"type": "mergetune"}'}
        written = write_merge(tmp_path / "out.safetensors", case.recipe(1), case.open(tmp_path), metadata)
        content = written.path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        assert content[8:10] == b'{"'
        assert (8 + length) % 8 == 0
        with safe_open(written.path, framework="np") as file:
            found = file.metadata()
        assert found == metadata | {"modelspec.hash_sha256": f"0x{hashlib.sha256(content[8 + length :]).hexdigest()}"}
        assert written.sha256 == hashlib.sha256(content).hexdigest() == sha256_of(written.path)
        assert written.bytes == len(content)

    @pytest.mark.parametrize("export", [None, "fp16", "bf16", "fp32"])
    def test_every_tensor_starts_at_a_multiple_of_its_element_size(
        self, export: DtypeName | None, tmp_path: Path
    ) -> None:
        case = Case(
            architecture=Architecture.SDXL,
            method="weighted_sum",
            parents=2,
            dtypes=((torch.float32,), (torch.float32,)),
            export=export,
            seed=2,
        )
        parents = case.open(tmp_path)
        assert any(row.size % 2 for row in parents[0].tensors.values())  # a number alone would shift what follows
        written = write_merge(tmp_path / "out.safetensors", case.recipe(1), parents, {})
        content = written.path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        rows = [row for key, row in header.items() if key != "__metadata__"]
        width = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}
        assert [row for row in rows if row["data_offsets"][0] % width[row["dtype"]]] == []

    @pytest.mark.parametrize("export", [None, "fp16", "bf16", "fp32"])
    def test_only_weights_are_cast(self, export: DtypeName | None, tmp_path: Path) -> None:
        case = plain_case(export=export)
        parents = case.open(tmp_path)
        saved = read(write_merge(tmp_path / "out.safetensors", case.recipe(1), parents, {}).path)
        positions = saved.pop(POSITIONS[Architecture.SD15])
        assert positions.dtype == torch.int64
        assert torch.equal(positions, torch.arange(77)[None])
        for key, value in MARKERS.items():
            assert saved[key].dtype == torch.float32
            assert torch.equal(saved.pop(key), value)
        assert {row.dtype for row in saved.values()} == {EXPORT_DTYPES[export] if export else torch.float16}

    def test_positions_that_an_old_merge_left_as_floats_are_parent_as(self, tmp_path: Path) -> None:
        key = POSITIONS[Architecture.SD15]
        case = plain_case(export="bf16")
        parents = case.open(tmp_path)
        broken = parent_tensors(Architecture.SD15, 0, 11, case.dtypes[0]) | {key: torch.arange(77.0).half()[None]}
        save_file(broken, tmp_path / "broken.safetensors")
        both = [Checkpoint.open(tmp_path / "broken.safetensors"), parents[1]]
        saved = read(write_merge(tmp_path / "out.safetensors", case.recipe(1), both, {}).path)
        assert saved[key].dtype == torch.float16
        assert torch.equal(saved[key], broken[key])

    def test_keys_are_parent_as_without_the_ema_copy(self, tmp_path: Path) -> None:
        case = plain_case()
        parents = case.open(tmp_path)
        written = write_merge(tmp_path / "out.safetensors", case.recipe(1), parents, {})
        assert set(Checkpoint.open(written.path).tensors) == set(parents[0].tensors) - {EMA}
        assert {key: row.shape for key, row in export_layout(parents[0], case.recipe(1)).items()} == {
            key: row.shape for key, row in parents[0].tensors.items() if key != EMA
        }

    def test_the_same_recipe_writes_the_same_file(self, tmp_path: Path) -> None:
        case = plain_case()
        parents = case.open(tmp_path)
        one, other = (
            write_merge(tmp_path / f"{name}.safetensors", case.recipe(4), parents, {"format": "pt"}) for name in "xy"
        )
        assert one.sha256 == other.sha256


class TestAtomicFile:
    def test_the_file_appears_when_the_block_ends(self, tmp_path: Path) -> None:
        target = tmp_path / "out.safetensors"
        with atomic_file(target, overwrite=False) as temporary:
            temporary.write_bytes(b"done")
            assert not target.exists()
        assert target.read_bytes() == b"done"
        assert list(tmp_path.iterdir()) == [target]

    @pytest.mark.parametrize("stop", [ValueError("proof failed"), KeyboardInterrupt()])
    def test_nothing_is_left_when_the_block_fails(self, tmp_path: Path, stop: BaseException) -> None:
        def half_write() -> None:
            with atomic_file(tmp_path / "out.safetensors", overwrite=False) as temporary:
                temporary.write_bytes(b"half")
                raise stop

        with pytest.raises(type(stop)):
            half_write()
        assert list(tmp_path.iterdir()) == []

    def test_an_existing_file_is_refused_and_kept(self, tmp_path: Path) -> None:
        target = tmp_path / "out.safetensors"
        target.write_bytes(b"mine")
        with pytest.raises(ExportError, match=r"exists: .*--force"), atomic_file(target, overwrite=False):
            pytest.fail("the block must not run")
        assert target.read_bytes() == b"mine"

    def test_an_existing_file_is_replaced_only_when_the_block_succeeds(self, tmp_path: Path) -> None:
        target = tmp_path / "out.safetensors"
        target.write_bytes(b"mine")
        with pytest.raises(ValueError, match="no"), atomic_file(target, overwrite=True):
            raise ValueError("no")
        assert target.read_bytes() == b"mine"
        with atomic_file(target, overwrite=True) as temporary:
            temporary.write_bytes(b"new")
        assert target.read_bytes() == b"new"

    def test_a_folder_that_does_not_exist_is_refused(self, tmp_path: Path) -> None:
        for target in (tmp_path / "absent" / "out.safetensors", tmp_path):
            with pytest.raises(ExportError), atomic_file(target, overwrite=True):
                pytest.fail("the block must not run")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class TestFullDisk:
    def test_a_full_disk_is_an_export_error_and_leaves_nothing(self, full_disk: Path, tmp_path: Path) -> None:
        case = plain_case()
        parents = case.open(tmp_path)
        target = full_disk / "out.safetensors"
        with pytest.raises(ExportError, match="the disk is full"), atomic_file(target, overwrite=False) as temporary:
            write_merge(temporary, case.recipe(1), parents, {})
        assert list(full_disk.iterdir()) == []

    def test_a_limit_on_file_sizes_is_an_export_error_and_leaves_nothing(self, tmp_path: Path) -> None:
        case = plain_case()
        parents = case.open(tmp_path)
        folder = tmp_path / "out"
        folder.mkdir()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
        try:
            with (
                pytest.raises(ExportError, match="the disk is full"),
                atomic_file(folder / "x", overwrite=False) as file,
            ):
                write_merge(file, case.recipe(1), parents, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(folder.iterdir()) == []
