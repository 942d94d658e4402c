# docker build -t charstream .                     on onnxruntime-gpu (CUDA 13)
# docker build -t charstream:cpu --target cpu .    on the CPU
# docker run --gpus all -p 50051:50051 -v "$PWD/bundles:/models:ro" charstream
#
# What it installs is what serving needs: no torch, no onnx. Flags of `charstream serve` follow the image's name, or are
# given as CHARSTREAM_* variables. The connection is not encrypted: publish the port to networks you trust.
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
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python3", "-m", "client.health", "--host", "127.0.0.1:50051"]
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
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python3", "-m", "client.health", "--host", "127.0.0.1:50051"]
ENTRYPOINT ["charstream", "serve"]
