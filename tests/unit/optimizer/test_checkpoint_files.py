"""Opening, identifying and comparing checkpoint files."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from optimizer.errors import CheckpointError, ParentsDifferError
from optimizer.merging.checkpoint import (
    Checkpoint,
    TensorInfo,
    compare_parents,
    data_hash,
    is_mergeable,
    legacy_hash,
    letters,
    read_header,
    sha256_of,
    total_bytes,
)
from search_spaces.blocks import Architecture

UNET = "model.diffusion_model.input_blocks.0.0.weight"
TEXT = "cond_stage_model.transformer.text_model.final_layer_norm.weight"


def tiny(path: Path, extra: Mapping[str, Tensor] | None = None, width: int = 4) -> Path:
    """A file that is recognised as SD1.5, of two tensors and what is added."""
    tensors = {UNET: torch.ones(width, 4, 3, 3), TEXT: torch.ones(8, dtype=torch.float16)} | dict(extra or {})
    save_file(tensors, path, metadata={"format": "pt", "title": "tiny"})
    return path


def raw(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def table(**changes: Any) -> bytes:
    row = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    return json.dumps({"w": row}).encode()


class TestOpening:
    def test_tensors_come_in_the_order_of_their_data_with_dtype_and_shape(self, tmp_path: Path) -> None:
        header = json.dumps(
            {
                "late": {"dtype": "F16", "shape": [2], "data_offsets": [8, 12]},
                "__metadata__": {"format": "pt", "note": "größer"},
                "early": {"dtype": "I64", "shape": [1, 1], "data_offsets": [0, 8]},
            }
        ).encode()
        checkpoint = Checkpoint.open(raw(tmp_path / "a.safetensors", header, b"\0" * 12))
        assert list(checkpoint.tensors.items()) == [
            ("early", TensorInfo(torch.int64, (1, 1))),
            ("late", TensorInfo(torch.float16, (2,))),
        ]
        assert checkpoint.metadata == {"format": "pt", "note": "größer"}
        assert total_bytes(checkpoint.tensors.values()) == 12

    def test_a_tensor_reads_as_it_was_saved(self, tmp_path: Path) -> None:
        saved = {"half": torch.randn(3, 5).half(), "scalar": torch.tensor(4.5), "none": torch.zeros(0)}
        checkpoint = Checkpoint.open(tiny(tmp_path / "a.safetensors", saved))
        for key, tensor in saved.items():
            assert torch.equal(checkpoint.tensor(key), tensor)
            assert checkpoint.tensor(key).dtype == tensor.dtype

    @pytest.mark.parametrize("metadata", [None, {}])
    def test_a_file_without_metadata_has_none(self, tmp_path: Path, metadata: dict[str, str] | None) -> None:
        save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", metadata=metadata)
        assert Checkpoint.open(tmp_path / "a.safetensors").metadata == {}

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"no checkpoint at .*absent\.safetensors"):
            Checkpoint.open(tmp_path / "absent.safetensors")

    def test_a_folder_is_no_checkpoint(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="is a folder"):
            Checkpoint.open(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"\x05\0\0", id="shorter than a length"),
            pytest.param(b"model: A\nThis is a text file, no checkpoint.\n", id="text"),
            pytest.param(b"\x80\x02}q\0X" + b"\0" * 64, id="pickle"),
            pytest.param(struct.pack("<Q", 2**63) + b"{}", id="absurd length"),
            pytest.param(struct.pack("<Q", 100) + b'{"w":', id="header cut off"),
            pytest.param(struct.pack("<Q", 0) + b"{}", id="no header"),
        ],
    )
    def test_what_has_no_header_is_not_safetensors(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "bad.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"bad\.safetensors is not a \.safetensors file"):
            Checkpoint.open(path)

    @pytest.mark.parametrize(
        "header",
        [
            pytest.param(b'{"w": nonsense}', id="not JSON"),
            pytest.param(b"\xff\xfe\x00\x01", id="not UTF-8"),
            pytest.param(b"[" * 100_000, id="nested too deep"),
            pytest.param(b"[1, 2]", id="a list"),
            pytest.param(b'{"w": 3}', id="no row"),
            pytest.param(table(dtype="F99"), id="unknown dtype"),
            pytest.param(table(shape=None), id="no shape"),
            pytest.param(table(shape=[3]), id="shape and offsets differ"),
            pytest.param(table(data_offsets=[0]), id="half an offset"),
            pytest.param(table(data_offsets=["0", "x"]), id="offsets as text"),
            pytest.param(table(data_offsets=[0, float("inf")]), id="endless"),
        ],
    )
    def test_a_damaged_header_is_said_to_be_one(self, tmp_path: Path, header: bytes) -> None:
        path = raw(tmp_path / "bad.safetensors", header, b"\0" * 8)
        with pytest.raises(CheckpointError, match=r"bad\.safetensors (has a damaged|cannot be read)"):
            Checkpoint.open(path)

    def test_data_that_is_cut_off_is_told_with_the_sizes(self, tmp_path: Path) -> None:
        path = tiny(tmp_path / "short.safetensors")
        content = path.read_bytes()
        path.write_bytes(content[:-10])
        with pytest.raises(CheckpointError, match=rf"cut off: .*{len(content):,} bytes.*{len(content) - 10:,}"):
            Checkpoint.open(path)

    @pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux only")
    def test_a_file_that_the_system_refuses_to_read_is_a_checkpoint_error(self) -> None:
        with pytest.raises(CheckpointError, match="/proc/self/mem"):
            Checkpoint.open(Path("/proc/self/mem"))  # it exists, and reading it fails, even for root

    @settings(max_examples=200, deadline=None)
    @given(
        st.one_of(
            st.binary(max_size=40),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["w", "__metadata__", "dtype", "shape", "data_offsets"]), inner)
                ),
                max_leaves=8,
            ).map(lambda value: json.dumps(value).encode()),
        )
    )
    def test_whatever_stands_in_the_header_is_read_or_refused_in_words(
        self, tmp_path_factory: pytest.TempPathFactory, header: bytes
    ) -> None:
        path = raw(tmp_path_factory.getbasetemp() / "fuzz.safetensors", header)
        try:
            checkpoint = Checkpoint.open(path)
        except CheckpointError:
            return
        assert dict(checkpoint.tensors) == {} or json.loads(header)
        assert isinstance(checkpoint.metadata, dict)


class TestIdentity:
    def test_whole_file_hash_matches_hashlib_and_reports_progress(self, tmp_path: Path) -> None:
        path = tmp_path / "a.bin"
        content = bytes(range(256)) * 40_000  # more than two chunks
        path.write_bytes(content)
        seen: list[int] = []
        assert sha256_of(path, seen.append) == hashlib.sha256(content).hexdigest()
        assert sum(seen) == len(content)
        assert len(seen) > 2

    def test_legacy_hash_is_that_of_64_kib_at_one_mib(self, tmp_path: Path) -> None:
        path = tmp_path / "a.bin"
        content = bytes(index * 7 % 251 for index in range(0x100000 + 0x10000 + 99))
        path.write_bytes(content)
        assert legacy_hash(path) == hashlib.sha256(content[1_048_576:1_114_112]).hexdigest()[:8]

    def test_legacy_hash_of_a_small_file_is_that_of_nothing(self, tmp_path: Path) -> None:
        assert legacy_hash(tiny(tmp_path / "a.safetensors")) == "e3b0c442"  # as A1111 shows it

    def test_data_hash_leaves_the_header_out(self, tmp_path: Path) -> None:
        one, other = tiny(tmp_path / "one.safetensors"), tmp_path / "other.safetensors"
        header = int.from_bytes(one.read_bytes()[:8], "little")
        data = one.read_bytes()[8 + header :]
        raw(other, one.read_bytes()[8 : 8 + header] + b" " * 8, data)
        assert data_hash(one) == data_hash(other) == hashlib.sha256(data).hexdigest()
        assert Checkpoint.open(one).sha256 != Checkpoint.open(other).sha256

    def test_an_unknown_model_is_described(self, tmp_path: Path) -> None:
        save_file({"lora_unet_x.lora_up.weight": torch.ones(2)}, tmp_path / "l.safetensors")
        with pytest.raises(CheckpointError, match=r"l\.safetensors: .*a LoRA"):
            _ = Checkpoint.open(tmp_path / "l.safetensors").architecture


class TestMergeable:
    @pytest.mark.parametrize(
        ("key", "dtype", "expected"),
        [
            (UNET, torch.float16, True),
            (UNET, torch.int8, False),
            ("first_stage_model.decoder.conv_in.weight", torch.bfloat16, True),
            ("cond_stage_model.transformer.text_model.embeddings.position_ids", torch.int64, False),
            ("cond_stage_model.transformer.text_model.embeddings.position_ids", torch.float16, False),
            ("model_ema.diffusion_modelinput_blocks00weight", torch.float32, False),
            ("alphas_cumprod", torch.float32, False),
            ("v_pred", torch.float32, False),
            ("model.diffusion_model.input_blocks.77.0.weight", torch.float32, False),
        ],
    )
    def test_ratios_apply_to_weights_only(self, key: str, dtype: torch.dtype, expected: bool) -> None:
        assert is_mergeable(key, TensorInfo(dtype, (4,)), Architecture.SD15) is expected


class TestComparingParents:
    def test_equal_layouts_differ_in_nothing(self, tmp_path: Path) -> None:
        parents = [Checkpoint.open(tiny(tmp_path / f"{name}.safetensors")) for name in "ab"]
        assert compare_parents(parents).missing == {"B": ()}
        assert compare_parents(parents).extra == {"B": ()}
        assert compare_parents(parents[:1]).missing == {}

    def test_keys_of_one_parent_only_are_named_sorted(self, tmp_path: Path) -> None:
        first = Checkpoint.open(tiny(tmp_path / "a.safetensors", {"z": torch.ones(1), "y": torch.ones(1)}))
        second = Checkpoint.open(tiny(tmp_path / "b.safetensors"))
        third = Checkpoint.open(tiny(tmp_path / "c.safetensors", {"y": torch.ones(1), "x": torch.ones(1)}))
        differences = compare_parents([first, second, third])
        assert differences.missing == {"B": ("y", "z"), "C": ("z",)}
        assert differences.extra == {"B": (), "C": ("x",)}

    def test_another_architecture_is_refused(self, tmp_path: Path) -> None:
        first = Checkpoint.open(tiny(tmp_path / "a.safetensors"))
        keys = (UNET, "conditioner.embedders.0.transformer.w", "conditioner.embedders.1.model.w")
        save_file({key: torch.ones(2) for key in keys}, tmp_path / "xl.safetensors")
        with pytest.raises(ParentsDifferError, match=r"A \(a\.safetensors\) is sd15, B \(xl\.safetensors\) is sdxl"):
            compare_parents([first, Checkpoint.open(tmp_path / "xl.safetensors")])

    def test_other_shapes_are_refused_naming_the_first_three(self, tmp_path: Path) -> None:
        keys = [f"model.diffusion_model.middle_block.0.{index}" for index in range(5)]
        first = Checkpoint.open(tiny(tmp_path / "a.safetensors", {key: torch.ones(2, 3) for key in keys}))
        second = Checkpoint.open(tiny(tmp_path / "b.safetensors", {key: torch.tensor(1.0) for key in keys}))
        with pytest.raises(ParentsDifferError, match=r"b\.safetensors has other shapes .* in 5 tensors") as error:
            compare_parents([first, second])
        named = [key for key in keys if key in str(error.value)]
        assert len(named) == 3
        assert f"{named[0]} is 2x3 in A and a number in B" in str(error.value)

    def test_an_inpainting_model_does_not_merge_with_a_plain_one(self, tmp_path: Path) -> None:
        first = Checkpoint.open(tiny(tmp_path / "a.safetensors"))
        second = Checkpoint.open(tiny(tmp_path / "b.safetensors", {UNET: torch.ones(4, 9, 3, 3)}))
        with pytest.raises(ParentsDifferError, match=f"{UNET} is 4x4x3x3 in A and 4x9x3x3 in B"):
            compare_parents([first, second])

    def test_parents_are_lettered_in_order(self) -> None:
        assert letters(3) == ("A", "B", "C")


def test_header_and_data_end_exactly_at_the_end_of_the_file(tmp_path: Path) -> None:
    path = tiny(tmp_path / "a.safetensors")
    tensors, _ = read_header(path)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert 8 + header + total_bytes(tensors.values()) == path.stat().st_size
