#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes what compose.yaml needs, once: secrets, certificates, the image. `setup.sh --secrets` makes the secrets alone.
set -eu
cd "$(dirname "$0")"
umask 077
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

if [ ! -d state ]; then
  # What an earlier run began, if it was interrupted, is nobody's yet.
  rm -rf state.part
  mkdir state.part
  printf 'ff_%s' "$(random 32)" >state.part/token
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
# As root, who alone may read what an earlier run gave away. The users of the images get what they have to read: 10001 is
# ours, 1000 that of SeaweedFS. The folder and the token stay with whoever runs this.
docker run --rm --user 0 --entrypoint sh -v "$PWD/state:/state" fanfold -euc "
  [ -d /state/certs ] || fanfold certs --out /state/certs \
    --gateway gateway --worker worker-1 --worker worker-2 --worker worker-3
  [ -d /state/nats ] || fanfold nats-users --out /state/nats \
    --gateway gateway --worker worker-1 --worker worker-2 --worker worker-3
  chown -R 10001 /state
  chown 1000 /state/s3.json
  chown $(id -u) /state /state/token
"
echo "start with: docker compose up -d --wait; the token of users is in state/token"
