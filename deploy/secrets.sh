#!/bin/sh
# Writes the folder `secrets` for docker-compose.yml, a file for each secret; what is there stays.
# Values of an earlier installation are taken from LETHE_SECRET, LETHE_SIGNING_KEY, POSTGRES_PASSWORD, REDIS_PASSWORD.
# The folder is for its owner alone. The files in it are not, because a container's user has another number than yours.
set -eu
umask 077
folder=${1:-secrets}
mkdir -p "$folder"
chmod 700 "$folder"

write() {
    [ -s "$folder/$1" ] && return
    printf '%s\n' "$2" > "$folder/$1.part"
    chmod 444 "$folder/$1.part"
    mv "$folder/$1.part" "$folder/$1"
}

write lethe_secret "${LETHE_SECRET:-$(openssl rand -hex 32)}"
write lethe_signing_key "${LETHE_SIGNING_KEY:-$(openssl genpkey -algorithm ed25519)}"
write postgres_password "${POSTGRES_PASSWORD:-$(openssl rand -hex 16)}"
write redis_password "${REDIS_PASSWORD:-$(openssl rand -hex 16)}"
write lethe_database_url "postgresql://lethe:$(cat "$folder/postgres_password")@postgres/lethe"
write lethe_broker_url "redis://:$(cat "$folder/redis_password")@redis:6379/0"
