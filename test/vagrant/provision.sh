#!/bin/sh
# Makes this machine a murmur node: installs what the host needs, the built programs, the configuration and the systemd
# unit, and starts it. Running it again upgrades the node; no container is restarted.
#
#   NODE_NAME NODE_IP   this node
#   JOIN                a member to join; empty founds a cluster
#   TOKEN_FILE          file with the join token; copied into CONFIG_DIR
#   START               systemd, foreground (become the daemon), or no
#
# The paths are variables too, so that several nodes can be provisioned on one machine.
set -eu

: "${NODE_NAME:?}" "${NODE_IP:?}"
: "${JOIN:=}" "${TOKEN_FILE:=/tmp/murmur-token}" "${START:=systemd}"
: "${BIN_SOURCE:=/opt/murmur/bin}" "${UNIT_SOURCE:=/opt/murmur/contrib/murmur.service}"
: "${PREFIX:=/usr/local}" "${UNIT_DIR:=/etc/systemd/system}"
: "${CONFIG_DIR:=/etc/murmur}" "${DATA_DIR:=/var/lib/murmur}" "${RUN_DIR:=/run/murmur}" "${CGROUP_ROOT:=/murmur}"

fail() { echo "provision: $*" >&2; exit 1; }

case $START in
systemd | foreground | no) ;;
*) fail "START=$START: want systemd, foreground or no" ;;
esac
[ "$(id -u)" = 0 ] || fail "run this as root"
[ -x "$BIN_SOURCE/murmur" ] || fail "$BIN_SOURCE/murmur is missing: run \`make build\` first"
[ -f "$UNIT_SOURCE" ] || fail "$UNIT_SOURCE is missing"

missing=
for program in iptables; do
	command -v "$program" >/dev/null || missing="$missing $program"
done
if [ -n "$missing" ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q
	apt-get install -q -y --no-install-recommends $missing
fi

# A program that runs cannot be written to, but it can be replaced.
mkdir -p "$PREFIX/lib/murmur" "$PREFIX/bin" "$UNIT_DIR" "$CONFIG_DIR"
cp -R --remove-destination "$BIN_SOURCE/." "$PREFIX/lib/murmur/"
ln -sf "$PREFIX/lib/murmur/murmur" "$PREFIX/bin/murmur"
[ -e "$PREFIX/bin/kubectl" ] || ln -sf "$PREFIX/lib/murmur/kubectl" "$PREFIX/bin/kubectl"

if [ -n "$JOIN" ]; then
	[ -s "$TOKEN_FILE" ] || fail "$TOKEN_FILE is missing or empty: \`murmur token create --token-only\` on $JOIN prints the token"
	install -m 0600 "$TOKEN_FILE" "$CONFIG_DIR/token"
fi
config=$CONFIG_DIR/config.yaml
{
	echo "# Written by provision.sh. Keys are the flags of \`murmur up\`; your own go into $config.d/*.yaml."
	echo "node-name: $NODE_NAME"
	echo "node-ip: $NODE_IP"
	echo "data-dir: $DATA_DIR"
	echo "run-dir: $RUN_DIR"
	echo "config-dir: $CONFIG_DIR"
	echo "cgroup-root: $CGROUP_ROOT"
	if [ -n "$JOIN" ]; then
		echo "join: $JOIN"
		echo "token-file: $CONFIG_DIR/token"
	fi
} >"$config.new"
mv "$config.new" "$config"

sed "s|^ExecStart=.*|ExecStart=$PREFIX/bin/murmur up --config $config|" "$UNIT_SOURCE" >"$UNIT_DIR/murmur.service"

case $START in
no) ;;
foreground)
	exec "$PREFIX/bin/murmur" up --config "$config"
	;;
systemd)
	systemctl daemon-reload
	systemctl enable -q murmur.service
	systemctl restart murmur.service
	for i in $(seq 60); do
		if "$PREFIX/bin/murmur" status --run-dir "$RUN_DIR" >/dev/null 2>&1 && [ -s "$CONFIG_DIR/murmur.yaml" ]; then
			echo "$NODE_NAME runs at $NODE_IP"
			exit 0
		fi
		sleep 1
	done
	journalctl -u murmur.service -n 20 --no-pager >&2 || true
	fail "the daemon did not come up within a minute"
	;;
esac
