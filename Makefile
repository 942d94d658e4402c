# make setup | demo | test | check | proto | prometheus | browser | screenshots | bench | peers: each may be run again at any time.
# PROVIDER=gpu installs onnxruntime-gpu; without it the presence of nvidia-smi decides.
PYTHON ?= python3
PROVIDER ?= $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
BIN := .venv/bin

.PHONY: setup demo test check format proto prometheus browser screenshots bench peers clean
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

clean:
	rm -rf .venv .venv-proto .tools .peers dist build .pytest_cache .mypy_cache .ruff_cache
