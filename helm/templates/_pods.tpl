{{/* What pods have in common: the restricted Pod Security Standard, environment, volumes. */}}

{{- define "skillfleet.podSecurity" -}}
automountServiceAccountToken: false
{{- /* Service links would add SKILLFLEET_* and FLOWER_* variables that are read as settings. */}}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- range $key, $id := .Values.podSecurity }}
  {{- if not (kindIs "invalid" $id) }}
  {{ $key }}: {{ $id | int64 }}
  {{- end }}
  {{- end }}
  {{- if not (kindIs "invalid" .Values.podSecurity.fsGroup) }}
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "skillfleet.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* The image of a part that runs skillfleet: root, image (optional overrides). */}}
{{- define "skillfleet.runImage" -}}
{{- $image := include "skillfleet.imageOver" (dict "under" .root.Values.image "over" (.image | default dict)) | fromJson -}}
{{- if not $image.tag }}{{ $_ := set $image "tag" .root.Chart.AppVersion }}{{ end -}}
image: {{ include "skillfleet.image" $image | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end }}

{{/* Where pods may run: nodeSelector, tolerations, affinity. */}}
{{- define "skillfleet.placement" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with index $ $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "skillfleet.secretEnv" -}}
- name: {{ .env }}
  valueFrom:
    secretKeyRef:
      name: {{ .name | quote }}
      key: {{ .key | quote }}
{{- end }}

{{- define "skillfleet.valkeySecret" -}}
{{- .Values.valkey.auth.existingSecret | default (include "skillfleet.name" (dict "root" . "suffix" "valkey")) -}}
{{- end }}

{{/*
Who a process is to Redis, as JSON: root, role (worker, producer, exporter or flower). `secret` is
the Secret's name; `urlKey`, `usernameKey` and `passwordKey` are keys of it, `username` a plain name.
*/}}
{{- define "skillfleet.redisUser" -}}
{{- if .root.Values.valkey.enabled -}}
{{- dict "username" (printf "skillfleet-%s" .role) "secret" (include "skillfleet.valkeySecret" .root) "usernameKey" "" "passwordKey" .role | toJson -}}
{{- else -}}
{{- $redis := .root.Values.redis -}}
{{- $user := dict "username" $redis.username "secret" $redis.existingSecret.name -}}
{{- range list "urlKey" "usernameKey" "passwordKey" }}{{ $_ := set $user . (get $redis.existingSecret .) }}{{ end -}}
{{- $own := get $redis.users .role | default dict -}}
{{- if $own.username }}{{ $_ := set $user "usernameKey" "" }}{{ end -}}
{{- range $key, $value := $own }}{{ if $value }}{{ $_ := set $user $key $value }}{{ end }}{{ end -}}
{{- $user | toJson -}}
{{- end -}}
{{- end }}

{{/*
How a process reaches the ledger and the broker, which the exporter does not ask: root, role. What
is no secret stands in the settings.
*/}}
{{- define "skillfleet.connectionEnv" -}}
{{- $user := include "skillfleet.redisUser" . | fromJson -}}
{{- if not (or .root.Values.valkey.enabled .root.Values.redis.url) }}
{{ include "skillfleet.secretEnv" (dict "env" "SKILLFLEET_REDIS_URL" "name" $user.secret "key" $user.urlKey) }}
{{- end }}
{{- if $user.usernameKey }}
{{ include "skillfleet.secretEnv" (dict "env" "SKILLFLEET_REDIS_USERNAME" "name" $user.secret "key" $user.usernameKey) }}
{{- else if $user.username }}
- name: SKILLFLEET_REDIS_USERNAME
  value: {{ $user.username | quote }}
{{- end }}
{{- if $user.passwordKey }}
{{ include "skillfleet.secretEnv" (dict "env" "SKILLFLEET_REDIS_PASSWORD" "name" $user.secret "key" $user.passwordKey) }}
{{- end }}
{{- with eq .role "exporter" | ternary dict .root.Values.broker.existingSecret }}
{{- if .name }}
{{ include "skillfleet.secretEnv" (dict "env" "SKILLFLEET_BROKER_URL" "name" .name "key" .urlKey) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The environment of every skillfleet process: root, role (who it is to Redis). */}}
{{- define "skillfleet.env" -}}
{{- include "skillfleet.connectionEnv" . | trim }}
- name: SKILLFLEET_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: SKILLFLEET_POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- end }}

