{{/* Parts of NetworkPolicies. */}}

{{/* A peer: all pods of a namespace, by its name. */}}
{{- define "skillfleet.fromNamespace" -}}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ . | quote }}
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

{{/* Whether pods speak to a Redis or broker that is not of this release. */}}
{{- define "skillfleet.external" -}}
{{- if or (not .Values.valkey.enabled) .Values.broker.url .Values.broker.existingSecret.name }}true{{ end -}}
{{- end }}

{{/* The ports of external Redis and broker, as a JSON array. */}}
{{- define "skillfleet.externalPorts" -}}
{{- $ports := list -}}
{{- range .Values.networkPolicy.redisPorts }}{{ $ports = append $ports (int .) }}{{ end -}}
{{- range list .Values.redis.url .Values.broker.url -}}
{{- if . }}{{ $ports = append $ports (include "skillfleet.urlPort" . | int) }}{{ end -}}
{{- end -}}
{{- uniq $ports | toJson -}}
{{- end }}

{{- define "skillfleet.validateNetwork" -}}
{{- /* A rule without ports would open all of them. */}}
{{- if and .Values.networkPolicy.enabled (include "skillfleet.external" .) (not (include "skillfleet.externalPorts" . | fromJsonArray)) -}}
{{- fail "networkPolicy.redisPorts: the addresses come from Secrets, so list the ports on which Redis and the broker listen" -}}
{{- end -}}
{{- end }}

{{/* Egress of everything that runs skillfleet: names, Redis and the broker. */}}
{{- define "skillfleet.egress" -}}
{{ include "skillfleet.egressDns" . }}
{{- if .Values.valkey.enabled }}
- ports:
    {{- /* By number: not every network plugin resolves port names of other pods. */}}
    - port: 6379
      protocol: TCP
  to:
    - podSelector:
        matchLabels:
          {{- include "skillfleet.selector" (dict "root" . "component" "valkey") | nindent 10 }}
{{- end }}
{{- if include "skillfleet.external" . }}
- ports:
    {{- range include "skillfleet.externalPorts" . | fromJsonArray }}
    {{- include "skillfleet.egressPort" . | nindent 4 }}
    {{- end }}
  {{- with .Values.networkPolicy.redisTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
