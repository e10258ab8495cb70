#!/bin/sh
# Enrols and renews a device with openssl and curl alone: EST (RFC 7030, RFC 8951) and nothing of Muster's.
#
#   est-curl.sh HOST:PORT TOKEN ROOT [DIR]
#
#   HOST:PORT  the device listener, by a name that its certificate carries
#   TOKEN      an enrolment token; `-` reads it from standard input, out of sight of `ps`
#   ROOT       the root certificate (a PEM file), or its pin: the `ca=` value of an enrolment string
#   DIR        where key and certificate go; the current directory when left out
#   EST_LABEL  (environment) the EST label, which is the name of a profile; none when unset
#
# Leaves in DIR: root.pem, cacerts.pem, key.pem (0600), certificate.pem: the renewed ones.
# Ends with 0, or with 1 and one sentence.
set -eu
umask 077

fail() { echo "est-curl: $*" >&2; exit 1; }

[ $# -ge 3 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
server=$1 token=$2 root=$3 dir=${4:-.}
[ "$token" != - ] || IFS= read -r token || fail "no token on standard input"
est=https://$server/.well-known/est${EST_LABEL:+/$EST_LABEL}
mkdir -p "$dir"
work=$(mktemp -d "$dir/.est.XXXXXX")
trap 'rm -rf "$work"' EXIT

# request OPERATION OUTPUT [CURL OPTION…]: one EST request; answers the HTTP status on standard output.
# TLS 1.3, only this root is trusted, and the connection is never downgraded.
request() {
    operation=$1 output=$2
    shift 2
    curl --silent --show-error --tlsv1.3 --cacert "$dir/root.pem" --max-time 60 \
        --output "$output" --write-out '%{http_code}' "$@" "$est/$operation"
}

# certificates FILE: the PEM certificates in a base64 certs-only CMS message, with or without line breaks.
certificates() {
    { tr -d ' \r\n' <"$1" | fold -w 64; echo; } |
        openssl base64 -d | openssl pkcs7 -inform DER -print_certs | sed -n '/^-----BEGIN/,/^-----END/p'
}

# spki_pin FILE: base64url of the SHA-256 of a certificate's public key.
spki_pin() {
    openssl x509 -in "$1" -noout -pubkey | openssl pkey -pubin -outform DER |
        openssl dgst -sha256 -binary | openssl base64 | tr '+/' '-_' | tr -d '=\n'
}

# new_key FILE: a P-256 key, on the disk before anybody is asked to certify it.
new_key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"
    sync
}

# csr KEY REQUEST OPTION…: a certificate request in base64, as EST carries it.
csr() {
    key=$1 out=$2
    shift 2
    openssl req -new -key "$key" -outform DER "$@" | openssl base64 >"$out"
}

# post OPERATION REQUEST CERTIFICATE OPTION…: sends a request until the server decides; writes the certificate.
post() {
    operation=$1 body=$2 certificate=$3
    shift 3
    while :; do
        status=$(request "$operation" "$work/answer" --dump-header "$work/head" --data-binary "@$body" \
            --header 'Content-Type: application/pkcs10' --header 'Content-Transfer-Encoding: base64' "$@")
        case $status in
        200) break ;;
        # Somebody has to approve it first: the same request, later.
        202) sleep "$(sed -n 's/^[Rr]etry-[Aa]fter: *\([0-9]*\).*/\1/p' "$work/head")" ;;
        *) fail "$operation was answered with $status: $(cat "$work/answer")" ;;
        esac
    done
    certificates "$work/answer" >"$certificate"
    [ -s "$certificate" ] || fail "$operation answered no certificate"
}

# check CERTIFICATE KEY: the certificate is for our key and chains to the root through cacerts.
check() {
    openssl x509 -in "$1" -noout -pubkey >"$work/certified"
    openssl pkey -in "$2" -pubout >"$work/ours"
    cmp -s "$work/certified" "$work/ours" || fail "the certificate is for another key"
    openssl verify -CAfile "$dir/root.pem" -untrusted "$dir/cacerts.pem" -purpose sslclient "$1" >/dev/null ||
        fail "the certificate does not chain to the root"
}

# 1. The root: as a file, or found by its pin among what the server sends. Until the pin fits, nothing is trusted
#    and no secret is sent.
if [ -f "$root" ]; then
    cp "$root" "$dir/root.pem"
else
    curl --silent --show-error --tlsv1.3 --insecure --max-time 60 --output "$work/offered" "$est/cacerts"
    certificates "$work/offered" |
        awk -v dir="$work" '/BEGIN/ { n++ } { print > (dir "/ca." n) }'
    : >"$dir/root.pem"
    for candidate in "$work"/ca.*; do
        [ "$(spki_pin "$candidate")" != "$root" ] || cp "$candidate" "$dir/root.pem"
    done
    [ -s "$dir/root.pem" ] || fail "no certificate of this server has the pin $root"
fi

# 2. cacerts (RFC 7030, 4.1): root, issuing CA and whatever else the server's chain needs.
status=$(request cacerts "$work/cacerts")
[ "$status" = 200 ] || fail "cacerts was answered with $status"
certificates "$work/cacerts" >"$dir/cacerts.pem"

# 3. simpleenroll (4.2.1): the token is the password; the names in the request are only a hint.
#    The password goes to curl in a file, not as an argument that every user of the machine can read.
printf 'user = "pledge:%s"\n' "$token" >"$work/secret"
new_key "$dir/key.pem"
csr "$dir/key.pem" "$work/first.csr" -subj "/CN=pledge"
post simpleenroll "$work/first.csr" "$work/first.pem" --config "$work/secret"
check "$work/first.pem" "$dir/key.pem"
mv "$work/first.pem" "$dir/certificate.pem"
echo "enrolled: $(openssl x509 -in "$dir/certificate.pem" -noout -subject -serial | tr '\n' ' ')"

# 4. simplereenroll (4.2.2): a new key, the same subject and the same subjectAltName, over mutual TLS.
subject=$(openssl x509 -in "$dir/certificate.pem" -noout -subject -nameopt compat | sed 's/^subject= *//')
names=$(openssl x509 -in "$dir/certificate.pem" -noout -ext subjectAltName | sed -n 's/^ *\(URI:.*\)$/\1/p')
new_key "$work/next.key"
csr "$work/next.key" "$work/next.csr" -subj "$subject" -addext "subjectAltName=$names"
post simplereenroll "$work/next.csr" "$work/next.pem" --cert "$dir/certificate.pem" --key "$dir/key.pem"
check "$work/next.pem" "$work/next.key"

# 5. Make before break: an authenticated answer with the new certificate, and only then are the old ones forgotten.
status=$(request cacerts "$work/proof" --cert "$work/next.pem" --key "$work/next.key")
[ "$status" = 200 ] || fail "the new certificate was answered with $status; the old one still stands"
mv "$work/next.key" "$dir/key.pem"
mv "$work/next.pem" "$dir/certificate.pem"
echo "renewed:  $(openssl x509 -in "$dir/certificate.pem" -noout -subject -serial | tr '\n' ' ')"
