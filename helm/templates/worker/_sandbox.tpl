{{/* Parts of sandboxes. */}}

{{/* The name of the pool of sandboxes that workers claim; empty for none. */}}
{{- define "skillfleet.sandboxPool" -}}
{{- with .Values.sandbox.kubernetes -}}
{{- if gt (int .warmPool.replicas) 0 }}{{ include "skillfleet.name" (dict "root" $ "suffix" "sandbox") }}{{ else }}{{ .warmPool.name }}{{ end -}}
{{- end -}}
{{- end }}

{{/* The sandboxes of a worker. */}}
{{- define "skillfleet.sandboxEnv" -}}
{{- with .Values.sandbox -}}
{{- if .kind }}
- name: SKILLFLEET_SANDBOX
  value: {{ .kind | quote }}
{{- end }}
{{- with .kubernetes }}
{{- if .enabled }}
{{- with include "skillfleet.sandboxPool" $ }}
- name: SKILLFLEET_SANDBOX_WARM_POOL
  value: {{ . | quote }}
{{- end }}
{{- with .image }}
- name: SKILLFLEET_SANDBOX_IMAGE
  value: {{ . | quote }}
{{- end }}
{{- with .runtimeClass }}
- name: SKILLFLEET_SANDBOX_RUNTIME_CLASS
  value: {{ . | quote }}
{{- end }}
{{- with .routerUrl }}
- name: SKILLFLEET_SANDBOX_ROUTER_URL
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "skillfleet.validateSandbox" -}}
{{- $kubernetes := .Values.sandbox.kubernetes -}}
{{- if and (eq .Values.sandbox.kind "kubernetes") (not $kubernetes.enabled) -}}
{{- fail "sandbox.kind: kubernetes needs sandbox.kubernetes.enabled" -}}
{{- end -}}
{{- if and $kubernetes.enabled (not (has .Values.sandbox.kind (list "auto" "kubernetes"))) -}}
{{- fail "sandbox.kubernetes.enabled: set sandbox.kind to kubernetes or auto, or the workers' rights are for nothing" -}}
{{- end -}}
{{- if and $kubernetes.enabled (not (or $kubernetes.image $kubernetes.warmPool.name)) -}}
{{- fail "sandbox.kubernetes: set image, an image with agent-sandbox's Python runtime, or warmPool.name" -}}
{{- end -}}
{{- if and $kubernetes.enabled (gt (int $kubernetes.warmPool.replicas) 0) (not $kubernetes.image) -}}
{{- fail "sandbox.kubernetes.warmPool.replicas: the template needs sandbox.kubernetes.image" -}}
{{- end -}}
{{- end }}
