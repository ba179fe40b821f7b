# Plans, exports and compiles bundles. Build it from the context that docker/stage.sh makes; docs/docker.md has the commands.
# Building this image needs no GPU: engines are compiled when the container runs.
ARG BASE_IMAGE=ubuntu:24.04

FROM ${BASE_IMAGE}
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --groups video --create-home holdfast
COPY wheels/ /wheels/
# "[build]" exports; "[build,rtx]" compiles too, on x86-64. PIP_ARGS is "--no-index" where there is no network.
ARG EXTRAS="[build]"
ARG PIP_ARGS=""
# The base image may bring TensorRT for its own Python: the environment sees it.
RUN python3 -m venv --system-site-packages /usr/local/lib/holdfast \
 && /usr/local/lib/holdfast/bin/pip install --no-cache-dir --find-links /wheels ${PIP_ARGS} "$(ls /wheels/holdfast-*.whl)${EXTRAS}"
ENV PATH=/usr/local/lib/holdfast/bin:${PATH} \
    PYTHONUNBUFFERED=1
ARG VERSION=unknown
LABEL org.opencontainers.image.title="holdfast builder" \
      org.opencontainers.image.description="Checkpoint to portable bundle to engine bundle." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
USER holdfast
WORKDIR /home/holdfast
ENTRYPOINT ["engine-build"]
CMD ["--help"]
