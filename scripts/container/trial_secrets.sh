#!/bin/sh
# Makes what a trial needs to talk in confidence: an authority, certificates of server and client, a token.
#
#   sh scripts/container/trial_secrets.sh [FOLDER]      secrets, where compose.yaml looks for it, if FOLDER is not named
#
# For trials only: the authority's key lies beside the rest, and everything expires after 30 days. An existing folder is
# left as it is.
set -eu
umask 077

folder=${1:-secrets}
days=30
container_user=10001 # of the images
names=DNS:localhost,DNS:server,DNS:wan,IP:127.0.0.1,IP:::1

if test -e "$folder"; then
    echo "$folder exists already: remove it first, or name another folder" >&2
    exit 2
fi
command -v openssl >/dev/null || { echo "openssl is not installed: install it, or make the files elsewhere" >&2; exit 2; }

mkdir -p "$folder"
cd "$folder"
echo '*' >.gitignore

key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null
}

certificate() { # name, extended key usage, alternative names
    key "$1.key"
    printf 'basicConstraints=critical,CA:FALSE\nextendedKeyUsage=%s\nsubjectAltName=%s\n' "$2" "$3" >"$1.ext"
    openssl req -new -key "$1.key" -subj "/CN=Slipstream trial $1" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days $days -sha256 -extfile "$1.ext" \
        -out "$1.crt" 2>/dev/null
    rm "$1.csr" "$1.ext"
}

key ca.key
openssl req -x509 -new -key ca.key -sha256 -days $days -subj "/CN=Slipstream trial authority" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -out ca.crt
certificate tls serverAuth "$names"
certificate client clientAuth DNS:client
openssl rand -hex 32 >token
rm -f ca.srl

# A container sees the files themselves, with their owners and rights. As root, they are given to the images' user;
# otherwise everybody may read them who may enter the folder, which is nobody but you.
if chown "$container_user:$container_user" tls.crt tls.key client.crt client.key ca.crt token 2>/dev/null; then
    chmod 400 tls.key client.key token
    chmod 444 tls.crt client.crt ca.crt
else
    chmod 444 tls.crt tls.key client.crt client.key ca.crt token
fi
echo "$folder: ca.crt, tls.crt and tls.key, client.crt and client.key, token; valid for $days days"
