#!/bin/sh
# A broker of three servers on this one machine, with two schedulers, web and a sidecar: to
# look at it, and to kill what you like. `make cluster` runs it; Ctrl-C ends all of it.
#   AGENTCOM_DATA  where it lives (a new folder otherwise)
#   PORT           the first server's; the others' are the next, the dashboard's the fourth
#   ADDRESS        where the servers are reached (127.0.0.1: from this machine alone)
set -eu
AGENTCOM_DATA=${AGENTCOM_DATA:-$(mktemp -d)}
PORT=${PORT:-4222}
ADDRESS=${ADDRESS:-127.0.0.1}
export AGENTCOM_DATA
cd "$AGENTCOM_DATA"

agentcom keys --cluster here --host one >/dev/null \
  --node "n1=$ADDRESS:$PORT" --node "n2=$ADDRESS:$((PORT + 1))" --node "n3=$ADDRESS:$((PORT + 2))"

running=
trap 'trap - EXIT INT TERM; kill $running 2>/dev/null || :; wait || :' EXIT
trap 'exit 0' INT TERM
start() { # NAME COMMAND...: in the background, its words in a file
  name=$1
  shift
  "$@" >>"$name.log" 2>&1 &
  running="$running $!"
  echo "$name	$!	$AGENTCOM_DATA/$name.log"
}

for node in n1 n2 n3; do start "$node" nats-server -c "nodes/$node/nats.conf"; done
# Three servers choose a leader before they make a stream.
until agentcom provision 2>provision.log; do sleep 1; done
start scheduler-1 agentcom scheduler
start scheduler-2 agentcom scheduler
start web agentcom web --port "$((PORT + 3))"
start sidecar agentcom sidecar --name one
echo
echo "In another terminal:  export AGENTCOM_DATA=$AGENTCOM_DATA"
echo "                      agentcom doctor; agentcom submit --shell 'echo here' --follow"
echo "ready"
wait
