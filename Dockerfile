# The same set-up as on any machine, in a container. PyPI's torch brings its own CUDA libraries, so a plain
# Debian serves CPUs and, under the NVIDIA container runtime, GPUs:
#
#   docker build -t distlth .
#   docker run --gpus all --shm-size 8g -v DATA:/distlth/data -v RUNS:/distlth/runs distlth run JOB.yaml
FROM debian:12.12-slim

WORKDIR /distlth
COPY . .
RUN PIP_NO_CACHE_DIR=1 bash cluster/setup.sh \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home distlth \
    && install --directory --owner distlth --group distlth data runs

ENV PATH=/distlth/.venv/bin:$PATH
USER distlth
ENTRYPOINT ["distlth"]
