{{/* Parts of NetworkPolicies. */}}

{{/* A peer: all pods of a namespace, by its name. */}}
{{- define "skillfleet.fromNamespace" -}}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ . }}
{{- end }}

{{- define "skillfleet.egressDns" -}}
- ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - port: {{ . | int }}
      protocol: UDP
    - port: {{ . | int }}
      protocol: TCP
    {{- end }}
{{- end }}

{{/* The TCP port of a URL, or that of its scheme. */}}
{{- define "skillfleet.urlPort" -}}
{{- $url := urlParse . -}}
{{- $ports := dict "redis" 6379 "rediss" 6379 "amqp" 5672 "amqps" 5671 "http" 80 "https" 443 -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (get $ports $url.scheme) -}}
{{- end }}

{{- define "skillfleet.egressPort" -}}
- port: {{ . | int }}
  protocol: TCP
{{- end }}

{{/* Egress of everything that runs skillfleet: names, Redis and the broker. */}}
{{- define "skillfleet.egress" -}}
{{- $ports := list -}}
{{- range .Values.networkPolicy.redisPorts }}{{ $ports = append $ports (int .) }}{{ end -}}
{{- range list .Values.redis.url .Values.broker.url -}}
{{- if . }}{{ $ports = append $ports (include "skillfleet.urlPort" . | int) }}{{ end -}}
{{- end -}}
{{ include "skillfleet.egressDns" . }}
{{- if .Values.valkey.enabled }}
- ports:
    - port: redis
      protocol: TCP
  to:
    - podSelector:
        matchLabels:
          {{- include "skillfleet.selector" (dict "root" . "component" "valkey") | nindent 10 }}
{{- end }}
{{- if or (not .Values.valkey.enabled) .Values.broker.url .Values.broker.existingSecret.name }}
- ports:
    {{- range uniq $ports }}
    {{- include "skillfleet.egressPort" . | nindent 4 }}
    {{- end }}
  {{- with .Values.networkPolicy.redisTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
