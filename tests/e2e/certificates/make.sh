#!/bin/sh
# Makes the certificates of the tests anew, with openssl 3.0 or later. They are checked in, since not every machine has
# it; valid from 2020 to 2120, so that no machine's clock matters. Worth nothing: everybody has the keys.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/index"

cat >"$work/config" <<END
[ca]
default_ca = it
[it]
database = $work/index
new_certs_dir = $work
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
[any]
commonName = supplied
[req]
distinguished_name = nobody
[nobody]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, DNS:cloud.test, IP:127.0.0.1
authorityKeyIdentifier = keyid
[client]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = clientAuth
authorityKeyIdentifier = keyid
END

# make NAME SECTION how-it-is-signed...
make() {
    name=$1 section=$2
    shift 2
    openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$name.key"
    openssl req -new -config "$work/config" -subj "/CN=$name" -key "$name.key" -out "$work/$name.csr"
    openssl ca -batch -notext -config "$work/config" -extensions "$section" -in "$work/$name.csr" -out "$name.crt" \
        -startdate 20200101000000Z -enddate 21200101000000Z "$@" 2>"$work/said" || { cat "$work/said"; exit 1; }
}

make authority authority -selfsign -keyfile authority.key
make server server -cert authority.crt -keyfile authority.key
make client client -cert authority.crt -keyfile authority.key
make other-authority authority -selfsign -keyfile other-authority.key
make stranger client -cert other-authority.crt -keyfile other-authority.key
make expired server -cert authority.crt -keyfile authority.key -enddate 20210101000000Z
rm authority.key other-authority.key
