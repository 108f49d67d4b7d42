# syntax=docker/dockerfile:1
# Fiscus as a container. The first stage installs the locked requirements (every file checked against its hash) and the
# project's own wheel; the second takes the result and nothing else: no compiler, no pip, no sources, no curl.
#
#   docker build -t fiscus .
#   docker run --read-only --tmpfs /tmp -v fiscus:/var/lib/fiscus -p 127.0.0.1:8091:8091 -e FISCUS_BOOTSTRAP_KEY fiscus

# The version that the tests run on.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
WORKDIR /build
COPY requirements.txt requirements-build.txt ./
RUN python -m pip install --require-hashes --only-binary :all: -r requirements-build.txt \
    && python -m venv --without-pip /opt/fiscus \
    && python -m pip --python /opt/fiscus/bin/python install --require-hashes --only-binary :all: -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . \
    && python -m pip --python /opt/fiscus/bin/python install --no-index --no-deps dist/fiscus-*.whl \
    && python -m compileall -q /opt/fiscus/lib
COPY deploy/healthcheck.py /opt/fiscus/healthcheck.py

FROM python:${PYTHON_VERSION}-slim-bookworm
LABEL org.opencontainers.image.title="fiscus" \
      org.opencontainers.image.description="A treasury for AI agents: budgets that hold before the money is spent" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/fiscus /opt/fiscus
RUN install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/fiscus

# Defaults that any environment variable of the container replaces; DATABASE_URL names PostgreSQL in production.
# Nothing is written but below /var/lib/fiscus (ledger or spool, pepper, archive) and /tmp.
# The linter takes DATABASE_URL for a secret; this one is a path.
# hadolint ignore=DL3064
ENV PATH=/opt/fiscus/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FISCUS_HOST=0.0.0.0 \
    FISCUS_LOG_FORMAT=json \
    FISCUS_SPOOL_PATH=/var/lib/fiscus/spool \
    TOKEN_ECONOMY_PORT=8091 \
    DATABASE_URL=sqlite:////var/lib/fiscus/fiscus.db
VOLUME ["/var/lib/fiscus"]
WORKDIR /
EXPOSE 8091
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=40s --retries=3 \
    CMD ["/opt/fiscus/bin/python", "/opt/fiscus/healthcheck.py"]
ENTRYPOINT ["fiscus"]
CMD ["serve"]
