#!/bin/bash
# The official image's contract: POSTGRES_USER, POSTGRES_PASSWORD (or POSTGRES_PASSWORD_FILE), POSTGRES_DB and
# /docker-entrypoint-initdb.d on an empty PGDATA; then the server, as the user postgres.
set -euo pipefail

[ "${1:-}" = postgres ] || [ "${1#-}" != "${1:-}" ] || exec "$@"
[ "${1#-}" = "$1" ] || set -- postgres "$@"

if [ "$(id -u)" -eq 0 ]; then
  chown --recursive postgres:postgres "$PGDATA" /var/run/postgresql
  chmod 0700 "$PGDATA"
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

initialize() {
  local user=${POSTGRES_USER:-postgres} password=${POSTGRES_PASSWORD:-} database script
  database=${POSTGRES_DB:-$user}
  [ -z "${POSTGRES_PASSWORD_FILE:-}" ] || password=$(<"$POSTGRES_PASSWORD_FILE")
  if [ -z "$password" ]; then
    echo 'error: PGDATA is empty and no password is given for its superuser; set POSTGRES_PASSWORD' >&2
    exit 1
  fi
  initdb --username="$user" --pwfile=<(printf '%s\n' "$password") --encoding=UTF8 --locale=C.UTF-8 \
    --auth-local=trust --auth-host=scram-sha-256
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"

  # Not on TCP yet: nobody is to meet the half-made cluster.
  pg_ctl --options="-c listen_addresses=''" --wait start
  local psql=(psql --username="$user" --no-psqlrc --set=ON_ERROR_STOP=1)
  [ "$database" = postgres ] ||
    "${psql[@]}" --dbname=postgres --set=db="$database" <<<'CREATE DATABASE :"db";'
  for script in /docker-entrypoint-initdb.d/*; do
    case $script in
      *.sh) bash "$script" ;;
      *.sql) "${psql[@]}" --dbname="$database" --file="$script" ;;
    esac
  done
  pg_ctl --mode=fast --wait stop
}

[ -s "$PGDATA/PG_VERSION" ] || initialize
unset POSTGRES_PASSWORD
exec "$@" -c listen_addresses='*'
