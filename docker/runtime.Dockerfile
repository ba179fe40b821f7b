# Runs bundles. Build it from the context that docker/stage.sh makes; docs/docker.md has the commands.
ARG BASE_IMAGE=ubuntu:24.04

FROM ${BASE_IMAGE} AS install
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY wheels/ /wheels/
# What pip installs besides the wheel itself, "[cpu]" for ONNX Runtime, and how: "--no-index" where there is no network.
ARG EXTRAS=""
ARG PIP_ARGS=""
# The base image may bring TensorRT for its own Python: the environment sees it.
RUN python3 -m venv --system-site-packages /usr/local/lib/holdfast \
 && /usr/local/lib/holdfast/bin/pip install --no-cache-dir --find-links /wheels ${PIP_ARGS} "$(ls /wheels/holdfast-*.whl)${EXTRAS}"

FROM ${BASE_IMAGE}
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --groups video --create-home holdfast
COPY --from=install /usr/local/lib/holdfast /usr/local/lib/holdfast
ENV PATH=/usr/local/lib/holdfast/bin:${PATH} \
    PYTHONUNBUFFERED=1
ARG VERSION=unknown
LABEL org.opencontainers.image.title="holdfast runtime" \
      org.opencontainers.image.description="Answers from a bundle within a latency budget. No torch." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
USER holdfast
WORKDIR /home/holdfast
ENTRYPOINT ["jetson-runtime"]
CMD ["--help"]
