# One image for every part: `lethe api`, `lethe worker`, `lethe sweep`, `lethe migrate`.
# PostgreSQL's client programs are for `lethe backup`.
# TORCH_INDEX: package index to take torch and torchvision from; empty: the default one (CUDA builds on Linux).
FROM python:3.12-slim

ARG TORCH_INDEX=""
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN apt-get update && apt-get install -y --no-install-recommends postgresql-client \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /srv/lethe
COPY constraints.txt pyproject.toml README.md ./
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c constraints.txt torch \
 && pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c constraints.txt --no-deps torchvision
COPY app app
COPY engine engine
COPY experiments experiments
COPY worker worker
COPY lethe lethe
COPY migrations migrations
RUN pip install -c constraints.txt . \
 && useradd --uid 10001 --no-create-home --home-dir /srv/lethe lethe \
 && install -d -o lethe -g lethe -m 700 /data /erasures

USER lethe
ENV LETHE_DATA_DIR=/data LETHE_HOST=0.0.0.0
VOLUME /data
EXPOSE 8321
ENTRYPOINT ["lethe"]
CMD ["serve"]
