#!/bin/sh
# Makes the key, the certificate and the signed messages of this folder anew. The key signs for nobody.
set -eu
cd "$(dirname "$0")"
openssl req -x509 -newkey rsa:2048 -nodes -days 36500 -subj /CN=sns.example.org -keyout key.pem -out certificate.pem
openssl pkcs8 -topk8 -nocrypt -in key.pem -outform DER -out key.der
rm key.pem
for version in 1 2; do
  hash=$([ "$version" = 1 ] && echo sha1 || echo sha256)
  printf 'Message\nhello\nMessageId\nm\nTimestamp\n2026-11-23T10:00:00.500Z\nTopicArn\narn:aws:sns:eu-west-1:1:t\nType\nNotification\n' >text
  signature=$(openssl dgst "-$hash" -sign key.der -keyform DER text | base64 -w0)
  rm text
  cat >"version-$version.json" <<JSON
{
  "Type": "Notification",
  "MessageId": "m",
  "TopicArn": "arn:aws:sns:eu-west-1:1:t",
  "Message": "hello",
  "Timestamp": "2026-11-23T10:00:00.500Z",
  "SignatureVersion": "$version",
  "Signature": "$signature",
  "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a1b.pem"
}
JSON
done
