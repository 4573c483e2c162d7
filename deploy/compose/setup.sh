#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes what compose.yaml needs, once: secrets, certificates, the image. `setup.sh --secrets` makes the secrets alone.
set -eu
cd "$(dirname "$0")"
umask 077
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

if [ ! -d state ]; then
  mkdir state.part
  random 32 >state.part/token
  printf %s "$(cat state.part/token)" | sha256sum | cut -d' ' -f1 >state.part/token-digests
  printf '%s\n%s\n' "$(random 10)" "$(random 20)" >state.part/store-credentials
  cat >state.part/s3.json <<JSON
{"identities": [{"name": "fanfold", "actions": ["Admin", "Read", "List", "Tagging", "Write"],
  "credentials": [{"accessKey": "$(sed -n 1p state.part/store-credentials)", "secretKey": "$(sed -n 2p state.part/store-credentials)"}]}]}
JSON
  mv state.part state
fi
[ "${1-}" = --secrets ] && exit

docker build -f ../Dockerfile -t fanfold ../..
if [ ! -d state/certs ]; then
  docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/state:/state" fanfold certs --out /state/certs \
    --gateway gateway --worker worker-1 --worker worker-2 --worker worker-3
fi
if [ ! -d state/nats ]; then
  docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/state:/state" fanfold nats-users --out /state/nats \
    --gateway gateway --worker worker-1 --worker worker-2 --worker worker-3
fi
# The user of the image has to read them.
docker run --rm --user 0 --entrypoint chown -v "$PWD/state:/state" fanfold -R 10001 /state
echo "start with: docker compose up -d --wait; the token of users is in state/token, which is root's to read now"
