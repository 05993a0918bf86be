#!/usr/bin/env bash
# A real cluster with TLS on every connection: who may come in, who is sent away and what it is told, and a store whose
# certificate is replaced while it runs.
#
# usage: tls.sh [--workdir DIR]        (the binary is NOKV_BIN or target/release/nokv)
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. scripts/test/lib.sh
begin "$@"
certs=$dir/tls
export NOKV_TLS_CA=$certs/ca/ca.crt NOKV_TLS_CERT=$certs/client.admin.crt NOKV_TLS_KEY=$certs/client.admin.key
plain=
cleanup() {
    if [ -n "$plain" ]; then { kill -9 "$plain" && wait "$plain"; } 2>/dev/null || true; fi
    stop_cluster
    [ -n "$workdir" ] || rm -rf "$work"
}
trap cleanup EXIT

# refused EXIT CODE TEXT COMMAND...
refused() {
    local exit=$1 code=$2 text=$3 got=0
    shift 3
    timeout -k 5 20 "$@" >"$work/out" 2>"$work/err" </dev/null || got=$?
    if [ "$got" -ne "$exit" ] || ! grep -qF "error[$code]" "$work/err" || ! grep -qF -- "$text" "$work/err"; then
        cat "$work/out" "$work/err" >&2
        die "'$*' ended with $got, want $exit and error[$code] with '$text'"
    fi
}
serial() { "$nokv" cert show --addr "$1" -o json | sed -n 's/.*"serial": "\(.*\)".*/\1/p' | head -n 1; }
# within SECONDS COMMAND...: waits until it succeeds.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >"$work/out" 2>&1; do
        [ $SECONDS -lt $deadline ] || { cat "$work/out" >&2 && die "'$*' does not succeed"; }
        sleep 0.3
    done
}

start_cluster --tls
say 'with certificates everything works'
"$nokv" put hello world >/dev/null
[ "$("$nokv" get hello)" = world ] || die 'get after put'
roots=(--root-peer 1=127.0.0.1:2380 --root-peer 2=127.0.0.1:2381 --root-peer 3=127.0.0.1:2382)
within 10 "$nokv" status "${roots[@]}"
"$nokv" execution --addr 127.0.0.1:20170 >/dev/null
[ "$("$nokv" cert show "$NOKV_TLS_CERT" | grep -c 'role     admin')" -eq 1 ] || die 'the role of the client'

say 'without them nothing does, and it says why'
bare=(env -u NOKV_TLS_CERT -u NOKV_TLS_KEY "$nokv")
refused 7 certificate_required 'pass --tls-cert/--tls-key' "${bare[@]}" get hello
refused 7 certificate_required 'pass --tls-cert/--tls-key' "${bare[@]}" status "${roots[@]}"
refused 7 certificate_required 'pass --tls-cert/--tls-key' "${bare[@]}" execution --addr 127.0.0.1:20170
plainly=(env -u NOKV_TLS_CA -u NOKV_TLS_CERT -u NOKV_TLS_KEY "$nokv")
refused 7 tls_required 'the server wants TLS' "${plainly[@]}" get hello
refused 7 tls_required 'the server wants TLS' "${plainly[@]}" put hello there
refused 7 tls_required 'the server wants TLS' "${plainly[@]}" status
refused 7 tls_required 'the server wants TLS' "${plainly[@]}" execution --addr 127.0.0.1:20170
refused 7 tls_required 'the server wants TLS' "${plainly[@]}" region export --addr 127.0.0.1:20170 --region 1 --to "$work/region"
"$nokv" cert create-ca --dir "$work/other" --name 'Another CA' >/dev/null
"$nokv" cert create-client --ca-dir "$work/other" --out "$work/other" --name mallory >/dev/null
mallory=(--tls-cert "$work/other/client.mallory.crt" --tls-key "$work/other/client.mallory.key")
refused 7 certificate_invalid 'is not issued by an authority' "$nokv" get --tls-ca "$work/other/ca.crt" "${mallory[@]}" hello
cat "$NOKV_TLS_CA" "$work/other/ca.crt" >"$work/both.crt"
refused 7 certificate_rejected 'does not trust CN=Another CA' "$nokv" get --tls-ca "$work/both.crt" "${mallory[@]}" hello
grep -q 'a client was refused' "$dir"/logs/coordinator-1.log || die 'the coordinator does not say whom it refused'

say 'a certificate has a role'
"$nokv" cert create-client --ca-dir "$certs/ca" --out "$work" --name reader >/dev/null
reader=(--tls-cert "$work/client.reader.crt" --tls-key "$work/client.reader.key")
[ "$("$nokv" get "${reader[@]}" hello)" = world ] || die 'a client may read'
refused 7 denied 'needs the role admin' "$nokv" region split "${reader[@]}" g
refused 7 denied 'needs the role admin' "$nokv" store decommission "${reader[@]}" 1
"$nokv" region split g >/dev/null

say 'a server without TLS is called that'
peers=(--peer 1=127.0.0.1:24380 --peer 2=127.0.0.1:24381 --peer 3=127.0.0.1:24382)
"${plainly[@]}" meta-root --workdir "$work/plain" --node-id 1 --addr 127.0.0.1:24390 --transport-addr 127.0.0.1:24380 "${peers[@]}" \
    >"$work/plain.log" 2>&1 </dev/null &
plain=$!
within 10 grep -q 'listening on' "$work/plain.log"
refused 7 tls_unexpected 'does not speak TLS' "$nokv" execution --addr 127.0.0.1:24390
refused 7 tls_unexpected 'does not speak TLS' "$nokv" get --coordinator-addr 127.0.0.1:24390 hello
refused 7 tls_unexpected 'does not speak TLS' "$nokv" cert show --addr 127.0.0.1:24390
grep -q 'it speaks TLS' "$work/plain.log" || die 'the server without TLS does not say who spoke it'

say 'a store gets another certificate while it runs'
before=$(serial 127.0.0.1:20170) born=$(pid store-1)
[ -n "$before" ] || die 'no serial'
fresh() { rm -rf "$work/new" && "$nokv" cert create-node --ca-dir "$certs/ca" --out "$work/new" --name store-1 --host "$1" >/dev/null; }
fresh 127.0.0.1,localhost
mv "$work/new/node.key" "$work/new/node.crt" "$certs/store-1/"
sleep 1.2
after=$(serial 127.0.0.1:20170)
[ "$before" != "$after" ] || die 'the store still shows its old certificate'
grep -q "$after" "$dir/logs/store-1.log" || die 'the store does not say that it has read another certificate'
"$nokv" put hello again >/dev/null && [ "$("$nokv" get hello)" = again ] || die 'after the rotation'
"$cluster" --workdir "$dir" restart store-2
within 15 "$nokv" status "${roots[@]}"

say 'one that is no good changes nothing'
echo nonsense >"$certs/store-1/node.crt"
sleep 1.2
[ "$(serial 127.0.0.1:20170)" = "$after" ] || die 'a broken file'
grep -q 'the old ones stay in force' "$dir/logs/store-1.log" || die 'the store does not say that the new certificate is no good'
within 10 "$nokv" status "${roots[@]}"

say 'one for another host is seen by whoever dials'
fresh store-1.example.net
mv "$work/new/node.key" "$work/new/node.crt" "$certs/store-1/"
sleep 1.2
refused 7 certificate_invalid 'is for store-1.example.net, not for 127.0.0.1' "$nokv" execution --addr 127.0.0.1:20170
[ "$(pid store-1)" = "$born" ] || die 'store-1 was restarted'
say 'passed'
