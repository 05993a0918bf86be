#!/usr/bin/env bash
# The same simulated world on madsim's executor, which intercepts entropy, clocks and threads: an independent
# proof that nothing leaks past `env`. A build of its own, because `--cfg madsim` changes dependencies.
set -eu
cd "$(dirname "$0")/../.."
RUSTFLAGS='--cfg madsim' CARGO_TARGET_DIR=target/madsim cargo test -p nokv-sim --test madsim
