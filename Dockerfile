# Two images: `api` is API, sweeper, migrations and backup, without torch; `worker` adds what runs jobs.
#   docker build --target api -t lethe-api .        docker build --target worker -t lethe-worker .
# Both run as user 10001 and write only to /data, /erasures, /keys and /tmp, so the root may be read-only.
# TORCH_INDEX: package index to take torch and torchvision from; empty: the default one (CUDA builds on Linux).
FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/lethe
RUN useradd --uid 10001 --no-create-home --home-dir /tmp lethe \
 && install -d -o lethe -g lethe -m 700 /data /erasures /keys
ENV LETHE_DATA_DIR=/data LETHE_HOST=0.0.0.0
VOLUME /data
ENTRYPOINT ["lethe"]

FROM base AS api
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-client \
 && rm -rf /var/lib/apt/lists/*  # `lethe backup` runs pg_dump
COPY requirements/api.txt requirements/
RUN pip install --require-hashes -r requirements/api.txt
COPY deploy/sbom.py deploy/
COPY pyproject.toml hatch_build.py README.md LICENSE ./
RUN python deploy/sbom.py lethe-api requirements/api.txt > sbom.cdx.json
COPY lethe lethe
COPY migrations migrations
COPY app app
RUN pip install --no-deps --no-build-isolation -e . && python -m compileall -q .
USER lethe
EXPOSE 8321
CMD ["api"]

FROM base AS worker
ARG TORCH_INDEX=""
COPY requirements/torch.txt requirements/
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --no-deps -r requirements/torch.txt
COPY requirements/service.txt requirements/
RUN pip install --require-hashes -r requirements/service.txt \
 && pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r requirements/torch.txt  # the libraries of a CUDA build
COPY deploy/sbom.py deploy/
COPY pyproject.toml hatch_build.py README.md LICENSE ./
RUN python deploy/sbom.py lethe-worker requirements/service.txt requirements/torch.txt > sbom.cdx.json
COPY lethe lethe
COPY migrations migrations
COPY app app
COPY engine engine
COPY experiments experiments
COPY worker worker
RUN pip install --no-deps --no-build-isolation -e . && python -m compileall -q .
USER lethe
CMD ["worker"]
