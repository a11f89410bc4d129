{{/* Flower's command line: the flower values. Passwords come by environment only. */}}
{{- define "skillfleet.flowerCommand" -}}
- celery
- --app
- skillfleet_worker.app
- flower
- --address=0.0.0.0
- --port={{ .port | int }}
- --persistent=True
- --db=/data/flower
- --state_save_interval=10000
- --purge_offline_workers=300
{{- if .readOnly }}
- --read_only=True
{{- end }}
{{- with .urlPrefix }}
- --url_prefix={{ trimPrefix "/" . }}
{{- end }}
{{- if .ingress.enabled }}
- --xheaders=True
{{- end }}
{{- with .auth.oauth }}
{{- if .provider }}
- {{ printf "--auth_provider=%s" .provider | quote }}
- {{ printf "--auth=%s" .emails | quote }}
- {{ printf "--oauth2_redirect_uri=%s" .redirectUri | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "skillfleet.flowerAuthEnv" -}}
{{- if and .proxy (not .basic.existingSecret) (not .oauth.provider) }}
{{- /* Who comes through the proxy has logged in: without this, Flower's buttons answer 401. */}}
- name: FLOWER_UNAUTHENTICATED_API
  value: "true"
{{- end }}
{{- with .basic }}
{{- if .existingSecret }}
{{ include "skillfleet.secretEnv" (dict "env" "FLOWER_BASIC_AUTH" "name" .existingSecret "key" .key) }}
{{- end }}
{{- end }}
{{- with .oauth }}
{{- if .provider }}
{{ include "skillfleet.secretEnv" (dict "env" "FLOWER_OAUTH2_KEY" "name" .existingSecret "key" "key") }}
{{ include "skillfleet.secretEnv" (dict "env" "FLOWER_OAUTH2_SECRET" "name" .existingSecret "key" "secret") }}
{{ include "skillfleet.secretEnv" (dict "env" "FLOWER_COOKIE_SECRET" "name" .existingSecret "key" "cookie-secret") }}
{{- end }}
{{- end }}
{{- end }}
