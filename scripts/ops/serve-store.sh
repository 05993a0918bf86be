#!/usr/bin/env bash
# Runs one store in the foreground.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
set_usage '--store-id N (--config FILE | --workdir DIR) [--scope local|docker] [--addr HOST:PORT]
           [--coordinator-addr HOST:PORT,...] [--store-addr ID=HOST:PORT]... [--raft-debug-log]
           [--metrics-addr HOST:PORT] [--tls-ca FILE --tls-cert FILE --tls-key FILE] [-- MORE]
       (the binary is NOKV_BIN, nokv in PATH, or target/release/nokv)'
read_args "$@"
need --store-id
[ "$(given --config)" -gt 0 ] || [ "$(given --workdir)" -gt 0 ] || fail '--config or --workdir must say where the store lives'
become serve
