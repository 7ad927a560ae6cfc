#!/usr/bin/env bash
# Pack the packages that a bare GPU machine lacks, for Python 3.12 on x86-64 Linux, in the versions installed here.
#
#     benchmarks/gpu/wheels.sh FOLDER
#
# writes FOLDER/site.tar.xz (18 MB; as wheels they would be 32 MB): all that mergetune depends on but what the machine
# has, in `present` below, and pytest with its plug-ins. On that machine, run:
#
#     mkdir SITE && tar xJf FOLDER/site.tar.xz -C SITE
#     PYTHONPATH=SITE python3 benchmarks/gpu/run.py --minutes 9 --out DIR
set -euo pipefail
folder=${1:?usage: wheels.sh FOLDER}
python=${PYTHON:-.venv/bin/python}
present=(
    botorch gpytorch huggingface-hub linear-operator matplotlib numpy packaging pillow psutil pyyaml regex requests rich
    safetensors scipy timm tokenizers torch torchmetrics torchvision tqdm transformers typer
    # needed by these
    filelock fsspec httpx jinja2 markupsafe networkx setuptools sympy typing-extensions
)
platforms=()
for glibc in 2_39 2_35 2_34 2_31 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
mkdir -p "$folder"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
mkdir "$temporary/wheels" "$temporary/site"
mapfile -t pins < <("$python" - "${present[@]}" <<'PYTHON'
"""Print NAME==VERSION of what mergetune and its tests on a card need beyond the packages given."""
import importlib.metadata as metadata
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


present, pins = {canonical(name) for name in sys.argv[1:]}, {}
needs = [tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]]
while needs:
    for requirement in map(Requirement, needs.pop()):
        name = canonical(requirement.name)
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if needed and name not in present and name not in pins:
            pins[name] = metadata.version(name)
            needs.append(metadata.requires(name) or [])
print(*(f"{name}=={version}" for name, version in sorted(pins.items())), sep="\n")
PYTHON
)
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp "${platforms[@]}" -d "$temporary/wheels" "${pins[@]}"
for wheel in "$temporary"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$temporary/site"; done
tar cJf "$folder/site.tar.xz" -C "$temporary/site" .
du -h "$folder/site.tar.xz"
