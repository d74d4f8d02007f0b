# docker build -t streamspace/docker-agent .
#
# BASE may be any Debian-like image with Python 3.11 or newer as python3, and pip. Where the build cannot reach a package index,
# put wheels (pip's own among them) into a folder `wheels` of the context and let .dockerignore pass it, as `make image` does;
# pip need not be in BASE then.
ARG BASE=python:3.12-slim-bookworm

# Stage 1 builds wheels of the core and its plugins, and fetches those they need. Everything that takes part, pip and the build
# backend too, has the version of constraints.txt: pip would else fetch the newest backend for each build.
FROM ${BASE} AS wheels
WORKDIR /build
COPY constraints.txt wheel[s] wheels/
COPY core core
COPY plugins plugins
# The layout of wheels/ is made by the shell's glob: given wheels are taken as they are.
RUN ls wheels/*.whl >/dev/null 2>&1 || { \
      python3 -m venv --without-pip tools \
   && python3 -m pip --python tools/bin/python install --no-cache-dir --disable-pip-version-check -c wheels/constraints.txt \
        pip setuptools \
   && tools/bin/python -m pip wheel --no-cache-dir --no-build-isolation --wheel-dir wheels -c wheels/constraints.txt \
        pip "./core[all]" ./plugins/streamspace-elect-* ./plugins/streamspace-engine ./plugins/streamspace-runtime-* \
        ./plugins/streamspace-gateway; }

# Stage 2 installs them, without an index, without pip.
FROM ${BASE} AS installed
COPY --from=wheels /build/wheels /wheels
RUN python3 -m venv --without-pip /opt/streamspace \
 && PYTHONPATH="$(echo /wheels/pip-*.whl)" /opt/streamspace/bin/python -m pip install \
      --no-index --find-links /wheels -c /wheels/constraints.txt --no-compile --disable-pip-version-check "streamspace-agent[all]" \
 && /opt/streamspace/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/streamspace/lib

# The image: Debian's or Python's own base, one folder, one script, one user; nothing that installs, as Python's own base has.
FROM ${BASE}
RUN groupadd --gid 10001 streamspace \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/streamspace --shell /usr/sbin/nologin streamspace \
 && install -d -o streamspace -g streamspace -m 0750 /var/lib/streamspace /var/run/streamspace \
 && rm -rf /usr/bin/pip* /usr/local/bin/pip* /usr/lib/python3*/ensurepip /usr/local/lib/python3*/ensurepip \
      /usr/lib/python3*/dist-packages/pip /usr/local/lib/python3*/site-packages/pip \
      /usr/lib/python3*/dist-packages/setuptools /usr/local/lib/python3*/site-packages/setuptools
COPY --from=installed /opt/streamspace /opt/streamspace
COPY LICENSE /usr/share/doc/streamspace-agent/LICENSE
COPY deployments/image/docker-agent /usr/local/bin/docker-agent
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 STATE_DIR=/var/lib/streamspace
USER streamspace
WORKDIR /var/lib/streamspace
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=15s --retries=2 CMD ["docker-agent", "healthcheck"]
ENTRYPOINT ["docker-agent"]
CMD ["run"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="StreamSpace Agent for Docker" \
      org.opencontainers.image.description="Runs StreamSpace sessions on a Docker host" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.vendor="The StreamSpace Agent authors" \
      org.opencontainers.image.documentation="https://streamspace.dev/docs/agents/docker" \
      org.opencontainers.image.source="https://github.com/streamspace-dev/streamspace" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
