# docker build -t charstream .                     on onnxruntime-gpu (CUDA 13)
# docker build -t charstream:cpu --target cpu .    on the CPU
# docker run --gpus all -p 50051:50051 -v "$PWD/bundles:/models:ro" -v "$PWD/tls:/tls:ro" \
#   -e CHARSTREAM_TLS_CERT=/tls/tls.crt -e CHARSTREAM_TLS_KEY=/tls/tls.key \
#   -e CHARSTREAM_HEALTH_TLS_CA=/tls/tls.crt -e CHARSTREAM_HEALTH_TLS_NAME=chars.example.org charstream
#
# What it installs is what serving needs: no torch, no onnx. Flags of `charstream serve` follow the image's name, or are
# given as CHARSTREAM_* variables. It listens on all of the container's addresses, so it starts only with TLS, or, for
# ports that are published to this machine or to networks you trust, with -e CHARSTREAM_INSECURE=true.
#
# The health check has its flags (python -m client.commands.health --help) from CHARSTREAM_HEALTH_* variables: with TLS it needs
# the certificate it shall see, or its authority, and the name in it; where clients must show certificates, its own too
# (CHARSTREAM_HEALTH_TLS_CLIENT_CERT and _KEY). Without TLS it needs nothing.
# tests/test_dockerfile.py runs the steps of the target cpu, and its health check, in an environment of its own.

FROM python:3.12-slim-bookworm AS wheel
WORKDIR /src
COPY . .
RUN python3 -m pip wheel --no-deps --wheel-dir /dist .

FROM python:3.12-slim-bookworm AS cpu
COPY --from=wheel /dist /dist
COPY constraints.txt /dist/
RUN python3 -m venv /opt/charstream
RUN /opt/charstream/bin/pip install --no-cache-dir -c /dist/constraints.txt /dist/charstream-*.whl onnxruntime
ENV PATH=/opt/charstream/bin:$PATH PYTHONUNBUFFERED=1 CHARSTREAM_MODELS=/models CHARSTREAM_HOST=0.0.0.0
USER 10001:10001
VOLUME /models
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python3", "-m", "client.commands.health", "--host", "127.0.0.1:50051"]
ENTRYPOINT ["charstream", "serve"]

# The base brings the CUDA libraries and cuDNN, so onnxruntime-gpu comes without its extras for them.
FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS gpu
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /dist /dist
COPY constraints.txt /dist/
RUN python3 -m venv /opt/charstream
RUN /opt/charstream/bin/pip install --no-cache-dir -c /dist/constraints.txt /dist/charstream-*.whl onnxruntime-gpu
ENV PATH=/opt/charstream/bin:$PATH PYTHONUNBUFFERED=1 CHARSTREAM_MODELS=/models CHARSTREAM_HOST=0.0.0.0
USER 10001:10001
VOLUME /models
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python3", "-m", "client.commands.health", "--host", "127.0.0.1:50051"]
ENTRYPOINT ["charstream", "serve"]
