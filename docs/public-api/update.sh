#!/usr/bin/env bash
# Writes the list of public items of every published crate, to this folder or to the one that is given.
# It needs a nightly toolchain (for rustdoc's JSON) and `cargo install cargo-public-api`.
set -euo pipefail
cd "$(dirname "$0")/../.."
to=${1:-docs/public-api}
mkdir -p "$to"
for package in gradlog gradlog-analysis gradlog-arrow gradlog-cli gradlog-format gradlog-kernels; do
    # Without blanket implementations, auto traits and derived implementations.
    cargo +nightly public-api -sss -p "$package" >"$to/$package.txt"
done
