#!/bin/sh
# Run tokenmill with the database's password, which the clients of PostgreSQL read from this variable.
set -eu
if [ -n "${DB_PASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$DB_PASSWORD_FILE")
    export PGPASSWORD
fi
exec tokenmill "$@"
