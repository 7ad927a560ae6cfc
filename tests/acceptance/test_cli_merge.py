"""`mergetune merge` as a user types it: recipes written by hand, taken from a trial, and read back from a file."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import Call, caller, enter, run_program
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from slow_cases import first_fast, slow_but
from torch import Tensor

import studies
from optimizer.cli import main
from optimizer.cli.commands import merge

DEMO = Path(studies.__file__).parent / "demo"
ROOT = Path(__file__).parents[2]
KEY = "model.diffusion_model.middle_block.0.in_layers.2.weight"
VAE = "first_stage_model."
EXPORT = "best.safetensors"
CHAIN: Mapping[str, Any] = {
    "parents": ["a.safetensors", "b.safetensors"],
    "steps": [
        {"method": "slerp", "values": {"B": {"preset": "GRAD_V", "base": 0.5}}},
        {"method": "dare_linear", "inputs": ["result", "B"], "values": {"B": 0.3, "density": 0.4}, "seed": 7},
    ],
    "loras": [{"path": "style.safetensors", "weight": {"unet": 0.5}}],
    "vae": "vae.safetensors",
    "dtype": "bf16",
}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def same_tensors(one: Path, other: Path) -> bool:
    """Equal keys, dtypes and bits."""
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(
        tensor.dtype == second[key].dtype and torch.equal(tensor.view(-1).view(torch.uint8), raw(second[key]))
        for key, tensor in first.items()
    )


def raw(tensor: Tensor) -> Tensor:
    return tensor.view(-1).view(torch.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, a LoRA and a VAE; read only."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copy(DEMO / "animals.safetensors", folder / "a.safetensors")
    shutil.copy(DEMO / "foods.safetensors", folder / "b.safetensors")
    tensors = load_file(folder / "b.safetensors")
    save_file(
        {key.removeprefix(VAE): row * 0.9 for key, row in tensors.items() if key.startswith(VAE)},
        folder / "vae.safetensors",
    )
    key = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    size_out, size_in = tensors[key].shape
    generator = torch.Generator().manual_seed(0)
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    save_file(
        {
            f"{name}.lora_up.weight": torch.randn(size_out, 2, generator=generator) * 0.05,
            f"{name}.lora_down.weight": torch.randn(2, size_in, generator=generator) * 0.05,
            f"{name}.alpha": torch.tensor(2.0),
        },
        folder / "style.safetensors",
    )
    (folder / "chain.yaml").write_text(yaml.safe_dump(dict(CHAIN) | {"loras": [{"path": "style.safetensors"}]}))
    return folder


@pytest.fixture
def folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files linked in."""
    return enter(tmp_path, monkeypatch, files)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """`mergetune ARGUMENTS` in this process and the current folder."""
    threads = torch.get_num_threads()
    found = caller(monkeypatch, capsys)
    yield lambda *arguments, code=0: found(*arguments, code=code)
    torch.set_num_threads(threads)  # a file is made again with as many as it was made with


