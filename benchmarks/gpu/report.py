"""Format the records of a run on a GPU as tables, and print them or write them between two marks of a page.

python benchmarks/gpu/report.py records.jsonl [--write docs/explanation/benchmarks.md]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- GPU figures: benchmarks/gpu/report.py -->", "<!-- end of the GPU figures -->"
PLAIN = "plain diffusers loop"
MEMORY = "memory of a step"  # begins the name of a measurement of memory alone

Record = Mapping[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, with an empty line at the end."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def draws(records: Sequence[Record]) -> list[str]:
    """Tabulate the time of a random method's draws, and of as many by torch's generator on the CPU."""
    rows = [
        (
            record["what"],
            f"{record['numbers'] / 1e9:.2f} billion",
            f"{1000 * record['draws_seconds']:.1f} ms",
            f"{record['draws_seconds'] / record['copy_seconds']:.1f}",
            f"{record['sample_seconds'] / record['torch_sample_seconds']:.3f}",
        )
        for record in records
    ]
    return table(("merge", "numbers", "draws", "draws / copy of A", "draws / torch's on the CPU"), rows)


def merges(records: Sequence[Record]) -> list[str]:
    """Tabulate the time of a merge in each placement, and of a copy of parent A into the live model."""
    rows = [
        (
            record["what"],
            record["placement"],
            f"{1000 * record['merge_seconds']:.1f} ms",
            f"{1000 * record['copy_seconds']:.1f} ms" if "copy_seconds" in record else "",
            f"{record['merge_seconds'] / record['copy_seconds']:.2f}" if "copy_seconds" in record else "",
        )
        for record in records
    ]
    return table(("merge", "parents", "merge", "copy of A", "merge / copy"), rows)


def renders(records: Sequence[Record]) -> list[str]:
    """Tabulate the time of an image in each way, and its ratio to that of the plain loop in the same run.

    Of two measurements of one thing, the second counts: the first includes what is done once.
    """
    lines: list[str] = []
    for model in dict.fromkeys((record["architecture"], record["size"]) for record in records):
        chosen = {row["what"]: row for row in records if (row["architecture"], row["size"]) == model}
        plain = next((row["seconds"] / row["images"] for what, row in chosen.items() if what == PLAIN), None)
        rows = []
        for what, record in chosen.items():
            if what.startswith("warm-up") or MEMORY in what:
                continue
            image_seconds = record["seconds"] / record["images"]
            ratio = "" if plain is None or what.startswith("decode") else f"{plain / image_seconds:.2f}"
            stages = (f"{record[name]:.3f}" if name in record else "" for name in ("denoise", "decode"))
            rows.append((what, f"{image_seconds:.3f}", ratio, *stages, f"{record['peak_gb']:.1f}"))
        architecture, size = model
        head = (f"{architecture}, {size} px", "seconds an image", "times the plain loop's speed")
        lines += table((*head, "denoise", "decode", "peak GB"), rows)
    return [*lines, *memory([record for record in records if MEMORY in record["what"]])]


def memory(records: Sequence[Record]) -> list[str]:
    """Tabulate what a step of the U-Net takes beside the weights."""
    if not records:
        return []
    rows = [(f"{record['architecture']}, {record['what']}", f"{record['peak_gb']:.2f}") for record in records]
    return table(("", "GB"), rows)


def trials(records: Sequence[Record]) -> list[str]:
    """Tabulate the time of a trial by stage."""
    names = list(dict.fromkeys(name for record in records for name in record["stages"]))
    rows = [
        (
            f"{record['spec']}, {record['images']} images",
            "" if record["card_gb"] is None else f"{record['card_gb']:.0f} GB",
            f"{record['trial_seconds']:.2f} s",
            *(f"{record['stages'].get(name, 0.0):.3f}" for name in names),
            f"{100 * record['overhead']:.1f} %",
            "" if record["peak_gb"] is None else f"{record['peak_gb']:.1f}",
            record["batches"],
        )
        for record in records
    ]
    return table(("study", "card", "trial", *names, "overhead", "peak GB", "batches made smaller"), rows)


SECTIONS = {
    "trial": ("A trial", trials),
    "render": ("Rendering", renders),
    "merge": ("The merge", merges),
    "draws": ("Random draws", draws),
}


def report(records: Sequence[Record]) -> str:
    """Return Markdown with a table for each device and part."""
    lines: list[str] = []
    for device in dict.fromkeys(record["device"] for record in records):
        for part, (title, tabulate) in SECTIONS.items():
            chosen = [record for record in records if record["device"] == device and record["part"] == part]
            if chosen:
                lines += [f"### {title}: {device}, PyTorch {chosen[0]['torch']}", "", *tabulate(chosen)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--write", type=Path, default=None, help="a page with the two marks")
    options = parser.parse_args()
    text = report([json.loads(line) for path in options.records for line in path.read_text().splitlines()])
    if options.write is None:
        print(text)
        return
    before, _, rest = options.write.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    options.write.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
