# shellcheck shell=bash
# What the scripts of the tiers share; each sources it first, and is in the checkout then.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck disable=SC2034
python=.venv/bin/python
export PYTHONDONTWRITEBYTECODE=1

phase() { printf '\n== %s\n' "$*"; }

# beside NAME COMMAND...: run it while the script goes on, out of sight; `joined` shows what it said. One at a time.
beside() {
  beside_name=$1 beside_log=build/beside.log beside_start=$SECONDS
  mkdir -p build
  # in a session of its own, which Ctrl-C reaches by `leave` alone: what a shell starts so ignores it otherwise
  setsid env --default-signal=INT "${@:2}" &>"$beside_log" &
  beside_pid=$!
  trap leave EXIT
}

# joined: wait for it, show its output, and fail if it has failed
joined() {
  local code=0
  wait "$beside_pid" || code=$?
  trap - EXIT
  phase "$beside_name, meanwhile (done after $((SECONDS - beside_start)) s)"
  cat "$beside_log"
  return $code
}

leave() { # the script ends early: what runs beside it cleans up first
  kill -INT -- "-$beside_pid" 2>/dev/null || kill -INT "$beside_pid" 2>/dev/null || true
  wait "$beside_pid" || true
}
