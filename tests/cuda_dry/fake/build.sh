#!/usr/bin/env bash
# Build a CUDA that executes nothing and counts everything: onnxruntime-gpu's own binary loads on it, and partitions,
# fuses, captures and replays graphs, on a machine without a GPU. Results are zeros.
#
#   build.sh OUT INCLUDE     OUT/cu13/lib, OUT/cudnn/lib, OUT/driver; INCLUDE has CUDA 13's cuda_runtime_api.h
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/cu13/lib" "$1/cudnn/lib" "$1/driver"
out=$(cd "$1" && pwd)
flags=(-O1 -fPIC -w -I"$2" -I"$here")
cuda=$out/cu13/lib

g++ -std=c++17 "${flags[@]}" -shared -o "$cuda/libfakecuda.so" "$here/device.cpp" -Wl,-soname,libfakecuda.so

# library FILE SOURCE... : each finds the device beside itself, under the names and versions of NVIDIA's libraries.
library() {
    local file=$1 name=${1##*/}
    shift
    echo "$name { global: *; };" >"$out/symbols.map"
    "${compiler[@]}" "${flags[@]}" -shared -o "$file" "$@" -Wl,-soname,"$name" -Wl,--version-script="$out/symbols.map" \
        -Wl,--no-as-needed -L"$cuda" -lfakecuda -Wl,-rpath,'$ORIGIN:$ORIGIN/../../cu13/lib:$ORIGIN/../cu13/lib'
}

compiler=(gcc)
gcc "${flags[@]}" -c -o "$out/stubs.o" "$here/cudart_stubs.c"
library "$cuda/libcublas.so.13" "$here/cublas.c"
library "$cuda/libcublasLt.so.13" "$here/cublaslt.c"
library "$cuda/libcurand.so.10" "$here/empty.c"
library "$cuda/libcufft.so.12" "$here/empty.c"
library "$cuda/libnvrtc.so.13" "$here/empty.c"
library "$out/cudnn/lib/libcudnn.so.9" "$here/cudnn.c"
library "$out/driver/libcuda.so.1" "$here/driver.c"
compiler=(g++ -std=c++17)
library "$cuda/libcudart.so.13" "$here/cudart.cpp" "$out/stubs.o"
rm -f "$out/stubs.o" "$out/symbols.map"
