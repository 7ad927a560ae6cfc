"""The files of LoRAs that lie on top of every merge while a suite is rendered, and are no part of it.

`loras` of a suite names files. `<lora:name:0.8>` in a prompt names one of a folder by its name without suffix, as in
A1111.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from studies.recipe.lora_files import files_of_lora
from studies.spec.a1111_prompts import LORA, tags_in, without_comments
from studies.spec.embedding_files import names_of_files
from studies.spec.suite import SuiteSettings

LORA_SUFFIXES: Final = (".safetensors", ".pt", ".ckpt", ".bin")


def lora_paths(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Return the names under which LoRAs of a folder may be asked for -> the files of each, which should be one."""
    return names_of_files(folder, LORA_SUFFIXES)


def names_in_prompt(prompt: str) -> tuple[str, ...]:
    """Return the names of the LoRAs in a prompt of A1111, in their order."""
    return tuple(tag.name for tag in tags_in(without_comments(prompt)) if tag.kind == LORA)


def loras_named(folder: Path, suites: Iterable[SuiteSettings]) -> tuple[Path, ...]:
    """List the LoRAs of a folder that the prompts of suites name, each once, by name."""
    known = lora_paths(folder)
    return tuple(dict.fromkeys(path for name in sorted(set(_names(suites))) for path in known.get(name, ())))


def _names(suites: Iterable[SuiteSettings]) -> Iterator[str]:
    for suite in suites:
        for prompt in suite.prompts if suite.syntax == "a1111" else ():
            yield from names_in_prompt(prompt.prompt)


def fingerprint_of_loras(folder: Path, suites: Iterable[SuiteSettings], hashed: Callable[[Path], str]) -> str:
    """Return one sha256 for the names and the content of all LoRAs of a folder that the prompts of suites name.

    Args:
        hashed: returns the sha256 of a file.
    """
    digest = hashlib.sha256()
    for path in loras_named(folder, suites):
        contents = " ".join(hashed(file) for file in files_of_lora(path))
        digest.update(f"{path.stem} {contents}\n".encode())
    return digest.hexdigest()
