"""Checkpoints that go into one merge: what each has, what is kept, and that nothing happens without a word."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from checkpoints import random_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import read_layout
from safetensors.torch import save_file
from torch import Tensor

from optimizer.errors import CheckpointError, ParentsDifferError
from optimizer.merging.files.checkpoint import Checkpoint, TensorInfo
from optimizer.merging.files.parents import Parents

CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"
OUT = "model.diffusion_model.out.2.weight"
COUNT = "model.diffusion_model.out.2.num_batches_tracked"
TEXT = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
VAE = "first_stage_model.decoder.conv_in.weight"
VAE_Q = "first_stage_model.decoder.mid.attn_1.q.weight"

Opener = Callable[..., Parents]


def tensors_of(value: float, **changes: Tensor | None) -> dict[str, Tensor]:
    """A model of four tensors, recognised by its text encoder; `None` takes one away."""
    names = {"conv_in": CONV_IN, "out": OUT, "text": TEXT, "vae": VAE}
    value = float(value)
    tensors: dict[str, Tensor | None] = {
        CONV_IN: torch.full((6, 4, 3, 3), value),
        OUT: torch.full((4, 6), value),
        TEXT: torch.full((8,), value),
        VAE: torch.full((2, 2), value),
    }
    tensors |= {names.get(name, name): tensor for name, tensor in changes.items()}
    return {key: tensor for key, tensor in tensors.items() if tensor is not None}


@pytest.fixture
def parents(tmp_path: Path) -> Opener:
    """Parents of the given tensors, a.safetensors first."""

    def opened(*files: Mapping[str, Tensor]) -> Parents:
        checkpoints = []
        for letter, tensors in zip("abcdef", files, strict=False):
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / f"{letter}.safetensors")
            checkpoints.append(Checkpoint.open(tmp_path / f"{letter}.safetensors"))
        return Parents.of(checkpoints)

    return opened


class TestEqualLayouts:
    @pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
    def test_everything_of_floats_is_merged_and_nothing_is_noted(self, architecture: str, parents: Opener) -> None:
        files = [random_tensors(architecture, seed) for seed in range(3)]
        found = parents(*files)
        assert found.architecture == architecture
        assert found.notes == ()
        assert list(found.tensors) == list(found.first.tensors)
        assert {key for key in found.tensors if not found.is_merged(key)} == (
            {key for key in files[0] if key.endswith("position_ids")}
        )
        for key, info in found.tensors.items():
            assert torch.equal(found.kept(key), files[0][key])
            for index, tensors in enumerate(files):
                assert found.info(key, index) == info
                assert torch.equal(found.tensor(key, index), tensors[key])

    def test_one_checkpoint_alone_is_a_parent(self, parents: Opener) -> None:
        found = parents(tensors_of(1))
        assert found.checkpoints == (found.first,)
        assert all(found.is_merged(key) for key in found.tensors)

    def test_the_optional_tensors_of_sdxl_may_lack(self, parents: Opener) -> None:
        """Some files leave out what SDXL does not use: its encoders' last layers, positions, the logit scale."""
        optional = {row.key for row in read_layout("sdxl") if row.optional}
        full = random_tensors("sdxl", 1)
        last = {key for key in full if ".final_layer_norm." in key or key in optional}
        found = parents(full, {key: row for key, row in random_tensors("sdxl", 2).items() if key not in last})
        assert {key for key in found.tensors if not found.is_merged(key)} == last
        assert any(note.startswith(f"{len(last)} tensors are not in B and stay parent A's") for note in found.notes)


