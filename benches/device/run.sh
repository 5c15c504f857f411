#!/usr/bin/env bash
# Measures recording on a GPU, in one call of under ten minutes, on a machine that has only the driver and CUDA's
# libraries. Build first, where a compiler is (a GPU is not needed for it):
#
#     cargo bench --no-run --bench device --features cuda
#     strip -o device-bench target/release/deps/device-HASH   # as the last line of cargo names it; 58 MB
#
# Then, where the GPU is:
#
#     benches/device/run.sh ./device-bench FOLDER
#
# FOLDER gets what each call printed and its JSON; docs/device.md says what the columns are. CUDA_LIBS names folders with
# CUDA's libraries, if they are not where the loader looks.
set -uo pipefail
binary=${1:?the program that was built}
folder=${2:?a folder for the results}
mkdir -p "$folder"
if [ -n "${CUDA_LIBS:-}" ]; then export LD_LIBRARY_PATH="$CUDA_LIBS:${LD_LIBRARY_PATH:-}"; fi
nvidia-smi >"$folder/nvidia-smi.txt" 2>&1
ldd "$binary" >"$folder/ldd.txt" 2>&1
# A program that was linked against stand-ins has no entry for the driver.
if ! ldd "$binary" | grep -q libcuda; then export LD_PRELOAD="libcuda.so.1${LD_PRELOAD:+:$LD_PRELOAD}"; fi
failed=0
# The questions in the order of their weight: what comes last may be cut off.
run() {
    local name=$1 limit=$2
    shift 2
    echo "== $name"
    timeout "$limit" "$binary" "$@" --json "$folder/$name.json" 2>&1 | tee "$folder/$name.txt" || failed=1
}
run small 90 --tiny --pairs 2
run transformer 150 --only transformer --pairs 6
run mlp 60 --only mlp
run cnn 90 --only cnn
run transformer-two-sided 90 --only transformer --pairs 4 --side 64 --dtype bf16
run transformer-memory 90 --only transformer --pairs 1 --sketching memory --dtype bf16
exit "$failed"
