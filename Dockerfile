# The same set-up as on any machine, in a container. PyPI's torch brings its own CUDA libraries, so a plain
# Debian serves CPUs and, under the NVIDIA container runtime, GPUs. docs/containers.md says how to run it.
#
#   docker build --tag distlth .
FROM debian:12.12-slim

# The environment depends on these files alone: a change of the code leaves its layer, gigabytes, as it is.
WORKDIR /opt/distlth
COPY pyproject.toml LICENSE ./
COPY cluster/setup.sh cluster/apt.sh cluster/constraints.txt cluster/
COPY cluster/opencv cluster/opencv
# InfiniBand: NCCL loads the drivers of the network's cards, and falls back to slow sockets without them.
RUN apt-get update && apt-get install -y --no-install-recommends ibverbs-providers \
    && mkdir distlth jobs \
    && touch README.md cluster/__init__.py distlth/__init__.py jobs/__init__.py \
    && PIP_NO_CACHE_DIR=1 bash cluster/setup.sh \
    && rm -rf /var/lib/apt/lists/*

COPY . .
RUN bash cluster/setup.sh && .venv/bin/python -m compileall -q distlth cluster jobs

# Nothing is written into the image: runs and data are mounted, all else goes to TMPDIR. Any user will do, also
# one whom the image does not know: Python takes names from LOGNAME before it looks them up.
RUN useradd --create-home distlth && install --directory --owner distlth --group distlth data runs
ENV PATH=/opt/distlth/.venv/bin:$PATH LOGNAME=distlth PYTHONDONTWRITEBYTECODE=1
USER distlth
ENTRYPOINT ["distlth"]
