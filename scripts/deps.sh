#!/bin/sh
# Installs what is missing on a Debian machine: what the programs are built with (C is only in runc), what a node uses, what tests use; with
# "conformance", also what images are made with. Says what to do where it cannot.
set -eu

missing=
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need gcc "gcc libc6-dev"
[ -e /usr/include/seccomp.h ] || missing="$missing libseccomp-dev"
need iptables iptables
need ip iproute2
need conntrack conntrack
need curl curl
need busybox busybox-static
need openssl openssl
need ps procps
need swtpm swtpm
if [ "${1:-}" = conformance ]; then
	need bzip2 bzip2
fi
missing=$(echo $missing)
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "missing on this machine: install these packages as root: $missing" >&2
	exit 1
fi
echo "installing: $missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends $missing >/dev/null
