{{/* KEDA triggers. */}}

{{/* Runs that one pod should carry, at least 1: a pool. */}}
{{- define "skillfleet.targetPerPod" -}}
{{- max 1 (div (mul (int .concurrency) (int .autoscaling.targetUtilizationPercent)) 100) -}}
{{- end }}

{{/* Queued and running runs of all the pool's queues, in one number: root, pool. */}}
{{- define "skillfleet.demandTrigger" -}}
{{- $name := include "skillfleet.name" (dict "root" .root "suffix" "exporter") -}}
{{- $own := printf "http://%s.%s.svc:%d" $name .root.Release.Namespace (int .root.Values.exporter.port) -}}
{{- $queues := list -}}
{{- range .pool.queues }}{{ $queues = append $queues (printf "queue=%s" (urlquery .)) }}{{ end -}}
- type: metrics-api
  metricType: AverageValue
  metadata:
    url: {{ .root.Values.keda.exporterUrl | default $own | trimSuffix "/" }}/demand?{{ join "&" $queues }}
    valueLocation: demand
    targetValue: {{ include "skillfleet.targetPerPod" .pool | quote }}
{{- end }}

{{- define "skillfleet.redisListTriggers" -}}
{{- $url := urlParse .root.Values.redis.url -}}
{{- $list := .pool.autoscaling.redisList -}}
{{- $user := include "skillfleet.redisUser" (dict "root" .root "role" "exporter") | fromJson -}}
{{- $host := $url.host -}}
{{- if .root.Values.valkey.enabled -}}
{{- $host = printf "%s.%s.svc" (include "skillfleet.name" (dict "root" .root "suffix" "valkey")) .root.Release.Namespace -}}
{{- end -}}
{{- if not (contains ":" $host) }}{{ $host = printf "%s:6379" $host }}{{ end -}}
{{- $address := $list.address | default $host -}}
{{- $database := trimPrefix "/" $url.path | default "0" -}}
{{- if not (kindIs "invalid" $list.database) }}{{ $database = $list.database | int | toString }}{{ end -}}
{{- $prefix := eq .root.Values.settings.namespace "skillfleet" | ternary "" (printf "%s:" .root.Values.settings.namespace) -}}
{{- range $index, $queue := .pool.queues }}
- type: redis
  name: q{{ $index }}
  metricType: AverageValue
  metadata:
    address: {{ $address | quote }}
    listName: {{ printf "%s%s" $prefix $queue | quote }}
    listLength: {{ include "skillfleet.targetPerPod" $.pool | quote }}
    databaseIndex: {{ $database | quote }}
    {{- if hasPrefix "rediss://" $.root.Values.redis.url }}
    enableTLS: "true"
    {{- end }}
    {{- if and $user.username (not $user.usernameKey) }}
    username: {{ $user.username | quote }}
    {{- end }}
  {{- if include "skillfleet.redisListSecrets" $.root }}
  authenticationRef:
    name: {{ include "skillfleet.name" (dict "root" $.root "suffix" "redis-auth") }}
  {{- end }}
{{- end }}
{{- end }}

{{/* What KEDA needs to read the lists, as the exporter's user: secretTargetRef entries; empty when nothing. */}}
{{- define "skillfleet.redisListSecrets" -}}
{{- $user := include "skillfleet.redisUser" (dict "root" . "role" "exporter") | fromJson -}}
{{- range $parameter, $key := dict "username" $user.usernameKey "password" $user.passwordKey }}
{{- if $key }}
- parameter: {{ $parameter }}
  name: {{ $user.secret | quote }}
  key: {{ $key | quote }}
{{- end }}
{{- end }}
{{- with .Values.redis.tls }}
{{- if .caSecret }}
- parameter: ca
  name: {{ .caSecret | quote }}
  key: {{ .caKey | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Slow scale-in, of the HPA that KEDA makes and of our own: autoscaling. */}}
{{- define "skillfleet.scaleDown" -}}
scaleDown:
  stabilizationWindowSeconds: {{ .scaleDown.stabilizationSeconds | int }}
  selectPolicy: Max
  policies:
    - type: Pods
      value: {{ .scaleDown.podsPerMinute | int }}
      periodSeconds: 60
{{- end }}