class TestMissingKeys:
    def test_keys_that_another_parent_lacks_are_kept_and_counted(self, parents: Opener) -> None:
        extra = {f"model.diffusion_model.middle_block.0.{index}": torch.ones(1) for index in range(5)}
        found = parents(tensors_of(1, **extra), tensors_of(2), tensors_of(3, **extra))
        assert not any(found.is_merged(key) for key in extra)
        assert found.notes == ("5 tensors are not in B and stay parent A's: " + ", ".join(sorted(extra)[:3]) + " ...",)
        with pytest.raises(KeyError):
            found.tensor(next(iter(extra)), 1)

    def test_keys_that_a_lacks_are_left_out_and_counted(self, parents: Opener) -> None:
        extra = {"model.diffusion_model.middle_block.0.x": torch.ones(1)}
        found = parents(tensors_of(1), tensors_of(2), tensors_of(3, **extra))
        assert found.tensors.keys() == tensors_of(1).keys()
        assert found.notes == ("1 tensor is only in C and left out: model.diffusion_model.middle_block.0.x",)

    def test_integers_are_never_merged(self, parents: Opener) -> None:
        one = tensors_of(1, **{POSITIONS: torch.arange(77)[None], COUNT: torch.tensor(3, dtype=torch.int8)})
        two = tensors_of(2, **{POSITIONS: torch.arange(77.0)[None], COUNT: torch.tensor(4.0)})
        for first, second in ((one, two), (two, one)):
            found = parents(first, second)
            assert not found.is_merged(POSITIONS)
            assert not found.is_merged(COUNT)
            assert torch.equal(found.kept(POSITIONS), torch.arange(77)[None])
            assert torch.equal(found.kept(COUNT), first[COUNT])

    def test_ema_copies_are_left_out_and_counted(self, parents: Opener) -> None:
        ema = {f"model_ema.diffusion_modelout{index}": torch.ones(1) for index in range(4)}
        found = parents(tensors_of(1, **ema), tensors_of(2, **{"model_ema.decay": torch.ones(1)}))
        assert found.tensors.keys() == tensors_of(1).keys()
        assert found.notes == ("EMA copies of the U-Net are left out: 4 of A, 1 of B",)

    def test_the_checkpoints_own_notes_are_passed_on_with_their_letter(self, parents: Opener) -> None:
        found = parents(tensors_of(1), tensors_of(2, **{POSITIONS: torch.arange(77.0)[None]}))
        assert any(note.startswith("parent B (b.safetensors): ") and "position_ids" in note for note in found.notes)


class TestComponents:
    def test_a_component_that_a_lacks_is_taken_from_the_first_that_has_it(self, parents: Opener) -> None:
        found = parents(tensors_of(1, vae=None), tensors_of(2, vae=None), tensors_of(3), tensors_of(4))
        assert list(found.tensors) == [*found.first.tensors, VAE]
        assert not found.is_merged(VAE)
        assert torch.equal(found.kept(VAE), tensors_of(3)[VAE])
        assert found.notes == ("parent A has no vae: C's is taken as it is",)

    def test_a_u_net_alone_takes_everything_else_from_another(self, parents: Opener) -> None:
        full = random_tensors("sdxl", 2)
        unet = {key: row for key, row in random_tensors("sdxl", 1).items() if key.startswith("model.diffusion_model.")}
        found = parents(unet, full)
        assert found.tensors.keys() == full.keys()
        assert list(found.tensors)[: len(unet)] == list(found.first.tensors)
        for key in full:
            assert found.is_merged(key) == (key in unet)
            assert torch.equal(found.kept(key), unet.get(key, full[key]))
        assert [note.split(":")[0] for note in found.notes] == [
            "parent A has no text_encoder",
            "parent A has no text_encoder_2",
            "parent A has no vae",
        ]

    def test_a_component_that_another_lacks_stays_and_is_named_as_a_whole(self, parents: Opener) -> None:
        found = parents(tensors_of(1), tensors_of(2, vae=None))
        assert found.notes == ("B has no vae: parent A's stays",)
        assert not found.is_merged(VAE)
        assert torch.equal(found.kept(VAE), tensors_of(1)[VAE])

    def test_shapes_of_what_is_taken_need_not_fit_what_is_not(self, parents: Opener) -> None:
        found = parents(tensors_of(1, vae=None), tensors_of(2), tensors_of(3, vae=torch.ones(7, 7)))
        assert found.tensors[VAE].shape == (2, 2)


class TestMarkers:
    def test_a_marker_of_a_is_kept(self, parents: Opener) -> None:
        found = parents(tensors_of(1, v_pred=torch.zeros(0)), tensors_of(2))
        assert not found.is_merged("v_pred")
        assert found.kept("v_pred").shape == (0,)
        assert found.notes == ("1 tensor is not in B and stay parent A's: v_pred",)

    def test_a_marker_of_both_is_no_matter(self, parents: Opener) -> None:
        marks = {"v_pred": torch.zeros(0), "edm_vpred.sigma_max": torch.tensor(120.0)}
        found = parents(tensors_of(1, **marks), tensors_of(2, **marks))
        assert marks.keys() <= found.tensors.keys()
        assert not any(found.is_merged(key) for key in marks)
        assert found.notes == ()

    def test_markers_of_another_parent_only_are_left_out_by_name(self, parents: Opener) -> None:
        found = parents(tensors_of(1), tensors_of(2, v_pred=torch.zeros(0), ztsnr=torch.zeros(0)))
        assert found.tensors.keys() == tensors_of(1).keys()
        (note,) = found.notes
        assert note.startswith("B is marked v_pred, ztsnr and A is not")


