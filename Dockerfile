# mergetune with everything it needs. torch comes from PyPI with CUDA's libraries; the host needs NVIDIA's driver and its
# container toolkit. Everything installed is a wheel, so there is no compiler in either stage.
FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/mergetune
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY basics basics
COPY search_spaces search_spaces
COPY scorers scorers
COPY studies studies
COPY optimizer optimizer
RUN /opt/mergetune/bin/pip install --only-binary :all: --no-binary mergetune '.[postgresql,metrics,s3]'

FROM python:3.11.14-slim-bookworm
# Of the user on the host whose models, results and secrets are used.
ARG UID=1000
RUN useradd --uid "$UID" --create-home mergetune \
    && install --directory --owner mergetune /models /output /artifacts /cache /places
COPY --from=build /opt/mergetune /opt/mergetune
COPY docker/one-gpu /usr/local/bin/one-gpu
ENV PATH=/opt/mergetune/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    MERGETUNE_ARTIFACTS=/artifacts \
    MERGETUNE_CACHE=/cache \
    HF_HOME=/cache/huggingface
USER mergetune
WORKDIR /output
ENTRYPOINT ["mergetune"]
