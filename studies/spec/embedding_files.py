"""The files of a folder of embeddings (textual inversion), and which of them a suite's prompts name."""

from __future__ import annotations

import hashlib
import html
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from basics.files import sha256_of
from studies.spec.a1111_prompts import without_comments, without_lora_tags
from studies.spec.embedding_mentions import changing, spells
from studies.spec.suite import SuiteSettings

FILE_SUFFIXES: Final = (".safetensors", ".pt", ".bin")
_COMFYUI: Final = re.compile(r"embedding:(\S+)")


def embedding_names(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Return the names under which embeddings may be asked for -> the files of each, which should be one."""
    return names_of_files(folder, FILE_SUFFIXES)


def names_of_files(folder: Path, suffixes: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Return the names of the files of a folder that have a suffix -> the files of each.

    A file is called by its name without suffix, which is all that A1111 knows, or with it; and with any of the folders
    that it lies in before it, as in ComfyUI.
    """
    names: dict[str, list[Path]] = {}
    for file in files_below(folder, suffixes):
        parts = file.relative_to(folder).parts
        for depth in range(len(parts)):
            whole = "/".join(parts[depth:])
            names.setdefault(whole, []).append(file)
            names.setdefault(whole.removesuffix(file.suffix), []).append(file)
    return {name: tuple(files) for name, files in names.items()}


def files_below(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """Yield the files of a folder and of those below it that have a suffix, in a fixed order; empty files are none.

    Args:
        suffixes: in small letters, with their dot.
    """
    seen: set[Path] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = Path(place).resolve()
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix.lower() in suffixes and path.is_file() and path.stat().st_size:
                yield path


def files_named(folder: Path, suites: Iterable[SuiteSettings]) -> tuple[Path, ...]:
    """List the embeddings whose names occur in the prompts of suites, or in what prompts change into or join.

    What a prompt makes of a name depends on its tokens, so a name that only occurs within a word is counted as well.
    """
    known = tuple(suites)
    words = dict.fromkeys(word for suite in known for text in _texts(suite) for word in _words(suite, text))
    spelling = dict.fromkeys(
        changing(form, _folded)
        for suite in known
        if suite.syntax == "a1111"
        for text in _texts(suite)
        for form in (text, without_comments(text), without_lora_tags(without_comments(text)))
    )

    def is_named(name: str) -> bool:
        return any(name in word for word in words) or any(spells(text, name) for text in spelling)

    return tuple(file for file in files_below(folder, FILE_SUFFIXES) if is_named(_folded(file.stem)))


def fingerprint_of(folder: Path, suites: Iterable[SuiteSettings], hashed: Callable[[Path], str] = sha256_of) -> str:
    """Return one sha256 for the names and the content of all embeddings whose names occur in the prompts of suites.

    Args:
        hashed: returns the sha256 of a file.
    """
    digest = hashlib.sha256()
    for entry in sorted(f"{file.stem} {hashed(file)}\n" for file in files_named(folder, suites)):
        digest.update(entry.encode())
    return digest.hexdigest()


def _texts(suite: SuiteSettings) -> Iterator[str]:
    for item in suite.items():
        yield from (item.prompt, item.negative)


def _words(suite: SuiteSettings, text: str) -> Iterator[str]:
    """Yield what of a text may hold a name."""
    if suite.syntax == "a1111":
        yield _folded(text)
    elif suite.syntax == "comfyui":
        yield from map(_folded, _COMFYUI.findall(text))


def _folded(text: str) -> str:
    """Return a text without what makes no other tokens, and without the signs that hide a bracket."""
    from ftfy import fix_text

    plain = html.unescape(html.unescape(fix_text(text)))  # as the tokenizer of OpenCLIP does
    return "".join(plain.replace("\\", "").lower().split())