class TestByHand:
    def test_a_process_merges_as_the_recipe_says_wherever_it_is_called_from(self, folder: Path) -> None:
        (folder / "r").mkdir()
        weights = [0.25] + [round(0.04 * index, 2) for index in range(25)]
        recipe = {
            "parents": {"A": "../a.safetensors", "B": {"path": "../b.safetensors"}},
            "ratio": ", ".join(map(str, weights)),
            "dtype": "fp32",
        }
        (folder / "r" / "sum.json").write_text(json.dumps(recipe))
        said = run_program(folder, "merge", "r/sum.json", "-o", "out.safetensors", threads=1)
        assert f"AutoV2 hash {sha256(folder / 'out.safetensors')[:10]}" in said
        first, second = load_file("a.safetensors"), load_file("b.safetensors")
        made = load_file("out.safetensors")
        prefixes = {"cond_stage_model.": 0.25, "model.diffusion_model.middle_block.": weights[13], VAE: 0.0}
        prefixes |= {f"model.diffusion_model.input_blocks.{n}.": weights[1 + n] for n in range(12)}
        prefixes |= {f"model.diffusion_model.output_blocks.{n}.": weights[14 + n] for n in range(12)}
        prefixes |= {"model.diffusion_model.time_embed.": weights[1], "model.diffusion_model.out.": weights[25]}
        assert made.keys() == first.keys()
        for key, tensor in made.items():
            if tensor.is_floating_point():
                ratio = next(ratio for prefix, ratio in prefixes.items() if key.startswith(prefix))
                wanted = first[key].double().lerp(second[key].double(), ratio)
                torch.testing.assert_close(tensor.double(), wanted, rtol=1e-6, atol=1e-7)

    def test_the_documented_recipes_are_merged(self, folder: Path, call: Call) -> None:
        shutil.copy("a.safetensors", "c.safetensors")
        shutil.copy("style.safetensors", "detail.safetensors")
        page = (ROOT / "docs" / "reference" / "recipes.md").read_text()
        recipes = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
        assert len(recipes) == 2
        for number, text in enumerate(recipes):
            (folder / "recipe.yaml").write_text(text)
            said = call("merge", "recipe.yaml", "-o", f"{number}.safetensors")
            assert f"wrote {number}.safetensors" in said.out
        wanted = 0.6 * load_file("a.safetensors")[KEY].float() + 0.4 * load_file("b.safetensors")[KEY].float()
        torch.testing.assert_close(load_file("0.safetensors")[KEY].float(), wanted, rtol=1e-3, atol=1e-4)

    def test_notes_title_and_dtype_are_the_users(self, folder: Path, call: Call) -> None:
        (folder / "r.yaml").write_text("parents: [a.safetensors, b.safetensors]\nsteps: []\ndtype: fp32\n")
        said = call(
            "merge", "r.yaml", "-o", "o.safetensors", "--title", "My merge", "--dtype", "fp16", "--device", "cpu"
        )
        assert "parent B is not used by any step" in said.out
        assert metadata(folder / "o.safetensors")["modelspec.title"] == "My merge"
        assert json.loads(metadata(folder / "o.safetensors")["mergetune.recipe"])["dtype"] == "fp16"
        first, made = load_file("a.safetensors"), load_file("o.safetensors")
        assert all(torch.equal(made[key], tensor) for key, tensor in first.items())

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("marks", "says", "words"),
        [
            ({"ztsnr": torch.zeros(0)}, {}, "odd.safetensors is marked ztsnr"),
            ({}, {"modelspec.prediction_type": "v-prediction"}, "modelspec.prediction_type 'v-prediction'"),
        ],
    )
    def test_unclear_marks_are_a_note_and_stay_as_they_are(
        self, marks: Mapping[str, Tensor], says: Mapping[str, str], words: str, folder: Path, call: Call
    ) -> None:
        save_file({**load_file("b.safetensors"), **marks}, "odd.safetensors", dict(says))
        (folder / "r.yaml").write_text("parents: [odd.safetensors, a.safetensors]\nratio: 0.5\n")
        (folder / "s.yaml").write_text("parents: [a.safetensors, odd.safetensors]\nratio: 0.5\n")
        for command, letter, stated in (
            (("merge", "r.yaml"), "A", says),
            (("merge", "s.yaml"), "B", {"modelspec.prediction_type": "epsilon"}),
            (("lora", "bake", "odd.safetensors", "style.safetensors"), "it", says),
        ):
            said = call(*command, "-o", "o.safetensors", "--force").out
            assert re.search(f"it is not known what {letter} predicts: .*{words}", said)
            assert "suite: {" not in said  # a recipe has none
            found = metadata(folder / "o.safetensors")
            assert {key: found[key] for key in found if key == "modelspec.prediction_type"} == stated
        assert "ztsnr" not in marks or "ztsnr" in load_file("o.safetensors")
        call("merge", "o.safetensors", "-o", "again.safetensors", "--models", ".")
        assert sha256(folder / "again.safetensors") == sha256(folder / "o.safetensors")

    @pytest.mark.slow
    def test_a_flow_keeps_its_shift_and_one_that_is_only_called_so_is_a_note(self, folder: Path, call: Call) -> None:
        flow = {"modelspec.prediction_type": "flow", "mergetune.shift": "6"}
        save_file(load_file("a.safetensors"), "flow.safetensors", flow)
        save_file(load_file("b.safetensors"), "bigASP_v2.5.safetensors", {})
        (folder / "r.yaml").write_text("parents: [flow.safetensors, bigASP_v2.5.safetensors]\nratio: 0.5\n")
        said = call("merge", "r.yaml", "-o", "o.safetensors").out
        assert "A predicts flow but B predicts epsilon" in said
        assert "bigASP_v2.5.safetensors is called like a model that follows a flow" in said
        assert "suite: {" not in said  # a recipe has none
        made = metadata(folder / "o.safetensors")
        assert {key: made[key] for key in flow} == {"modelspec.prediction_type": "flow", "mergetune.shift": "6.0"}
        assert "ModelSamplingSD3 with shift 6 " in made["modelspec.usage_hint"]
        call("merge", "o.safetensors", "-o", "again.safetensors", "--models", ".")
        assert sha256(folder / "again.safetensors") == sha256(folder / "o.safetensors")
        call("lora", "bake", "flow.safetensors", "style.safetensors", "-o", "baked.safetensors")
        assert metadata(folder / "baked.safetensors")["mergetune.shift"] == "6.0"

    def test_an_existing_file_is_replaced_only_on_demand_and_a_source_never(self, folder: Path, call: Call) -> None:
        (folder / "o.safetensors").write_text("mine")
        assert "--force" in call("merge", "chain.yaml", "-o", "o.safetensors", code=2).err
        assert (folder / "o.safetensors").read_text() == "mine"
        for source, what in (("a", "parent A"), ("style", "LoRA style"), ("vae", "VAE")):
            before = sha256(folder / f"{source}.safetensors")
            refused = call("merge", "chain.yaml", "-o", f"{source}.safetensors", "--force", code=2)
            assert f"{source}.safetensors is" in refused.err
            assert what in refused.err
            assert sha256(folder / f"{source}.safetensors") == before
        assert call("merge", "chain.yaml", "-o", "o.safetensors", "--force").code == 0
        assert load_file("o.safetensors")


