# The server's image. docs/deploy.md says how to build, run and check it.
#
#   docker build --build-arg PIP_EXTRA_INDEX_URL=URL -t slipstream-server .     CPU; URL: an index with CPU builds of torch
#   docker build --build-arg TORCH=cuda -t slipstream-server:cuda .             CUDA
#
# pip's own settings decide where packages come from: the build arguments below, or a whole pip.conf as the secret of that
# name (--secret id=pip.conf,src=FILE), which is the place for credentials. Neither reaches the final stage. An authority of
# your own is the secret pip-ca.crt; the pip.conf then says cert = /run/secrets/pip-ca.crt.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
# cpu or cuda: what the image is meant to hold. It is checked, because an index may give either under the same version.
ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PATH=/opt/venv/bin:$PATH
WORKDIR /app
RUN python3 -m venv /opt/venv
COPY constraints.txt ./
# torch alone first: the wrong build is told before the gigabytes of CUDA packages that it would bring along.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=pip-ca.crt \
    pip install --no-deps --constraint constraints.txt torch \
    && case "$TORCH $(python -c 'import runpy, sysconfig; print(runpy.run_path(sysconfig.get_path("purelib") + "/torch/version.py")["cuda"])')" in \
        "cpu None" | "cuda "[0-9]*) ;; \
        *) echo "TORCH=$TORCH, but the package index gave the other build: name an index with --build-arg PIP_EXTRA_INDEX_URL=URL" >&2; exit 1 ;; \
    esac
# The project is installed in place, before its code is there: the environment below depends on pyproject.toml alone, and
# a change of code rebuilds the small last layers only. The two folders are the packages that the code will fill.
COPY LICENSE pyproject.toml ./
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=pip-ca.crt \
    mkdir cloud_server shared && touch README.md \
    && pip install --constraint constraints.txt --editable '.[cloud]' \
    && pip uninstall --yes pip \
    && cd "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && rm -rf torch/include torch/test

FROM ${BASE}
LABEL org.opencontainers.image.title="Slipstream server" \
    org.opencontainers.image.description="Decides every token of a Slipstream session with the target model" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="Apache-2.0"
# torch asks for the user's name: USER answers under any --user. /models: other models, read-only if you like; those named
# by hub id are downloaded into it. /tmp is the only other place that is ever written.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin slipstream \
    && mkdir /models && chown slipstream:slipstream /models
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 USER=slipstream HOME=/tmp HF_HOME=/models/hub
WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY LICENSE ./
COPY models/demo/target models/demo/target
COPY shared shared
COPY cloud_server cloud_server
# Nothing can be written here later, and a start should not compile everything again.
RUN python -m compileall -q --invalidation-mode unchecked-hash cloud_server shared
USER 10001:10001
VOLUME /models
EXPOSE 50051
# SIGTERM drains: give `docker stop` a longer time than --drain-s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["cloud-server"]
# Safe by default: encrypted, and only for who has the token. Without those three files it does not start; see
# docs/deploy.md for a trial without them.
CMD ["serve", "--listen", "0.0.0.0:50051", "--tls-cert", "/run/secrets/tls.crt", "--tls-key", "/run/secrets/tls.key", "--token-file", "/run/secrets/token"]
# Encrypted exactly if the certificate is there, as the command above. The certificate itself is what is trusted, and it
# must be for localhost too; docs/deploy.md says what to give instead of this for one that is not.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD if test -e /run/secrets/tls.crt; \
        then exec cloud-server health --server localhost:50051 --tls-ca /run/secrets/tls.crt; \
        else exec cloud-server health --server localhost:50051; fi
