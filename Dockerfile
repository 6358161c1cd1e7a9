# The server with the native front end, the [cpu] engine and the models of models/repository. Pin the bases by digest where
# it matters: docker build --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:... -t fraudgate .
ARG PYTHON_IMAGE=python:3.11-slim
# Its C library must be that of PYTHON_IMAGE, or older.
ARG RUST_IMAGE=rust:1.88-slim-bookworm

FROM ${PYTHON_IMAGE} AS maturin
WORKDIR /src
COPY requirements-dev.txt ./
RUN sed -n '/^maturin==/,/[^\\]$/p' requirements-dev.txt > maturin.txt \
    && pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: --target /maturin -r maturin.txt

FROM ${RUST_IMAGE} AS ingress
COPY --from=maturin /maturin/bin/maturin /usr/local/bin/
WORKDIR /src
COPY service/ingress ./
RUN maturin build --release --locked --compatibility linux --out /dist

FROM ${PYTHON_IMAGE} AS build
RUN python -m venv /opt/fraudgate
ENV PATH=/opt/fraudgate/bin:$PATH
WORKDIR /src
COPY requirements.txt ./
RUN pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY service/fraudgate ./service/fraudgate
COPY --from=ingress /dist /dist
# The wheel is built with the setuptools of requirements.txt: nothing unhashed is fetched.
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . \
    && pip install --no-cache-dir --no-deps /dist/*.whl

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="fraudgate" org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 fraudgate \
    && useradd --system --uid 10001 --gid fraudgate --no-create-home --shell /usr/sbin/nologin fraudgate
COPY --from=build /opt/fraudgate /opt/fraudgate
ENV PATH=/opt/fraudgate/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /srv/fraudgate
COPY models/repository ./models/repository
USER 10001:10001
# Data plane, control plane, ops. All three listen on loopback until a configuration says otherwise.
EXPOSE 50051 50052 8080
HEALTHCHECK --interval=10s --timeout=2s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=1)"]
# SIGTERM drains for up to 10 s; give it that long: docker stop --time 15.
STOPSIGNAL SIGTERM
ENTRYPOINT ["fraudgate", "serve"]
