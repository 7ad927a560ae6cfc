"""`mergetune scorers` and `mergetune spaces`: what a spec can name."""

from __future__ import annotations

from typing import Annotated

import typer

from optimizer.cli.common import CacheFolder, cache_folder, console, loading_libraries


def scorers(
    check: Annotated[
        bool, typer.Option("--check", help="Say what each needs, whether it is here, how large it is, and its licence.")
    ] = False,
    cache: CacheFolder = None,
) -> None:
    """List the scorers that a spec can name, including plug-ins."""
    from optimizer.cli.views.scorers import kinds_table, needs_table
    from scorers.registry import kinds

    if not check:
        console.print(kinds_table(kinds()))
        return
    with loading_libraries():
        table = needs_table(kinds(), cache_folder(cache))
    console.print(table)


def spaces() -> None:
    """List the named search spaces with their number of ratios for each family, and the named block weights."""
    from optimizer.cli.views.tables import FoldingTable
    from search_spaces.blocks import Architecture
    from search_spaces.errors import SpaceError
    from search_spaces.families.registry import family_of
    from search_spaces.presets import load_preset, preset_names
    from search_spaces.settings import SpaceSettings
    from search_spaces.space import SearchSpace
    from studies.recipe.methods import METHODS

    def size(name: str, architecture: Architecture) -> str:
        try:
            space = SearchSpace.build(SpaceSettings(preset=name), architecture, METHODS["weighted_sum"].slots("AB"))
        except SpaceError:
            return "-"
        return str(len(space.parameters))

    table = FoldingTable("search spaces (`space: {preset: NAME}` in a spec)")
    for head in (
        "preset",
        "description",
        *(f"ratios, {family_of(architecture).title}" for architecture in Architecture),
    ):
        table.head(head)
    for name in preset_names():
        table.add_row(name, load_preset(name).description, *(size(name, architecture) for architecture in Architecture))
    console.print(table)
    _print_block_presets()


def _print_block_presets() -> None:
    from optimizer.cli.views.tables import FoldingTable
    from search_spaces.block_presets import block_preset, block_preset_names

    table = FoldingTable("block weights (`values: {B: {preset: NAME}}` in a recipe)")
    table.head("preset")
    table.head("BASE", justify="right")
    for head in ("IN00 to IN11", "M00", "OUT00 to OUT11"):
        table.head(head)
    for name in block_preset_names():
        base, *blocks = block_preset(name)
        bars = "".join(_bar(ratio) for ratio in blocks)
        table.add_row(name, f"{base:g}", bars[:12], bars[12], bars[13:])
    console.print(table)


def _bar(ratio: float) -> str:
    """Draw a ratio of 0 to 1 as one character; a digit if the terminal has no bars."""
    scale = "▁▂▃▄▅▆▇█" if console.encoding.startswith("utf") else "01234567"
    return scale[round(min(max(ratio, 0.0), 1.0) * (len(scale) - 1))]