class TestShapes:
    def test_another_architecture_is_refused(self, parents: Opener) -> None:
        keys = (CONV_IN, "conditioner.embedders.0.transformer.w", "conditioner.embedders.1.model.w")
        with pytest.raises(ParentsDifferError, match=r"A \(a\.safetensors\) is sd15, B \(b\.safetensors\) is sdxl"):
            parents(tensors_of(1), {key: torch.ones(2) for key in keys})

    def test_what_is_no_checkpoint_is_refused(self, parents: Opener) -> None:
        with pytest.raises(CheckpointError, match="a LoRA"):
            parents(tensors_of(1), {"lora_unet_x.lora_up.weight": torch.ones(1)})

    def test_other_shapes_are_refused_naming_the_first_three(self, parents: Opener) -> None:
        keys = [f"model.diffusion_model.middle_block.0.{index}" for index in range(5)]
        one = tensors_of(1, **{key: torch.ones(2, 3) for key in keys})
        two = tensors_of(2, **{key: torch.tensor(1.0) for key in keys})
        with pytest.raises(ParentsDifferError, match=r"b\.safetensors has other shapes .* in 5 tensors") as error:
            parents(one, two)
        named = [key for key in keys if key in str(error.value)]
        assert len(named) == 3
        assert f"{named[0]} is 2x3 in A and a number in B" in str(error.value)

    @pytest.mark.parametrize("shapes", [((5, 5, 1, 1), (5, 5)), ((5, 5), (5, 5, 1, 1))])
    def test_a_1x1_convolution_and_a_linear_layer_are_one(
        self, shapes: tuple[tuple[int, ...], tuple[int, ...]], parents: Opener
    ) -> None:
        """Attention of the VAE is stored either way."""
        values = torch.randn(5, 5)
        found = parents(
            tensors_of(1, **{VAE_Q: torch.ones(shapes[0])}), tensors_of(2, **{VAE_Q: values.reshape(shapes[1])})
        )
        assert found.is_merged(VAE_Q)
        assert found.info(VAE_Q, 1) == TensorInfo(torch.float32, shapes[0])
        assert torch.equal(found.tensor(VAE_Q, 1), values.reshape(shapes[0]))


