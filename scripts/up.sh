#!/bin/sh
# Three real nodes on this machine, the example on them, and what it answers from each.
set -eu
cd "$(dirname "$0")/.."
lab=bin/murmur-lab

$lab up --nodes 3
image=$($lab image examples/hello example.murmur.io/hello:1 | tail -n 1)
$lab load "$image"
$lab exec n1 -- kubectl apply -f examples/hello/hello.yaml
$lab exec n1 -- kubectl rollout status deployment/hello --timeout=120s
$lab exec n3 -- kubectl get nodes,pods,services -o wide

vip=$($lab exec n2 -- kubectl get service hello -o 'jsonpath={.spec.clusterIP}')
for n in n1 n2 n3; do
	echo
	echo "from $n, the service address $vip, the node port and the name:"
	$lab exec $n -- curl -sS --max-time 5 "http://$vip/"
	$lab exec $n -- curl -sS --max-time 5 "http://127.0.0.1:30080/"
	$lab exec $n -- busybox nslookup hello.default.svc.cluster.local 10.43.0.10 | sed -n 's/^Address: */  hello.default.svc.cluster.local = /p' | tail -n 1
done
cat <<'END'

Try next:
  bin/murmur-lab exec n2 -- kubectl get pods -o wide --watch
  bin/murmur-lab exec n1 -- kubectl scale deployment/hello --replicas=9
  bin/murmur-lab partition n1 n2,n3     then kubectl on either side; bin/murmur-lab heal
  bin/murmur-lab kill n2                the pods of n2 run elsewhere soon; bin/murmur-lab start n2
  bin/murmur-lab exec n3 -- murmur status
  make down                             removes all of it
END
