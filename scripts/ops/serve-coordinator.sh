#!/usr/bin/env bash
# Runs one coordinator in the foreground.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
set_usage '--coordinator-id ID --root-peer 1=HOST:PORT --root-peer 2=HOST:PORT --root-peer 3=HOST:PORT
           [--addr HOST:PORT] [--lease-ttl 10s] [--lease-renew-before 3s] [--root-refresh 200ms]
           [--metrics-addr HOST:PORT] [--tls-ca FILE --tls-cert FILE --tls-key FILE] [-- MORE]
       (--root-peer lists gRPC addresses; the binary is NOKV_BIN, nokv in PATH, or target/release/nokv)'
read_args "$@"
need --coordinator-id
need_three --root-peer 'every meta-root, NODE=GRPC_ADDRESS'
become coordinator
