{{/* Metadata with the labels by which Prometheus finds it: root, component, suffix (optional). */}}
{{- define "skillfleet.monitorMetadata" -}}
{{- $metadata := include "skillfleet.metadata" . | fromYaml -}}
{{- $_ := set $metadata "labels" (merge $metadata.labels .root.Values.monitoring.labels) -}}
{{- toYaml $metadata -}}
{{- end }}
