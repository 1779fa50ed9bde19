# Shared by ci/test and ci/nightly: steps with their times and counts, registry downloads with retries, what must be installed.
# Sourced, from the root of the project.

LOGS=target/ci-logs
PROFILE=ci
BIN=${CARGO_TARGET_DIR:-target}/$PROFILE
passed=0
failed=0
failures=()
started=$SECONDS
mkdir -p "$LOGS"

# Bold for people, plain for logs.
say() { if [ -t 1 ]; then printf '\033[1m%s\033[0m\n' "$*"; else printf '%s\n' "$*"; fi; }

# run NAME COMMAND…: prints the command, streams its output, keeps it in target/ci-logs, goes on when it fails.
# Counts what the step's own lines count ('N passed; N failed' of cargo, 'N passed, N failed' of our runners), else the step itself.
run() {
  local name=$1 log="$LOGS/$1.log" from=$SECONDS status=0 p f
  shift
  say "== $name: $*"
  "$@" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  read -r p f < <(awk '
    /^test result: / { for (i = 1; i < NF; i++) { if ($(i + 1) ~ /^passed/) p += $i; if ($(i + 1) ~ /^failed/) f += $i } }
    /^([a-z]+: )?[0-9]+ passed, [0-9]+ failed/ { for (i = 1; i < NF; i++) { if ($(i + 1) ~ /^passed/) p += $i; if ($(i + 1) ~ /^failed/) f += $i } }
    END { print p + 0, f + 0 }' "$log")
  if [ "$status" != 0 ] && [ "$f" = 0 ]; then f=1; fi
  if [ "$status" = 0 ] && [ "$p" = 0 ]; then p=1; fi
  passed=$((passed + p)); failed=$((failed + f))
  if [ "$status" = 0 ]; then say "-- $name: ok in $((SECONDS - from)) s ($p passed)"
  else failures+=("$name"); say "-- $name: FAILED (exit $status) in $((SECONDS - from)) s; its output: $log"; fi
  return "$status"
}

# need NAME COMMAND…: a step without which the rest makes no sense.
need() { run "$@" || finish; }

finish() {
  # Once more at the end, where a log that was cut still has it: what failed, by name.
  for name in "${failures[@]}"; do
    say "-- $name: FAILED, by its log:"
    grep -E '^(test .* FAILED|error(\[|:)|(not ok|FAIL|FAILED)( |:)|seed .*(FAILED|failed))|panicked at' "$LOGS/$name.log" | sort -u | head -n 20
  done
  say "== $((SECONDS - started)) s; steps that failed: ${failures[*]:-none}"
  # Alone on a line: this is what continuous integration reads.
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
  exit
}

# retry COMMAND…: only for downloads from package registries.
retry() {
  local try
  for try in 1 2 3; do
    "$@" && return 0
    echo "try $try of 3 failed: $*" >&2
    [ "$try" = 3 ] || sleep $((try * 5))
  done
  return 1
}

# The Debian packages that are missing here, by the command each brings.
missing_packages() {
  local missing=()
  command -v cc >/dev/null || missing+=(build-essential)
  command -v kcat >/dev/null || missing+=(kcat)
  { command -v java && command -v javac; } >/dev/null || missing+=(default-jdk-headless)
  command -v mvn >/dev/null || missing+=(maven)
  command -v go >/dev/null || missing+=(golang-go)
  command -v ip >/dev/null || missing+=(iproute2)
  command -v unshare >/dev/null || missing+=(util-linux)
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
  echo "${missing[*]}"
}

# Installs what is missing, after asking unless CI is set.
install_tools() {
  local missing sudo='' answer
  for tool in cargo rustc; do
    command -v $tool >/dev/null || { echo "$tool is missing: install Rust (1.90 or newer) with rustup" >&2; return 1; }
  done
  missing=$(missing_packages)
  [ -n "$missing" ] || { echo "nothing to install: cc, kcat, java, mvn, go, ip, unshare, python3 with venv are here"; return 0; }
  command -v apt-get >/dev/null || { echo "install by hand (no apt-get here): $missing" >&2; return 1; }
  [ "$(id -u)" = 0 ] || sudo=sudo
  echo "to install with ${sudo:+sudo }apt-get: $missing"
  if [ -z "${CI:-}" ]; then
    [ -t 0 ] || { echo "not asking without a terminal: set CI=true to allow it, or install by hand" >&2; return 1; }
    read -r -p 'install now? [y/N] ' answer
    [ "$answer" = y ] || return 1
  fi
  retry $sudo apt-get update -qq && retry $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
}

warn_rustflags() {
  if [ -n "${RUSTFLAGS+set}" ]; then
    echo "warning: RUSTFLAGS is set and overrides .cargo/config.toml; the simulator needs RUSTFLAGS='--cfg madsim'. Unset it for this run:" >&2
    unset RUSTFLAGS
    echo "warning: done, only for this run" >&2
  fi
}
