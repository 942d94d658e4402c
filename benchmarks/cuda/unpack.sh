#!/usr/bin/env bash
# Unpack what benchmarks/cuda/pack.py made, and measure a GPU with it:
#
#   unpack.sh ARCHIVE FOLDER [FLAG ...]      flags of python -m benchmarks.cuda, such as --short 540
#
# Figures are printed, and kept in FOLDER/results as they come. PYTHON (python3) has to be of the version that the archive
# was packed for, with torch for CUDA 13; nothing is installed, and nothing fetched.
set -euo pipefail
[ $# -ge 2 ] || { sed -n 2,7p "$0" >&2; exit 2; }
archive=$1 folder=$2
shift 2
python=$("${PYTHON:-python3}" -c 'import sys; print(sys.executable)')
mkdir -p "$folder/results"
folder=$(cd "$folder" && pwd)
[ -d "$folder/src" ] || "$python" -m tarfile -e "$archive" "$folder"

export PYTHONPATH=$folder/src:$folder/site
error=$("$python" -c 'import numpy, onnxruntime' 2>&1) || {
    echo "unpack.sh: $archive is not for $("$python" --version): set PYTHON, or pack with --python (${error##*$'\n'})" >&2
    exit 1
}

# NVIDIA's packages lie beside torch, and not beside the onnxruntime that was unpacked.
libraries=$("$python" -c '
import pathlib, sys
print(*(str(found) for folder in sys.path for found in pathlib.Path(folder or ".", "nvidia").glob("*/lib")), sep=":")')
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# Said once, before each part fails for it.
[[ " $* " == *" --provider cpu "* ]] || "$python" -c '
import importlib.util, sys
from server.runtime.device_runner import RuntimeMissing, require_cuda
try:
    require_cuda()
except RuntimeMissing as reason:
    sys.exit(f"unpack.sh: {reason}; here torch for CUDA 13 brings them, or LD_LIBRARY_PATH names their folders")
if not importlib.util.find_spec("torch"):
    print("unpack.sh: this Python has no torch: the parts device and training will fail", file=sys.stderr)
'

flags=(--short 540 --data "$folder/data.txt" --folder "$folder/results")
for bundle in "$folder"/bundles/*; do flags+=(--bundle "$bundle"); done
cd "$folder/src"
exec "$python" -m benchmarks.cuda "${flags[@]}" "$@"
