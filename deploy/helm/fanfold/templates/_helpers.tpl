{{- /* A release's name begins all others, of which the longest are those of StatefulSets' revisions: 11 letters more than
"-gateway" or "-worker" and 63 at most. What is cut off of a longer one is told apart by its digest. */ -}}
{{- define "fanfold.release" -}}
{{- if le (len .Release.Name) 43 }}
{{- .Release.Name }}
{{- else }}
{{- printf "%s-%s" (.Release.Name | trunc 34 | trimSuffix "-") (.Release.Name | sha256sum | trunc 8) }}
{{- end }}
{{- end }}

{{- define "fanfold.name" -}}
{{ printf "%s-%s" (include "fanfold.release" .context) .part }}
{{- end }}

{{- define "fanfold.selector" -}}
app.kubernetes.io/name: fanfold
app.kubernetes.io/instance: {{ .context.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "fanfold.meta" -}}
name: {{ include "fanfold.name" . }}
labels:
  {{- include "fanfold.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .context.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .context.Release.Service }}
{{- end }}

{{- define "fanfold.common" -}}
{{- $values := .context.Values -}}
system_bucket = {{ $values.systemBucket | quote }}

[store]
{{- if $values.store.endpoint }}
endpoint = {{ $values.store.endpoint | quote }}
{{- end }}
region = {{ $values.store.region | quote }}
credentials = "/etc/fanfold/store/store-credentials"
{{- with $values.store.extra }}
{{ . | trim }}
{{- end }}

[nats]
urls = {{ $values.nats.urls | toJson }}
replicas = {{ $values.nats.replicas }}
{{- if $values.nats.requireTls }}
require_tls = true
{{- end }}
{{- if and .nats (not $values.nats.users) }}
credentials = "/etc/fanfold/nats/nats.creds"
{{- else if and .nats (eq .part "worker") }}
user = "{name}"
password = "/etc/fanfold/nats/password"
restricted = true
{{- else if .nats }}
user = "gateway"
password = "/etc/fanfold/nats/gateway.password"
{{- end }}
{{- with $values.nats.extra }}
{{ . | trim }}
{{- end }}

[tls]
cert = "/etc/fanfold/tls/tls.crt"
key = "/etc/fanfold/tls/tls.key"
ca = "/etc/fanfold/tls/ca.crt"
{{- end }}

{{- define "fanfold.gateway.toml" -}}
{{- $gateway := .context.Values.gateway -}}
listen = "0.0.0.0:7070"
{{- if not $gateway.tenants }}
tenant = {{ $gateway.tenant | default "default" | quote }}
token_digests = "/etc/fanfold/tokens/token-digests"
{{- end }}
{{ include "fanfold.common" . }}
{{- range $gateway.tenants }}

[[tenants]]
token_digests = "/etc/fanfold/tokens/{{ .name }}"
{{- range $key, $value := . }}
{{- if kindIs "map" $value }}
{{- range $inner, $value := $value }}
{{ $key }}.{{ $inner }} = {{ $value | toJson }}
{{- end }}
{{- else }}
{{ $key }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{- end }}
{{- with $gateway.config }}

{{ . | trim }}
{{- end }}
{{- end }}

{{- define "fanfold.worker.toml" -}}
{{- $worker := .context.Values.worker -}}
listen = "0.0.0.0:7080"
advertise = "{name}.{{ include "fanfold.name" . }}.{{ .context.Release.Namespace }}.svc:7080"
probe_listen = "0.0.0.0:7081"
slots = {{ $worker.slots }}
cache = "/var/cache/fanfold"
{{- with $worker.config }}
{{ . | trim }}
{{- end }}
{{ include "fanfold.common" . }}
{{- end }}

{{- define "fanfold.pod" -}}
serviceAccountName: {{ .context.Release.Name }}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  fsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "fanfold.selector" . | nindent 8 }}
{{- end }}

{{- define "fanfold.container" -}}
image: "{{ .context.Values.image.repository }}:{{ .context.Values.image.tag | default .context.Chart.AppVersion }}"
imagePullPolicy: {{ .context.Values.image.pullPolicy }}
args: [{{ .part }}, --config, /etc/fanfold/config/{{ .part }}.toml]
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
livenessProbe:
  httpGet: { path: /healthz, port: probes }
  periodSeconds: 10
  failureThreshold: 6
readinessProbe:
  {{- /* What is away is away for all gateways at once: those that answer say so, and stay in the Service. */}}
  httpGet: { path: "/readyz{{ if eq .part "gateway" }}?serving=true{{ end }}", port: probes }
  periodSeconds: 5
  timeoutSeconds: 4
{{- end }}

{{- define "fanfold.mounts" -}}
- { name: config, mountPath: /etc/fanfold/config, readOnly: true }
- { name: store, mountPath: /etc/fanfold/store, readOnly: true }
- { name: tls, mountPath: /etc/fanfold/tls, readOnly: true }
{{- if and .nats .context.Values.nats.users (eq .part "worker") }}
# Of all workers' passwords its own.
- { name: nats, mountPath: /etc/fanfold/nats/password, subPathExpr: "$(POD_NAME).password", readOnly: true }
{{- else if .nats }}
- { name: nats, mountPath: /etc/fanfold/nats, readOnly: true }
{{- end }}
{{- end }}

{{- define "fanfold.volumes" -}}
- name: config
  configMap: { name: {{ include "fanfold.name" . }} }
- name: store
  secret: { secretName: {{ .context.Values.secrets.store }}, defaultMode: 0440 }
- name: tls
  secret: { secretName: {{ .tls }}, defaultMode: 0440 }
{{- if .nats }}
- name: nats
  secret: { secretName: {{ .nats }}, defaultMode: 0440 }
{{- end }}
{{- end }}
