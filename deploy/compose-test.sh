#!/usr/bin/env bash
# Proves compose.yml by running it: store files, stop three nodes, read everything back, start the
# nodes again, take it all down. Needs Docker and docker-compose; set SIXFOLD_BASE_IMAGE and
# SIXFOLD_BUILD_NETWORK where no image registry can be reached (see deploy/Dockerfile).
set -euo pipefail
cd "$(dirname "$0")/.."

export SIXFOLD_PORT=${SIXFOLD_PORT:-18600}
project=sixfold-test-$$
url=http://127.0.0.1:$SIXFOLD_PORT
work=$(mktemp -d)
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose -p "$project")
else
    compose=(docker-compose -p "$project")
fi

finish() {
    status=$?
    [ "$status" = 0 ] || "${compose[@]}" logs --tail=30 || true
    "${compose[@]}" down --volumes --timeout 20 >/dev/null 2>&1 || true
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
# Trapped, a signal waits for the command in progress: else `up` would go on while `down` runs.
trap 'exit 130' INT
trap 'exit 143' TERM

step() { printf '== %s\n' "$*"; }

count() { # how many nodes are in state $1
    curl -fs "$url/-/admin/nodes" | python3 -c \
        'import json, sys; print(sum(n["state"] == sys.argv[1] for n in json.load(sys.stdin)["nodes"]))' "$1"
}

wait_for() { # until $2 nodes are in state $1
    for _ in $(seq 120); do
        [ "$(count "$1" 2>/dev/null || echo 0)" != "$2" ] || return 0
        sleep 1
    done
    echo "waited in vain for $2 nodes to be $1" >&2
    return 1
}

wait_healthy() { # until Docker's own checks say so of all ten
    for _ in $(seq 120); do
        healthy=$(docker ps -q --filter "label=com.docker.compose.project=$project" \
            --filter health=healthy | wc -l)
        [ "$healthy" != 10 ] || return 0
        sleep 1
    done
    echo "waited in vain for ten healthy containers: $healthy are" >&2
    return 1
}

read_back() {
    for name in "${!ids[@]}"; do
        curl -fsS -o "$work/back" "$url/v1/blobs/${ids[$name]}"
        cmp "$work/$name" "$work/back"
    done
    echo "all ${#ids[@]} files are equal"
}

step "up"
"${compose[@]}" up -d --build --quiet-pull
wait_for active 9
wait_healthy
curl -fsS "$url/-/ready"
echo
"${compose[@]}" ps
user=$("${compose[@]}" exec -T coordinator python -c 'import os; print(os.getuid())')
step "processes run as uid $user"
[ "$user" != 0 ]

step "store"
declare -A ids
for size in 0 1 5000 70000 1000000 20000000 67108864; do
    head -c "$size" /dev/urandom >"$work/$size"
    ids[$size]=$(curl -fsS -T "$work/$size" "$url/v1/blobs" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])')
done
read_back

step "stop three nodes"
"${compose[@]}" stop --timeout 20 node-2 node-5 node-8
wait_for active 6
read_back

step "start them again"
"${compose[@]}" start node-2 node-5 node-8
wait_for active 9
read_back

step "restart everything: the data stays"
"${compose[@]}" restart --timeout 20
wait_for active 9
wait_healthy
read_back
echo "compose-test: ok"
