#!/usr/bin/env bash
# Pack the packages that a bare GPU machine lacks, for Python 3.12 on x86-64 Linux, in the versions installed here.
#
#     benchmarks/gpu/wheels.sh FOLDER
#
# writes FOLDER/site.tar.xz (18 MB; as wheels they would be 32 MB). The machine must have torch, torchvision,
# torchmetrics, transformers, timm, botorch, gpytorch, matplotlib, scipy, rich, typer, psutil, pytest, pytest-timeout,
# pytest-xdist and hypothesis. On that machine, run:
#
#     mkdir SITE && tar xJf FOLDER/site.tar.xz -C SITE
#     PYTHONPATH=SITE python3 benchmarks/gpu/run.py --minutes 9 --out DIR
set -euo pipefail
folder=${1:?usage: wheels.sh FOLDER}
python=${PYTHON:-.venv/bin/python}
packages=(
    alembic mako sqlalchemy greenlet optuna colorlog cmaes optuna-dashboard bottle
    diffusers importlib-metadata lazy-importer open-clip-torch ftfy wcwidth torch-fidelity
    pydantic pydantic-core annotated-types typing-inspection waitress plotly
)
platforms=()
for glibc in 2_39 2_35 2_34 2_31 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
mkdir -p "$folder"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
mkdir "$temporary/wheels" "$temporary/site"
pins=()
for package in "${packages[@]}"; do
    installed=$("$python" -c 'import sys, importlib.metadata as m; print(m.version(sys.argv[1]))' "$package" 2>/dev/null) ||
        continue # a dependency that another version no longer has
    pins+=("$package==$installed")
done
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp "${platforms[@]}" -d "$temporary/wheels" "${pins[@]}"
for wheel in "$temporary"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$temporary/site"; done
tar cJf "$folder/site.tar.xz" -C "$temporary/site" .
du -h "$folder/site.tar.xz"