@pytest.mark.parametrize(
    ("changes", "meant"),
    first_fast(
        2,
        [
            ({"ratio": 50}, "did you mean 0.5?"),
            ({"ratio": 0.5, "loras": [{"path": "style.safetensors", "weight": {"IN*": 80}}]}, "did you mean 0.8?"),
            ({"values": {"B": {"M00": 0.5, "OUT*": -30}}}, "did you mean -0.3?"),
            ({"ratio": ",".join(["0.5"] * 25 + ["7"])}, "is 7 in OUT11, far beyond -1 to 2: did you mean 0.7?"),
            ({"values": {"B": {"preset": "GRAD_V", "base": 25}}}, "did you mean 0.25?"),
            (
                {"steps": [{"method": "add_difference", "inputs": ["A", "B", "C"], "values": {"difference": 100}}]},
                "mean 1?",
            ),
        ],
    ),
)
def test_numbers_that_no_merge_uses_are_refused_unless_the_user_insists(
    folder: Path, call: Call, changes: dict[str, Any], meant: str
) -> None:
    parents = ["a.safetensors", "b.safetensors"] + (["a.safetensors"] if "steps" in changes else [])
    (folder / "odd.yaml").write_text(yaml.safe_dump({"parents": parents, **changes}))
    refused = call("merge", "odd.yaml", "-o", "odd.safetensors", code=2).err
    assert refused.count("\n") == 1
    assert "far beyond" in refused
    assert meant in refused
    assert "--force" in refused
    assert not (folder / "odd.safetensors").exists()
    assert meant in call("merge", "odd.yaml", "-o", "odd.safetensors", "--force").err
    assert (folder / "odd.safetensors").exists()
    assert yaml.safe_load(call("merge", "odd.yaml", "--show").out)["parents"]


