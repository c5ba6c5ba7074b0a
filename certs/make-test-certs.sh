#!/usr/bin/env bash
# Makes certificates for tests with openssl: make-test-certs.sh DIR [DEVICE] [NAME...]
#   ca.pem ca.key            an authority of its own, not the gateway's
#   server.pem server.key    for localhost, 127.0.0.1, ::1 and NAME...
#   client.pem client.key    for DEVICE (default meter-1), as the gateway would issue it
#   client.csr               a request with the same key, for `headgate credential issue --request`
#   expired.pem early.pem usage.pem foreign.pem selfsigned.pem   what must be refused, all for client.key
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,7s/^# //p' "$0"; exit 2; }
dir=$1 device=${2:-meter-1}
shift $(($# > 1 ? 2 : 1))
command -v openssl >/dev/null || { echo "openssl is missing: apt-get install openssl" >&2; exit 1; }
umask 077
mkdir -p "$dir"
cd "$dir"

key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null ||
    openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }
authority() { # file name, common name
    key "$1.key"
    openssl req -x509 -new -key "$1.key" -sha256 -days 3650 -subj "/CN=$2" -out "$1.pem" \
        -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign
}
sign() { # request, certificate, authority, extensions, begin, end (YYYYMMDDHHMMSSZ)
    mkdir -p .ca && : >.ca/index && echo unique_subject=no >.ca/index.attr
    printf '[ca]\ndefault_ca=d\n[d]\ndatabase=.ca/index\nrand_serial=yes\nnew_certs_dir=.ca\npolicy=p\ndefault_md=sha256\n[p]\ncommonName=supplied\n[e]\n%s\n' "$4" >.ca/conf
    openssl ca -batch -notext -config .ca/conf -extensions e -in "$1" -out "$2" -cert "$3.pem" -keyfile "$3.key" \
        -startdate "$5" -enddate "$6" >/dev/null 2>.ca/log || { cat .ca/log >&2; exit 1; }
}
at() { date -u -d "$1" +%Y%m%d%H%M%SZ; }

authority ca "Headgate test authority"
authority foreign-ca "Somebody else's authority"

names="DNS:localhost,IP:127.0.0.1,IP:::1"
for name in "$@"; do
    case $name in *[!0-9.]*) names+=",DNS:$name" ;; *) names+=",IP:$name" ;; esac
done
key server.key
openssl req -new -key server.key -subj "/CN=localhost" -out server.csr
usage=$'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nauthorityKeyIdentifier=keyid\nextendedKeyUsage='
sign server.csr server.pem ca "${usage}serverAuth
subjectAltName=$names" "$(at '1 hour ago')" "$(at '397 days')"

key client.key
openssl req -new -key client.key -subj "/CN=$device" -out client.csr
child="${usage}clientAuth
subjectAltName=URI:urn:headgate:device:$device"
sign client.csr client.pem ca "$child" "$(at '1 hour ago')" "$(at '90 days')"
sign client.csr expired.pem ca "$child" "$(at '90 days ago')" "$(at '1 day ago')"
sign client.csr early.pem ca "$child" "$(at '1 day')" "$(at '90 days')"
sign client.csr usage.pem ca "${usage}serverAuth
subjectAltName=URI:urn:headgate:device:$device" "$(at '1 hour ago')" "$(at '90 days')"
sign client.csr foreign.pem foreign-ca "$child" "$(at '1 hour ago')" "$(at '90 days')"
openssl req -x509 -new -key client.key -sha256 -days 90 -subj "/CN=$device" -out selfsigned.pem \
    -addext "subjectAltName=URI:urn:headgate:device:$device" -addext extendedKeyUsage=clientAuth
rm -rf .ca server.csr
echo "made in $PWD:"
ls -1
