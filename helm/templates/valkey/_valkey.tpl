{{/* The server's configuration file. */}}
{{- define "skillfleet.valkeyConfig" -}}
bind * -::*
port 6379
dir /data
aclfile /run/valkey/users.acl
appendonly yes
appendfsync everysec
{{- /* A rewrite of the append-only file forks the server, during which it answers no client. The default of 64 MiB is
one large artifact. */}}
auto-aof-rewrite-min-size 256mb
save ""
maxmemory {{ .Values.valkey.maxMemory }}
maxmemory-policy noeviction
stream-node-max-bytes 1024
{{- end }}

{{/* Writes the users with the digests of their passwords, which come by environment, for the server to read. */}}
{{- define "skillfleet.valkeyUsersScript" -}}
{{- $roles := include "skillfleet.redisRoles" . | fromJsonArray -}}
umask 077
digest() { printf %s "$1" | sha256sum | cut -d ' ' -f 1; }
: {{ range $roles }} "${{ "{" }}{{ upper . }}_PASSWORD:?}"{{ end }}
sed \
{{- range $roles }}
  -e "/^user skillfleet-{{ . }} /s/\$/ #$(digest "${{ upper . }}_PASSWORD")/" \
{{- end }}
  /etc/valkey/users.acl > /run/valkey/users.acl
{{- end }}

{{- define "skillfleet.redisRoles" -}}
{{- list "worker" "producer" "exporter" "flower" | toJson -}}
{{- end }}
