# Sourced by the other scripts here: names, messages and the engine's two Compose forms.
# shellcheck shell=bash disable=SC2034 # what is not used here is used there

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
STATE=$ROOT/.stack                      # everything `make stack` writes outside of the engine
export COMPOSE_PROJECT_NAME=drawing
VOLUME=${COMPOSE_PROJECT_NAME}_postgres_data
CONTAINERS=(drawing_postgres drawing_redis drawing_backend drawing_celery_worker)
IN_USE=$STATE/in_use                    # locked by whatever works on the stack: see scripts/hold-stack
LABEL=drawing.stack                     # on every image, container and volume that is ours

say() { printf '%s\n' "$*"; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# The client alone proves nothing: it may be there without an engine.
engine_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# `docker compose` (v2) where the client has it, else the stand-alone docker-compose (1.29).
compose_command() {
  if docker compose version >/dev/null 2>&1; then
    printf 'docker compose'
  elif docker-compose version >/dev/null 2>&1; then
    printf 'docker-compose'
  else
    return 1
  fi
}

compose() {
  local command
  command=$(compose_command) || die "Looked for Compose to run the stack, but neither 'docker compose' nor" \
    "'docker-compose' works here; run 'make engine' or install one of them."
  # shellcheck disable=SC2086 # two words for v2, one for the stand-alone form
  $command --file "$ROOT/stack/docker-compose.yml" "$@"
}

# docker build, with the legacy builder where BuildKit's client plugin is missing.
build_image() {
  if docker buildx version >/dev/null 2>&1; then
    docker buildx build --load "$@"
  else
    DOCKER_BUILDKIT=0 docker build --force-rm "$@"
  fi
}

is_root() { [ "$(id -u)" -eq 0 ]; }

on_debian() { command -v apt-get >/dev/null && grep -qs '^ID=debian$' /etc/os-release; }

# Installs Debian packages; only called as root on Debian.
apt_install() {
  mkdir -p "$STATE"
  say "Installing $* (log: .stack/apt.log)."
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends "$@"; } >>"$STATE/apt.log" 2>&1 </dev/null; then
    tail -n 5 "$STATE/apt.log" >&2
    die "Tried to install $* with apt-get, which failed (last lines above); mend the apt sources and run this again."
  fi
}

label_of() { # image|volume|container NAME LABEL: the label's value, or nothing
  local path=.Labels
  [ "$1" = volume ] || path=.Config.Labels
  docker "$1" inspect --format "{{index $path \"$3\"}}" "$2" 2>/dev/null || true
}

# Ends with an error where another checkout's tests or demonstration are at work on its stack, which is about to go. That
# checkout begins nothing on it until this script ends.
refuse_while_in_use() {
  local folder
  folder=$(label_of container drawing_postgres com.docker.compose.project.working_dir)
  if [ ! -e "$folder/../.stack/in_use" ] || [ "$folder/../.stack/in_use" -ef "$IN_USE" ]; then return 0; fi
  exec 6<"$folder/../.stack/in_use"
  flock --nonblock 6 || die "The stack on this engine is that of the checkout $(dirname "$folder"), where a command of make works" \
    "on it; wait until that command has ended, and run this again."
}

# The stack's containers and their network, of any checkout.
remove_containers() {
  local ids
  ids=$(docker container ls --all --quiet --filter "label=$LABEL")
  # shellcheck disable=SC2086 # one word an id
  [ -z "$ids" ] || docker container rm --force --volumes $ids >/dev/null
  docker network ls --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" |
    xargs --no-run-if-empty docker network rm >/dev/null
}
