{{- define "fanfold.name" -}}
{{ printf "%s-%s" .context.Release.Name .part | trunc 50 }}
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
system_bucket = {{ .Values.systemBucket | quote }}

[store]
{{- if .Values.store.endpoint }}
endpoint = {{ .Values.store.endpoint | quote }}
{{- end }}
region = {{ .Values.store.region | quote }}
credentials = "/etc/fanfold/store/store-credentials"

[nats]
urls = {{ .Values.nats.urls | toJson }}
replicas = {{ .Values.nats.replicas }}
{{- if .Values.nats.requireTls }}
require_tls = true
{{- end }}
{{- if .Values.secrets.nats }}
credentials = "/etc/fanfold/nats/nats.creds"
{{- end }}

[tls]
cert = "/etc/fanfold/tls/tls.crt"
key = "/etc/fanfold/tls/tls.key"
ca = "/etc/fanfold/tls/ca.crt"
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
  httpGet: { path: /readyz, port: probes }
  periodSeconds: 5
  timeoutSeconds: 4
{{- end }}

{{- define "fanfold.mounts" -}}
- { name: config, mountPath: /etc/fanfold/config, readOnly: true }
- { name: store, mountPath: /etc/fanfold/store, readOnly: true }
- { name: tls, mountPath: /etc/fanfold/tls, readOnly: true }
{{- if .context.Values.secrets.nats }}
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
{{- if .context.Values.secrets.nats }}
- name: nats
  secret: { secretName: {{ .context.Values.secrets.nats }}, defaultMode: 0440 }
{{- end }}
{{- end }}
