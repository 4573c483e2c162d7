#!/bin/sh
# Makes the certificate and the signed messages of this folder anew; the key is thrown away.
set -eu
cd "$(dirname "$0")"
openssl req -x509 -newkey rsa:2048 -nodes -days 36500 -subj /CN=sns.example.org -keyout key.pem -out certificate.pem
openssl pkcs8 -topk8 -nocrypt -in key.pem -outform DER -out key.der
rm key.pem

# NAME VERSION TYPE MESSAGE [PAGE]
message() {
  hash=$([ "$2" = 1 ] && echo sha1 || echo sha256)
  {
    printf 'Message\n%s\nMessageId\nm\n' "$4"
    [ -z "${5-}" ] || printf 'SubscribeURL\n%s\n' "$5"
    printf 'Timestamp\n2026-11-23T10:00:00.500Z\n'
    [ -z "${5-}" ] || printf 'Token\n2336412f\n'
    printf 'TopicArn\narn:aws:sns:eu-west-1:1:t\nType\n%s\n' "$3"
  } >text
  lines=
  [ -z "${5-}" ] || lines=$(printf '  "Token": "2336412f",\n  "SubscribeURL": "%s",\n ' "$5")
  signature=$(openssl dgst "-$hash" -sign key.der -keyform DER text | base64 -w0)
  rm text
  cat >"$1.json" <<JSON
{
  "Type": "$3",
  "MessageId": "m",
${lines} "TopicArn": "arn:aws:sns:eu-west-1:1:t",
  "Message": "$4",
  "Timestamp": "2026-11-23T10:00:00.500Z",
  "SignatureVersion": "$2",
  "Signature": "$signature",
  "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a1b.pem"
}
JSON
}
message version-1 1 Notification hello
message version-2 2 Notification hello
page='?Action=ConfirmSubscription&TopicArn=arn:aws:sns:eu-west-1:1:t&Token=2336412f'
message confirmation 2 SubscriptionConfirmation confirm "https://sns.eu-west-1.amazonaws.com/$page"
message confirmation-elsewhere 2 SubscriptionConfirmation confirm "https://sns.example.org/$page"
rm key.der