{{/*
What the exports of a worker say of it, unless the operator's own variables do: root, own (env).
A variable that is given twice is refused by servers that apply.
*/}}
{{- define "skillfleet.telemetryEnv" -}}
{{- $given := keys .root.Values.settings.extra -}}
{{- range .own }}{{ $given = append $given .name }}{{ end -}}
{{- $headers := .root.Values.telemetry.headersSecret -}}
{{- if .root.Values.telemetry.otlpEndpoint }}
{{- if not (has "OTEL_SERVICE_NAME" $given) }}
- name: OTEL_SERVICE_NAME
  value: skillfleet-worker
{{- end }}
{{- if not (has "OTEL_RESOURCE_ATTRIBUTES" $given) }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name=$(SKILLFLEET_POD_NAMESPACE),k8s.pod.name=$(SKILLFLEET_POD_NAME)
{{- end }}
{{- if and $headers.name (not (has "OTEL_EXPORTER_OTLP_HEADERS" $given)) }}
{{ include "skillfleet.secretEnv" (dict "env" "OTEL_EXPORTER_OTLP_HEADERS" "name" $headers.name "key" $headers.key) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "skillfleet.envFrom" -}}
envFrom:
  - configMapRef:
      name: {{ include "skillfleet.name" (dict "root" . "suffix" "settings") }}
{{- end }}

{{/* Where a worker's settings and the credentials of its object store come from. */}}
{{- define "skillfleet.workerEnvFrom" -}}
{{- include "skillfleet.envFrom" . }}
{{- with .Values.artifacts.credentialsSecret }}
  - secretRef:
      name: {{ . | quote }}
{{- end }}
{{- end }}

{{/* The object store of a worker. Only workers use it: others need neither access nor credentials. */}}
{{- define "skillfleet.artifactsEnv" -}}
{{- with .Values.artifacts -}}
{{- if .url }}
- name: SKILLFLEET_ARTIFACTS_URL
  value: {{ .url | quote }}
{{- range $name, $value := .options }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The workspaces of a worker, and of its check: environment, mount and volume. */}}
{{- define "skillfleet.workspacesEnv" -}}
{{- if .Values.workspaces.enabled -}}
- name: SKILLFLEET_WORKSPACE
  value: directory
- name: SKILLFLEET_WORKSPACE_DIRECTORY
  value: /var/lib/skillfleet/workspaces
{{- end }}
{{- end }}

{{- define "skillfleet.workspacesMount" -}}
{{- if .Values.workspaces.enabled -}}
- name: workspaces
  mountPath: /var/lib/skillfleet/workspaces
{{- end }}
{{- end }}

{{- define "skillfleet.workspacesVolume" -}}
{{- with .Values.workspaces -}}
{{- if .enabled -}}
- name: workspaces
  persistentVolumeClaim:
    claimName: {{ .existingClaim | default (include "skillfleet.name" (dict "root" $ "suffix" "workspaces")) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* A number as a setting takes it: Helm reads large ones as floats, 2.592e+06. */}}
{{- define "skillfleet.number" -}}
{{- eq (float64 .) (floor .) | ternary (. | int64 | toString) (. | toString) -}}
{{- end }}

{{/* The settings that are no secrets, as the ConfigMap's data. Pods roll when they change. */}}
{{- define "skillfleet.settings" -}}
{{- $data := dict "SKILLFLEET_NAMESPACE" .Values.settings.namespace "SKILLFLEET_LOG_FORMAT" .Values.settings.logFormat -}}
{{- $_ := set $data "SKILLFLEET_LEASE_SECONDS" (.Values.settings.leaseSeconds | toString) -}}
{{- $_ := set $data "SKILLFLEET_DEFAULT_QUEUE" .Values.settings.defaultQueue -}}
{{- range $variable, $value := dict "PARK_SECONDS" "parkSeconds" "MAX_WAIT_SECONDS" "maxWaitSeconds" "MAX_JOURNAL_BYTES" "maxJournalBytes" "SESSION_RETENTION_SECONDS" "sessionRetentionSeconds" "UNSERVED_SECONDS" "unservedSeconds" -}}
{{- $_ := set $data (printf "SKILLFLEET_%s" $variable) (include "skillfleet.number" (get $.Values.settings $value)) -}}
{{- end -}}
{{- with .Values.auth.tenantClaim }}{{ $_ := set $data "SKILLFLEET_TENANT_CLAIM" . }}{{ end -}}
{{- with .Values.telemetry.tags }}{{ $_ := set $data "SKILLFLEET_TELEMETRY_TAGS" (join "," .) }}{{ end -}}
{{- if .Values.valkey.enabled -}}
{{- $_ := set $data "SKILLFLEET_REDIS_URL" (printf "redis://%s:6379/0" (include "skillfleet.name" (dict "root" . "suffix" "valkey"))) -}}
{{- else if .Values.redis.url -}}
{{- $_ := set $data "SKILLFLEET_REDIS_URL" .Values.redis.url -}}
{{- end -}}
{{- if .Values.redis.tls.caSecret }}{{ $_ := set $data "SKILLFLEET_REDIS_CA_FILE" (printf "/etc/skillfleet/redis-ca/%s" .Values.redis.tls.caKey) }}{{ end -}}
{{- with .Values.broker.url }}{{ $_ := set $data "SKILLFLEET_BROKER_URL" . }}{{ end -}}
{{- with .Values.telemetry.otlpEndpoint -}}
{{- $_ := set $data "OTEL_EXPORTER_OTLP_ENDPOINT" . -}}
{{- $_ := set $data "OTEL_EXPORTER_OTLP_PROTOCOL" "http/protobuf" -}}
{{- end -}}
{{- merge $data .Values.settings.extra | toYaml -}}
{{- end }}

{{- define "skillfleet.settingsChecksum" -}}
checksum/settings: {{ include "skillfleet.settings" . | sha256sum }}
{{- end }}

{{/* Every pod's volumes: root, tmp (size). */}}
{{- define "skillfleet.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .tmp | quote }}
{{- with .root.Values.redis.tls }}
{{- if .caSecret }}
- name: redis-ca
  secret:
    secretName: {{ .caSecret | quote }}
    items:
      - key: {{ .caKey | quote }}
        path: {{ .caKey | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "skillfleet.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if .Values.redis.tls.caSecret }}
- name: redis-ca
  mountPath: /etc/skillfleet/redis-ca
  readOnly: true
{{- end }}
{{- end }}
