# make setup | demo | test | check | proto | prometheus | schemas | bench | peers: each may be run again at any time.
# PROVIDER=gpu installs onnxruntime-gpu; without it the presence of nvidia-smi decides.
PYTHON ?= python3
PROVIDER ?= $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
BIN := .venv/bin

.PHONY: setup demo test check format proto prometheus schemas bench peers clean
setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@echo "== setup: .venv with the locked versions (provider: $(PROVIDER))"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[$(PROVIDER),train,search,tensorboard,loadtest,traces,dev]"
	@touch $@

demo: setup
	$(BIN)/charstream demo

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
.venv-proto/ready: Makefile
	@echo "== setup: .venv-proto with the stub generator"
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/python -m pip install --disable-pip-version-check grpcio-tools==1.78.0 grpcio==1.78.0 protobuf==6.31.1 setuptools==80.9.0
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

# What says how objects of the Gateway API, KEDA and KServe look, for tests/deploy/test_kubernetes.py.
schemas: .tools/schemas/ready

.tools/schemas/ready: Makefile
	mkdir -p .tools/schemas
	cd .tools/schemas && npm install --no-save --no-audit --no-fund @kubernetes-models/gateway-api@2.0.0 @kubernetes-models/keda@2.0.0
	$(PYTHON) -m pip download --disable-pip-version-check --no-deps --dest .tools/schemas kserve==0.21.0
	$(PYTHON) -m zipfile -e .tools/schemas/kserve-0.21.0-py3-none-any.whl .tools/schemas && rm .tools/schemas/kserve-*.whl
	@touch $@

bench: setup
	$(BIN)/python -m benchmarks.speed.throughput

# Installs other servers into .peers, measures them beside ours, and writes docs/benchmarks.md.
peers: setup
	$(BIN)/python -m benchmarks.peers

clean:
	rm -rf .venv .venv-proto .tools .peers dist build .pytest_cache .mypy_cache .ruff_cache
