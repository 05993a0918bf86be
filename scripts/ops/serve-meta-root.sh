#!/usr/bin/env bash
# Runs one of the three meta-roots in the foreground.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
set_usage '--workdir DIR --node-id N --transport-addr HOST:PORT --peer 1=HOST:PORT --peer 2=HOST:PORT --peer 3=HOST:PORT
           [--addr HOST:PORT] [--tick-interval 100ms] [--metrics-addr HOST:PORT] [--tls-ca FILE --tls-cert FILE --tls-key FILE] [-- MORE]
       (--peer lists transport addresses, this node included; the binary is NOKV_BIN, nokv in PATH, or target/release/nokv)'
read_args "$@"
need --workdir
need --node-id
need --transport-addr
need_three --peer 'every meta-root, NODE=TRANSPORT_ADDRESS'
become meta-root
