{{/* The server's configuration file. */}}
{{- define "skillfleet.valkeyConfig" -}}
bind * -::*
port 6379
dir /data
appendonly yes
appendfsync everysec
save ""
maxmemory {{ .Values.valkey.maxMemory }}
maxmemory-policy noeviction
{{- end }}