class TestInputChannels:
    @pytest.mark.parametrize("channels", [8, 9])
    def test_plain_parents_are_extended_by_the_channels_of_a(self, channels: int, parents: Opener) -> None:
        a, b, c = (torch.randn(6, count, 3, 3) for count in (channels, 4, channels))
        found = parents(*(tensors_of(value, conv_in=row) for value, row in enumerate((a, b, c))))
        assert found.is_merged(CONV_IN)
        extended = found.tensor(CONV_IN, 1)
        assert found.info(CONV_IN, 1) == TensorInfo(torch.float32, (6, channels, 3, 3))
        assert torch.equal(extended[:, :4], b)
        assert torch.equal(extended[:, 4:], a[:, 4:])
        assert torch.equal(found.tensor(CONV_IN, 0), a)
        assert torch.equal(found.tensor(CONV_IN, 2), c)
        (note,) = found.notes
        assert note.startswith(f"B reads 4 input channels and A {channels}")

    @settings(max_examples=25, deadline=None)
    @given(
        ratio=st.floats(0, 1),
        one=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
        two=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    )
    def test_extra_channels_survive_any_sum_and_any_difference(
        self, ratio: float, one: torch.dtype, two: torch.dtype
    ) -> None:
        """Also where a plain parent's own dtype could not hold A's values."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = []
            for letter, count, dtype in (("a", 9, one), ("b", 4, two), ("c", 4, one)):
                row = (torch.randn(6, count, 3, 3) * 1e5).clamp(-6e4, 6e4).to(dtype)
                save_file(tensors_of(1, conv_in=row), Path(folder) / f"{letter}.safetensors")
                checkpoints.append(Checkpoint.open(Path(folder) / f"{letter}.safetensors"))
            found = Parents.of(checkpoints)
            a, b, c = (found.tensor(CONV_IN, index).double() for index in range(3))
            assert torch.allclose((1 - ratio) * a[:, 4:] + ratio * b[:, 4:], a[:, 4:], rtol=1e-12)
            assert torch.equal(a[:, 4:] + ratio * (b - c)[:, 4:], a[:, 4:])

    @pytest.mark.parametrize("channels", [8, 9])
    def test_an_inpainting_model_must_be_parent_a(self, channels: int, parents: Opener) -> None:
        with pytest.raises(ParentsDifferError, match=rf"B \(b.safetensors\) reads {channels} .* must be parent A"):
            parents(tensors_of(1), tensors_of(2, conv_in=torch.ones(6, channels, 3, 3)))

    def test_two_models_of_different_extra_channels_are_refused(self, parents: Opener) -> None:
        """A mask and an image are not the same input, wherever they stand."""
        with pytest.raises(ParentsDifferError, match="6x9x3x3 in A and 6x8x3x3 in B"):
            parents(
                tensors_of(1, conv_in=torch.ones(6, 9, 3, 3)),
                tensors_of(2, conv_in=torch.ones(6, 8, 3, 3)),
            )

    def test_other_widths_of_the_first_convolution_are_refused(self, parents: Opener) -> None:
        with pytest.raises(ParentsDifferError, match="6x9x3x3 in A and 7x4x3x3 in B"):
            parents(
                tensors_of(1, conv_in=torch.ones(6, 9, 3, 3)),
                tensors_of(2, conv_in=torch.ones(7, 4, 3, 3)),
            )


FLOATS = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)


class TestDtypes:
    @pytest.mark.parametrize("other", FLOATS, ids=str)
    @pytest.mark.parametrize("first", FLOATS, ids=str)
    def test_parents_of_any_two_float_dtypes_are_merged(
        self, first: torch.dtype, other: torch.dtype, parents: Opener
    ) -> None:
        found = parents(
            {key: row.to(first) for key, row in tensors_of(1.5).items()},
            {key: row.to(other) for key, row in tensors_of(0.5).items()},
        )
        for key, info in found.tensors.items():
            assert found.is_merged(key)
            assert info.dtype == found.info(key, 0).dtype == found.tensor(key, 0).dtype == first
            assert found.info(key, 1).dtype == found.tensor(key, 1).dtype == other
            assert torch.equal(found.tensor(key, 1).float(), torch.full(info.shape, 0.5))

    @pytest.mark.parametrize("other", FLOATS, ids=str)
    @pytest.mark.parametrize("first", FLOATS, ids=str)
    def test_channels_are_extended_in_a_dtype_that_holds_both(
        self, first: torch.dtype, other: torch.dtype, parents: Opener
    ) -> None:
        wide, narrow = torch.randn(6, 9, 3, 3).to(first), torch.randn(6, 4, 3, 3).to(other)
        found = parents(tensors_of(1, conv_in=wide), tensors_of(2, conv_in=narrow))
        extended = found.tensor(CONV_IN, 1)
        assert found.info(CONV_IN, 1) == TensorInfo(extended.dtype, tuple(extended.shape))
        assert torch.equal(extended.double()[:, :4], narrow.double())
        assert torch.equal(extended.double()[:, 4:], wide.double()[:, 4:])


def test_parents_of_every_kind_of_file_merge_with_each_other(tmp_path: Path) -> None:
    """A .ckpt with other names beside a .safetensors: the same keys, the same values."""
    tensors = random_tensors("sd15", 1)
    save_file(tensors, tmp_path / "a.safetensors")
    nai = {key.replace(".transformer.text_model.", ".transformer."): row.float() for key, row in tensors.items()}
    torch.save({"state_dict": nai}, tmp_path / "b.ckpt")
    found = Parents.of([Checkpoint.open(tmp_path / "a.safetensors"), Checkpoint.open(tmp_path / "b.ckpt")])
    for key, info in found.tensors.items():
        assert found.is_merged(key) == info.dtype.is_floating_point
        assert torch.equal(found.tensor(key, 1).to(info.dtype), found.tensor(key, 0))
