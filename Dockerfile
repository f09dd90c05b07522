# syntax=docker/dockerfile:1
# The control plane as an image: no root, no shell, nothing written outside /tmp. docs/container.md has the whole guide.
#
# For production pin the base by its digest, so that two builds are the same:
#   docker buildx imagetools inspect python:3.13-slim-bookworm --format '{{.Manifest.Digest}}'
#   docker build --build-arg PYTHON_IMAGE=python:3.13-slim-bookworm@sha256:DIGEST .
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
ENV UV_PROJECT_ENVIRONMENT=/app/venv UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN python -m pip install --quiet --no-cache-dir uv==0.13.8
# The dependencies change less often than the code: they get a layer of their own.
COPY pyproject.toml uv.lock README.md ./
RUN uv sync --quiet --frozen --no-default-groups --no-install-project --python python3
COPY sts_manager ./sts_manager
COPY cdn_worker ./cdn_worker
COPY docs/queries ./docs/queries
RUN uv sync --quiet --frozen --no-default-groups --no-editable --python python3

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="sts-manager"
ENV PATH=/app/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    STS_MANAGER_HEALTH_FILE=/tmp/sts-manager.health
COPY --from=build /app /app
WORKDIR /tmp
# A number, so that an orchestrator can check that it is not root.
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=10s --start-period=120s --retries=3 CMD ["sts-manager", "health"]
ENTRYPOINT ["sts-manager"]
CMD ["run"]
