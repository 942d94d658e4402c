#!/usr/bin/env bash
# Unpack what benchmarks/cuda/pack.py made, and measure a GPU with it:
#
#   unpack.sh ARCHIVE FOLDER [FLAG ...]      flags of python -m benchmarks.cuda; SHORT=540 seconds in all
#
# Needs the Python that packed it (PYTHON=python3.11), with torch for CUDA 13; nothing is installed, and nothing fetched.
set -euo pipefail
[ $# -ge 2 ] || { sed -n 2,6p "$0" >&2; exit 2; }
archive=$1 python=${PYTHON:-python3}
mkdir -p "$2"
folder=$(cd "$2" && pwd)
shift 2
[ -d "$folder/site" ] || tar -xJf "$archive" -C "$folder"

"$python" - "$folder/site" <<'PYTHON'
import importlib.metadata, pathlib, sys
here = f"cpython-{sys.version_info.major}{sys.version_info.minor}-"
if not any(here in path.name for path in (pathlib.Path(sys.argv[1]) / "onnxruntime" / "capi").iterdir()):
    sys.exit(f"unpack.sh: the archive is for another Python than {sys.version.split()[0]}: set PYTHON, or pack with this one")
try:
    importlib.metadata.version("onnxruntime")
except importlib.metadata.PackageNotFoundError:
    pass
else:
    sys.exit("unpack.sh: this Python has onnxruntime, which onnxruntime-gpu cannot stand beside: pip uninstall onnxruntime")
PYTHON

# NVIDIA's packages are beside torch, and not beside the onnxruntime that was unpacked.
nvidia=$("$python" -c '
import site, sys, pathlib
for folder in {*site.getsitepackages(), site.getusersitepackages(), *sys.path}:
    for library in pathlib.Path(folder or ".", "nvidia").glob("*/lib"):
        print(library)' 2>/dev/null | paste -sd: -)
export LD_LIBRARY_PATH=$nvidia${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} PYTHONPATH=$folder/site:$folder/src
flags=(--short "${SHORT:-540}")
for bundle in "$folder"/bundles/*; do flags+=(--bundle "$bundle"); done
[ ! -f "$folder/data.txt" ] || flags+=(--data "$folder/data.txt")
cd "$folder/src"
exec "$python" -m benchmarks.cuda "${flags[@]}" "$@"
