#!/usr/bin/env bash
# Makes the pictures of README from the digits run: trains it if it is not there, writes its page, and lets a headless
# Chromium take the pictures.
#
#     docs/pictures/make.sh [FOLDER WITH THE RUN]
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-$(mktemp -d)}

if [ ! -d "$folder/run" ]; then cargo run --release -p gradlog --example mnist -- --out "$folder"; fi
cargo run --release -p gradlog-cli -- report "$folder/run" --data idx:examples/data/mnist --out "$folder/report.html"

# NAME WIDTH HEIGHT VIEW
picture() {
    chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --virtual-time-budget=8000 \
        --window-size="$2,$3" --screenshot="$folder/$1.png" "file://$(realpath "$folder")/report.html#/$4"
    # Fewer colors make a smaller file.
    if command -v pngquant >/dev/null; then pngquant --force --output "docs/pictures/$1.png" 64 "$folder/$1.png"; else cp "$folder/$1.png" "docs/pictures/$1.png"; fi
    if (($(stat -c %s "docs/pictures/$1.png") > 300000)); then echo "docs/pictures/$1.png is over 300 kB" >&2; exit 1; fi
}
picture suspects 1360 800 'suspects?example=3185'
picture probes 1360 800 'probes?probe=26'
