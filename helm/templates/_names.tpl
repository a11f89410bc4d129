{{/* Names and labels. Every helper that takes a dict says which keys it wants. */}}

{{- define "skillfleet.chartName" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end }}

{{- define "skillfleet.fullname" -}}
{{- $chart := include "skillfleet.chartName" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride }}
{{- else if contains $chart .Release.Name -}}
{{ .Release.Name }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $chart }}
{{- end -}}
{{- end }}

{{/*
The name of a part's objects: root, suffix. At most 52 characters, because a StatefulSet's and a
ScaledObject's name get a suffix of their own before they become label values of at most 63. A
shortened name carries a hash of the whole one, so that two long releases do not meet.
*/}}
{{- define "skillfleet.name" -}}
{{- $prefix := include "skillfleet.fullname" .root -}}
{{- $clean := $prefix | replace "." "-" -}}
{{- $room := sub 51 (len .suffix) | int -}}
{{- if or (gt (len $clean) $room) (ne $clean $prefix) -}}
{{- $hash := sha256sum $prefix | trunc 8 -}}
{{ printf "%s-%s-%s" ($clean | trunc (sub $room 9 | int) | trimSuffix "-") $hash .suffix }}
{{- else -}}
{{ printf "%s-%s" $clean .suffix }}
{{- end -}}
{{- end }}

{{/* What selects a part's pods, never changed by an upgrade: root, component, pool (optional). */}}
{{- define "skillfleet.selector" -}}
app.kubernetes.io/name: {{ include "skillfleet.chartName" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
skillfleet/pool: {{ . | quote }}
{{- end }}
{{- end }}

{{/* The labels of a part's objects: root, component, pool (optional). */}}
{{- define "skillfleet.labels" -}}
{{- $own := include "skillfleet.selector" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" (.root.Chart.AppVersion | replace "+" "_" | trunc 63) -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- merge $own .root.Values.commonLabels | toYaml -}}
{{- end }}

{{/* The labels of a part's pods: no chart version, which would roll them for nothing. Wants the same. */}}
{{- define "skillfleet.podLabels" -}}
{{- omit (include "skillfleet.labels" . | fromYaml) "helm.sh/chart" "app.kubernetes.io/managed-by" | toYaml -}}
{{- end }}

{{/* The metadata of an object: root, component, pool (optional), suffix (default: component). */}}
{{- define "skillfleet.metadata" -}}
name: {{ include "skillfleet.name" (dict "root" .root "suffix" (.suffix | default .component)) }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- include "skillfleet.labels" . | nindent 2 }}
{{- end }}

{{/* The pools as a JSON array, each merged over the defaults. Maps merge, lists are replaced. */}}
{{- define "skillfleet.pools" -}}
{{- $pools := list -}}
{{- range .Values.workers -}}
{{- $image := include "skillfleet.imageOver" (dict "under" $.Values.workerDefaults.image "over" (.image | default dict)) | fromJson -}}
{{- $pool := mergeOverwrite (deepCopy $.Values.workerDefaults) . -}}
{{- $_ := set $pool "image" $image -}}
{{- $pools = append $pools $pool -}}
{{- end -}}
{{- $pools | toJson -}}
{{- end }}

{{/* An image with what another says instead, as JSON: under, over. A digest is of one repository and tag. */}}
{{- define "skillfleet.imageOver" -}}
{{- $image := pick .under "repository" "tag" "digest" -}}
{{- if or .over.repository .over.tag }}{{ $_ := set $image "digest" "" }}{{ end -}}
{{- mergeOverwrite $image .over | toJson -}}
{{- end }}

{{- define "skillfleet.image" -}}
{{- $tag := .tag | toString -}}
{{ .repository }}{{ with $tag }}:{{ . }}{{ end }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
