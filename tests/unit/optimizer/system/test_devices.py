"""Which device computes: none that cannot, and with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from merge_cases import Case

from optimizer.errors import RenderError
from optimizer.rendering.models import live_dtypes
from optimizer.runtime.device_choice import choose_device, component_dtypes, render_dtype
from optimizer.system.devices import fault_of, usual_device
from studies.recipe.recipe import DtypeName
from studies.spec.rendering import RenderSettings

OLD_DRIVER = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver."
OLD_CARD = "CUDA error: no kernel image is available for execution on the device"


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    for asked in (fault_of, usual_device):
        asked.cache_clear()
    yield
    for asked in (fault_of, usual_device):
        asked.cache_clear()


@pytest.fixture
def card_says(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine whose card gives an error at its first use, as torch's own first step there does."""

    def begin() -> None:
        raise RuntimeError(f"{request.param}\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.")

    monkeypatch.setattr(torch.cuda, "_lazy_init", begin)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return str(request.param)


@pytest.mark.parametrize("card_says", [OLD_DRIVER, OLD_CARD], indirect=True)
def test_a_card_that_cannot_compute_is_told_once_and_the_processor_taken(
    card_says: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert [choose_device("auto") for _ in range(3)] == [torch.device("cpu")] * 3
    assert caplog.messages == [f"the graphics card is not used, since it cannot compute: {card_says}"]
    with pytest.raises(RenderError) as refused:
        choose_device("cuda:0")
    assert str(refused.value).startswith(f"device 'cuda:0' cannot be used ({card_says}): ")
    assert "cu126" in str(refused.value)  # as much CUDA as an old driver or card can do


@pytest.mark.parametrize(
    "card_says", ["No CUDA GPUs are available", "Found no NVIDIA driver on your system."], indirect=True
)
def test_where_there_is_no_card_nothing_is_said(card_says: str, caplog: pytest.LogCaptureFixture) -> None:
    assert choose_device("auto") == torch.device("cpu")
    assert caplog.messages == []
    with pytest.raises(RenderError, match=card_says):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("card_says", "advice"),
    [
        ("Torch not compiled with CUDA enabled", "this torch has no CUDA: `pip install --force-reinstall torch"),
        ("Found no NVIDIA driver on your system.", "install NVIDIA's driver"),
        ("No CUDA GPUs are available", "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES"),
        ("CUDA error: invalid device ordinal", "`nvidia-smi -L` lists them"),
    ],
    indirect=["card_says"],
)
@pytest.mark.usefixtures("card_says")
def test_what_to_do_about_a_missing_card_is_said(advice: str) -> None:
    with pytest.raises(RenderError) as refused:
        choose_device("cuda")
    assert advice in str(refused.value)
    assert str(refused.value).endswith("Or write auto, which takes what works")


def test_this_machine_says_what_to_do_where_it_has_no_card() -> None:
    if torch.cuda.is_available():
        pytest.skip("it has one")
    with pytest.raises(RenderError, match="Or write auto"):
        choose_device("cuda")


@pytest.mark.parametrize("card_says", ["CUDA out of memory. Tried to allocate 2.00 MiB."], indirect=True)
@pytest.mark.usefixtures("card_says")
def test_a_full_card_is_a_card() -> None:
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")


@pytest.mark.parametrize("name", ["meta", "nonsense", "cpu:x"])
def test_what_gives_nothing_back_is_refused(name: str) -> None:
    with pytest.raises(RenderError, match=f"device '{name}' cannot be used"):
        choose_device(name)


def test_a_processor_works() -> None:
    assert choose_device("cpu") == torch.device("cpu")


class TestDtype:
    """What a card computes in; a merge that is saved in bfloat16 may hold what float16 cannot."""

    @pytest.mark.parametrize(
        ("stored", "export", "capability", "expected"),
        [
            (torch.bfloat16, None, (8, 0), torch.bfloat16),
            (torch.bfloat16, None, (7, 5), torch.float16),
            (torch.float16, None, (9, 0), torch.float16),
            (torch.float32, None, (9, 0), torch.float16),
            (torch.float16, "bf16", (9, 0), torch.bfloat16),
            (torch.bfloat16, "fp16", (9, 0), torch.float16),
        ],
    )
    def test_what_is_saved_in_bfloat16_is_rendered_so_by_cards_that_have_it(
        self,
        stored: torch.dtype,
        export: DtypeName | None,
        capability: tuple[int, int],
        expected: torch.dtype,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
        case = Case(dtypes=((stored,), (torch.float32,)))
        found = component_dtypes(case.open(tmp_path), RenderSettings(), torch.device("cuda"), export)
        assert found == live_dtypes(torch.device("cuda"), expected)
        cpu = torch.device("cpu")
        assert component_dtypes(case.open(tmp_path), RenderSettings(), cpu, export) == live_dtypes(cpu, torch.float32)

    def test_what_the_spec_says_holds(self, tmp_path: Path) -> None:
        case = Case(dtypes=((torch.bfloat16,), (torch.bfloat16,)))
        found = component_dtypes(case.open(tmp_path), RenderSettings(dtype="fp32"), torch.device("cuda"), None)
        assert set(found.values()) == {torch.float32}


@pytest.mark.parametrize(
    ("device", "dtype", "reason"),
    [
        ("cpu", "auto", "fp32 on cpu"),
        ("cpu", "fp32", "fp32 on cpu"),
        ("cuda", "bf16", "bf16 on cuda"),
        ("mps", "auto", "fp16 on mps"),
    ],
)
def test_sums_in_fp16_are_refused_where_nothing_is_summed_so(device: str, dtype: str, reason: str) -> None:
    settings = RenderSettings.model_validate({"dtype": dtype, "fp16_accumulation": True})
    with pytest.raises(RenderError, match=f"this one is rendered in {reason}: leave it out"):
        render_dtype(settings, torch.device(device))
    assert render_dtype(settings.model_copy(update={"dtype": "fp16"}), torch.device("cuda")) == torch.float16