@pytest.fixture(scope="module")
def merged(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the chain makes, by another count of threads than this process has."""
    target = tmp_path_factory.mktemp("merged") / "chain.safetensors"
    run_program(files, "merge", "chain.yaml", "-o", str(target), threads=torch.get_num_threads() + 1)
    return target


class TestAgain:
    def test_its_own_file_gives_the_same_file_from_renamed_models(
        self, merged: Path, files: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A chain with a random method, a LoRA and a baked VAE, whose files have other names now."""
        monkeypatch.chdir(tmp_path)
        deep = tmp_path / "models" / "more"
        deep.mkdir(parents=True)
        for number, file in enumerate(files.glob("*.safetensors")):
            shutil.copy(file, deep / f"model {number}.safetensors")
        (tmp_path / "models" / "back").symlink_to(tmp_path / "models")  # must not be followed for ever
        said = call("merge", merged, "-o", "again.safetensors", "--models", "models")
        assert "equal to chain.safetensors, bit for bit" in said.out
        assert said.err == ""
        assert sha256(tmp_path / "again.safetensors") == sha256(merged)

    @pytest.mark.slow
    def test_files_may_be_named_one_by_one_and_are_checked(self, merged: Path, folder: Path, call: Call) -> None:
        lora, vae = ("--lora", "style=style.safetensors"), ("--vae", "vae.safetensors")
        where = ("--parent", "A=a.safetensors", "--parent", "B=b.safetensors", *lora, *vae)
        assert "bit for bit" in call("merge", merged, "-o", "again.safetensors", *where).out
        assert sha256(folder / "again.safetensors") == sha256(merged)
        swapped = ("--parent", "A=b.safetensors", "--parent", "B=b.safetensors", *lora, *vae)
        refused = call("merge", merged, "-o", "other.safetensors", *swapped, code=2)
        assert "parent A: b.safetensors has the sha256" in refused.err
        assert sha256(folder / "a.safetensors") in refused.err
        assert not (folder / "other.safetensors").exists()

    def test_what_is_missing_is_named_with_its_sha256(self, merged: Path, folder: Path, call: Call) -> None:
        (folder / "some").mkdir()
        shutil.copy("b.safetensors", "some/b.safetensors")
        refused = call("merge", merged, "-o", "again.safetensors", "--models", "some", code=2)
        assert refused.err.count("\n") == 1
        for name, what in (("a", "parent A (a"), ("style", "LoRA style (style"), ("vae", "the VAE (vae")):
            assert f"{what}, sha256 {sha256(folder / f'{name}.safetensors')})" in refused.err
        assert "parent B" not in refused.err

    @pytest.mark.parametrize("source", slow_but(["merged", "chain.yaml"], "chain.yaml"))
    def test_show_prints_a_recipe_file_that_gives_the_same_tensors(
        self, source: str, merged: Path, folder: Path, call: Call
    ) -> None:
        arguments = (merged, "--models", ".") if source == "merged" else (source,)
        shown = call("merge", "--show", *arguments).out
        (folder / "elsewhere").mkdir()
        (folder / "elsewhere" / "shown.yaml").write_text(shown)
        assert yaml.safe_load(shown)["parents"]["A"]["sha256"] == sha256(folder / "a.safetensors")
        call("merge", "elsewhere/shown.yaml", "-o", "shown.safetensors")
        assert same_tensors(folder / "shown.safetensors", merged)

    def test_show_needs_no_files(
        self, merged: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        shown = yaml.safe_load(call("merge", "--show", merged).out)
        assert shown["loras"] == [{**shown["loras"][0], "path": "style.safetensors", "weight": 1.0}]
        assert [step["method"] for step in shown["steps"]] == ["slerp", "dare_linear"]
        assert (shown["steps"][1]["seed"], shown["steps"][1]["values"]) == (7, {"B": 0.3, "density": 0.4})

    @pytest.mark.parametrize(
        "words", first_fast(2, ["r.yaml", "half.safetensors --models .", "half.safetensors --parent"])
    )
    def test_a_file_that_changes_after_it_was_hashed_is_refused(
        self, words: str, folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "r.yaml").write_text("parents: [a.safetensors, own.safetensors]\nratio: 0.5\n")
        shutil.copy("b.safetensors", "own.safetensors")
        (folder / "b.safetensors").unlink()
        if words != "r.yaml":
            call("merge", "r.yaml", "-o", "half.safetensors")
        given = ("A=a.safetensors", "--parent", "B=own.safetensors") if words.endswith("--parent") else ()
        opened = merge._open_ingredients

        def changing(*arguments: Any) -> Any:
            shutil.copy("a.safetensors", "own.safetensors")
            return opened(*arguments)

        monkeypatch.setattr(merge, "_open_ingredients", changing)
        refused = call("merge", *words.split(), *given, "-o", "out.safetensors", code=2)
        assert re.search(r"parent B \(.*own.safetensors\) has changed since it was opened", refused.err)
        assert not (folder / "out.safetensors").exists()

    @pytest.mark.slow
    def test_another_dtype_is_another_file_with_its_own_recipe(self, merged: Path, folder: Path, call: Call) -> None:
        call("merge", merged, "-o", "wide.safetensors", "--models", ".", "--dtype", "fp32")
        assert json.loads(metadata(folder / "wide.safetensors")["mergetune.recipe"])["dtype"] == "fp32"
        wide, narrow = load_file("wide.safetensors"), load_file(merged)
        for key, tensor in narrow.items():
            if tensor.dtype == torch.bfloat16:
                torch.testing.assert_close(wide[key].bfloat16(), tensor)

    @pytest.mark.slow
    def test_a_file_of_another_device_is_made_with_a_warning(self, folder: Path, call: Call) -> None:
        (folder / "r.yaml").write_text("parents: [a.safetensors, b.safetensors]\nratio: 0.5\n")
        call("merge", "r.yaml", "-o", "here.safetensors")
        save_file(
            load_file("here.safetensors"),
            "there.safetensors",
            metadata(folder / "here.safetensors") | {"mergetune.device": "tpu"},
        )
        said = call("merge", "there.safetensors", "-o", "again.safetensors", "--models", ".")
        assert "there.safetensors was computed on tpu, this merge is computed on cpu" in said.err
        assert "not equal to there.safetensors" in said.err
        assert metadata(folder / "again.safetensors")["mergetune.device"] == "cpu"
        assert same_tensors(folder / "again.safetensors", folder / "here.safetensors")


@pytest.fixture(scope="module")
def studied(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short study of a chain with a LoRA and a VAE, and the export of a trial of it."""
    folder = tmp_path_factory.mktemp("study")
    spec = {
        "study": "short",
        "parents": [str(files / "a.safetensors"), str(files / "b.safetensors")],
        "steps": [{"method": "slerp"}, {"method": "dare_linear", "inputs": ["result", "B"], "seed": 5}],
        "loras": {"style": {"path": str(files / "style.safetensors"), "weight": 0.5}},
        "vae": str(files / "vae.safetensors"),
        "suite": {"prompts": ["a fox"], "sizes": [64], "steps": 1},
        "scorers": {"sharpness": None},
        "budget": {"trials": 4},
        "render": {"device": "cpu", "degenerate_limit": 1},
        "export": {"dtype": "fp16"},
    }
    (folder / "short.yaml").write_text(yaml.safe_dump(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arguments in (("study", "start", "short.yaml"), ("export", "short", "--trial", "3", "-o", EXPORT)):
            patch.setattr(sys, "argv", ["mergetune", *arguments])
            with pytest.raises(SystemExit) as left:
                main.run()
            assert left.value.code == 0
    return folder


class TestOfAStudy:
    @pytest.fixture
    def here(self, studied: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(studied)
        return studied

    def test_an_export_is_made_again_from_its_parents_to_the_bit(self, here: Path, files: Path, call: Call) -> None:
        said = call("merge", EXPORT, "-o", "again.safetensors", "--models", files)
        assert f"equal to {EXPORT}, bit for bit" in said.out
        assert sha256(here / "again.safetensors") == sha256(here / EXPORT)

    @pytest.mark.slow
    def test_a_trials_recipe_is_a_file_that_gives_the_exports_tensors(
        self, here: Path, files: Path, call: Call
    ) -> None:
        call("export", "short", "--trial", "3", "--recipe", "trial.yaml")
        written = yaml.safe_load((here / "trial.yaml").read_text())
        assert written["parents"]["B"] == {
            "path": str(files / "b.safetensors"),
            "sha256": sha256(files / "b.safetensors"),
        }
        assert (written["vae"]["path"], written["dtype"]) == (str(files / "vae.safetensors"), "fp16")
        assert written["loras"][0]["weight"] == 0.5
        call("merge", "trial.yaml", "-o", "trial.safetensors")
        assert same_tensors(here / "trial.safetensors", here / EXPORT)

    def test_a_recipe_is_never_overwritten_by_accident(self, here: Path, call: Call) -> None:
        (here / "mine.yaml").write_text("mine")
        assert "--force" in call("export", "short", "--recipe", "mine.yaml", code=2).err
        assert (here / "mine.yaml").read_text() == "mine"
        both = call("export", "short", "--recipe", "r.yaml", "-o", "o.safetensors", code=2)
        assert "either" in both.err
        assert "ends in .yaml" in call("export", "short", "--recipe", "r.txt", code=2).err


class TestFilesOfARecipeThatMoved:
    @pytest.fixture
    def moved(self, files: Path, folder: Path, call: Call) -> Path:
        """The merge of r.yaml, whose files are now below `new` under other names."""
        recipe = dict(CHAIN) | {"loras": [{"path": "style.safetensors", "weight": 0.5}], "vae": "vae.safetensors"}
        (folder / "chain.yaml").unlink()
        (folder / "chain.yaml").write_text(yaml.safe_dump(recipe))
        (folder / "r.yaml").write_text(call("merge", "chain.yaml", "--show").out)
        call("merge", "r.yaml", "-o", "before.safetensors")
        (folder / "new" / "deep").mkdir(parents=True)
        for index, name in enumerate(("a", "b", "style", "vae")):
            (folder / f"{name}.safetensors").unlink()
            shutil.copy(files / f"{name}.safetensors", folder / "new" / "deep" / f"{index}.safetensors")
        return folder / "before.safetensors"

    @pytest.mark.slow  # renamed models are found by the same code
    def test_are_found_by_their_content(self, moved: Path, folder: Path, call: Call) -> None:
        call("merge", "r.yaml", "-o", "again.safetensors", "--models", "new")
        assert same_tensors(folder / "again.safetensors", moved)

    @pytest.mark.slow
    def test_are_found_where_other_files_have_their_names_now(
        self, moved: Path, files: Path, folder: Path, call: Call
    ) -> None:
        shutil.copy(files / "b.safetensors", folder / "a.safetensors")
        shutil.copy(files / "a.safetensors", folder / "b.safetensors")
        call("merge", "r.yaml", "-o", "again.safetensors", "--models", "new")
        assert same_tensors(folder / "again.safetensors", moved)

    @pytest.mark.slow
    def test_by_their_names_if_it_gives_no_sha256(self, files: Path, folder: Path, call: Call) -> None:
        (folder / "r.yaml").write_text("parents: [x/a.safetensors, x/b.safetensors]\nratio: 0.5\n")
        (folder / "new" / "more").mkdir(parents=True)
        for name in ("a", "b"):
            shutil.copy(files / f"{name}.safetensors", folder / "new")
        said = call("merge", "r.yaml", "-o", "o.safetensors", "--models", "new").err
        assert f"parent B is taken to be {folder}/new/b.safetensors, by its name" in said
        (folder / "s.yaml").write_text("parents: [a.safetensors, b.safetensors]\nratio: 0.5\n")
        call("merge", "s.yaml", "-o", "s.safetensors")
        assert same_tensors(folder / "o.safetensors", folder / "s.safetensors")
        shutil.copy(files / "vae.safetensors", folder / "new" / "more" / "b.safetensors")
        refused = call("merge", "r.yaml", "-o", "o.safetensors", "--force", "--models", "new", code=2).err
        assert "parent B may be any of" in refused


OUT = ("-o", "out.safetensors")
BAD = [
    (("gone.yaml", *OUT), ["no recipe at"]),
    (("gone.safetensors", *OUT), ["no file at gone.safetensors"]),
    (("a.ckpt", *OUT), ["neither a recipe (.yaml, .yml, .json) nor a .safetensors file"]),
    (("a.safetensors", *OUT), ["mergetune.recipe", "give a recipe file"]),
    (("chain.yaml",), ["either -o FILE", "--show"]),
    (("chain.yaml", "--show", *OUT), ["either -o FILE", "--show"]),
    (("chain.yaml", "--show", "--title", "x"), ["--show prints the recipe", "--title"]),
    (("chain.yaml", "-o", "out.ckpt"), ["ends in .safetensors"]),
    (("chain.yaml", "-o", "no/out.safetensors"), ["in a folder that exists"]),
    (("chain.yaml", "--dtype", "int8", *OUT), ["--dtype"]),
    (("chain.yaml", "--device", "tpu", *OUT), ["--device"]),
    (("chain.yaml", "--vae", "vae.safetensors", *OUT), ["chain.yaml names its own files"]),
    (("chain.yaml", "--models", "gone", *OUT), ["--models: gone is not a folder"]),
    (("lost.yaml", "--models", ".", *OUT), ["not found in .: parent B (gone.safetensors)", "gives no sha256"]),
    (("lost-hash.yaml", *OUT), ["parent B (gone, sha256 0f0f", "--models"]),
    (("lost-hash.yaml", "--models", ".", *OUT), ["not found in .", "sha256 0f0f", "correct its path in the recipe"]),
    (("lost.yaml", "-o", "no/out.safetensors"), ["in a folder that exists"]),
    (("lost.yaml", *OUT), ["no checkpoint at", "gone.safetensors"]),
    (("typo.yaml", *OUT), ["typo.yaml", "did you mean `ratio`"]),
    (("far.yaml", *OUT), ["B is 1.5", "expected 0 to 1"]),
    (("place.yaml", *OUT), ["'IN1O'", "did you mean"]),
    (("hash.yaml", *OUT), ["parent B", "not the file that the recipe names"]),
    (("text.yaml", *OUT), ["contains no recipe"]),
    (("merged.safetensors", "--models", "gone", *OUT), ["--models"]),
    (("merged.safetensors", "--parent", "D=a.safetensors", *OUT), ["--parent D=a.safetensors", "A, B"]),
    (("merged.safetensors", "--parent", "A=gone.safetensors", *OUT), ["no checkpoint at gone.safetensors"]),
    (("merged.safetensors", "--parent", "A=a.safetensors", "--parent", "A=a.safetensors", *OUT), ["twice"]),
    (("merged.safetensors", "--lora", "x=style.safetensors", *OUT), ["one of the recipe's names: style"]),
    (("merged.safetensors", "-o", "merged.safetensors", "--force"), ["merged.safetensors is SOURCE"]),
    (("broken.safetensors", *OUT), ["not a recipe"]),
]  # fmt: skip
RECIPES = {
    "lost.yaml": "parents: [a.safetensors, gone.safetensors]\nratio: 0.5",
    "lost-hash.yaml": f"parents: [a.safetensors, {{path: gone.safetensors, sha256: {'0f' * 32}}}]\nratio: 0.5",
    "typo.yaml": "parents: [a.safetensors, b.safetensors]\nratoi: 0.5",
    "far.yaml": "parents: [a.safetensors, b.safetensors]\nmethod: slerp\nratio: 1.5",
    "place.yaml": "parents: [a.safetensors, b.safetensors]\nratio: {IN1O: 0.5}",
    "hash.yaml": f"parents: [a.safetensors, {{path: b.safetensors, sha256: {'0f' * 32}}}]\nratio: 0.5",
    "text.yaml": "merge a and b please",
}


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_gets_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], words: list[str], merged: Path, folder: Path, call: Call
) -> None:
    (folder / "merged.safetensors").symlink_to(merged)
    save_file({"x": torch.zeros(1)}, folder / "broken.safetensors", {"mergetune.recipe": "{}"})
    for name, text in RECIPES.items():
        (folder / name).write_text(text)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    outcome = call("merge", *arguments, code=2)
    assert outcome.err.startswith("error: "), outcome
    assert outcome.err.count("\n") == 1, outcome
    for word in words:
        assert word in outcome.err
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
