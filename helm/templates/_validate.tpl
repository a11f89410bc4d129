{{/* Rules between values, which the schema cannot say. Each message names the key and the way out. */}}
{{- define "skillfleet.validate" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9.]*[a-z0-9])?$" (include "skillfleet.fullname" .)) -}}
{{- fail "fullnameOverride: names of objects must start with a letter and contain only a-z, 0-9 and '-'; set fullnameOverride, or choose another release name" -}}
{{- end -}}
{{- include "skillfleet.validateRedis" . -}}
{{- include "skillfleet.validateFlower" . -}}
{{- include "skillfleet.validateAuth" . -}}
{{- include "skillfleet.validateNetwork" . -}}
{{- include "skillfleet.validateSandbox" . -}}
{{- $seen := dict -}}
{{- range include "skillfleet.pools" . | fromJsonArray -}}
{{- if hasKey $seen .name }}{{ fail (printf "workers: two pools are named %q; give each its own name" .name) }}{{ end -}}
{{- $_ := set $seen .name true -}}
{{- include "skillfleet.validatePool" (dict "root" $ "pool" .) -}}
{{- end -}}
{{- end }}

{{- define "skillfleet.validateRedis" -}}
{{- $redis := .Values.redis -}}
{{- if and .Values.valkey.enabled $redis.url -}}
{{- fail "redis.url: set either redis.url or valkey.enabled, not both" -}}
{{- end -}}
{{- if and (not .Values.valkey.enabled) (not $redis.url) (not (and $redis.existingSecret.name $redis.existingSecret.urlKey)) -}}
{{- fail "redis: set the address: redis.existingSecret.name and urlKey, or redis.url, or valkey.enabled=true for a trial" -}}
{{- end -}}
{{- range $role := include "skillfleet.redisRoles" . | fromJsonArray -}}
{{- $user := include "skillfleet.redisUser" (dict "root" $ "role" $role) | fromJson -}}
{{- $where := eq $role "worker" | ternary "redis.existingSecret" (printf "redis.users.%s" $role) -}}
{{- if and (or $user.usernameKey $user.passwordKey) (not $user.secret) -}}
{{- fail (printf "%s: usernameKey and passwordKey need the Secret's name" $where) -}}
{{- end -}}
{{- $own := get $redis.users $role | default dict -}}
{{- $borrowed := and (or $own.username $own.usernameKey) (not (or $own.passwordKey $own.secret)) -}}
{{- if or $borrowed (and (or $user.username $user.usernameKey) (not $user.passwordKey)) -}}
{{- fail (printf "%s.passwordKey: a Redis user needs a password; set its key, or put user and password into the URL" $where) -}}
{{- end -}}
{{- end -}}
{{- if and $redis.tls.caSecret (hasPrefix "redis://" $redis.url) -}}
{{- fail "redis.url: redis.tls.caSecret is set, so the address must start with rediss://" -}}
{{- end -}}
{{- if and .Values.broker.url .Values.broker.existingSecret.name -}}
{{- fail "broker.url: set either broker.url or broker.existingSecret.name, not both" -}}
{{- end -}}
{{- end }}

{{- define "skillfleet.validateFlower" -}}
{{- $flower := .Values.flower -}}
{{- $auth := $flower.auth -}}
{{- if and $auth.basic.existingSecret $auth.oauth.provider -}}
{{- fail "flower.auth: choose basic or oauth, not both" -}}
{{- end -}}
{{- if and $auth.oauth.provider (not (and $auth.oauth.emails $auth.oauth.redirectUri $auth.oauth.existingSecret)) -}}
{{- fail "flower.auth.oauth: a provider needs emails, redirectUri and existingSecret" -}}
{{- end -}}
{{- if and $flower.enabled $flower.ingress.enabled -}}
{{- if not (or $auth.basic.existingSecret $auth.oauth.provider $auth.proxy) -}}
{{- fail "flower.ingress.enabled: an Ingress needs authentication: set flower.auth.basic.existingSecret, flower.auth.oauth, or flower.auth.proxy if an OAuth proxy protects it" -}}
{{- end -}}
{{- if not $flower.ingress.host -}}
{{- fail "flower.ingress.host: an Ingress needs a host name" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Names that stand in a list for a second time: objects with names. */}}
{{- define "skillfleet.repeated" -}}
{{- $seen := dict -}}
{{- range . }}{{ if hasKey $seen .name }}{{ .name }} {{ end }}{{ $_ := set $seen .name true }}{{ end -}}
{{- end }}

{{/* root, pool */}}
{{- define "skillfleet.validatePool" -}}
{{- $where := printf "workers[%s].autoscaling" .pool.name -}}
{{- $scaling := .pool.autoscaling -}}
{{- if and .pool.preStop.command (lt (int .pool.preStop.seconds) 1) -}}
{{- fail (printf "workers[%s].preStop.seconds: set how long preStop.command may take; it is added to the grace period" .pool.name) -}}
{{- end -}}
{{- /* Servers that apply refuse a list that names one thing twice. */ -}}
{{- range $key := list "env" "extraVolumes" -}}
{{- with include "skillfleet.repeated" (get $.pool $key | default list) | trim -}}
{{- fail (printf "workers[%s].%s: %s is given twice" $.pool.name $key .) -}}
{{- end -}}
{{- end -}}
{{- if and (regexMatch "^0+%?$" (toString .pool.rollingUpdate.maxSurge)) (regexMatch "^0+%?$" (toString .pool.rollingUpdate.maxUnavailable)) -}}
{{- fail (printf "workers[%s].rollingUpdate: with maxSurge and maxUnavailable both 0, no update can start; raise one of them" .pool.name) -}}
{{- end -}}
{{- if and .pool.podDeletionCost (eq .pool.pool "prefork") -}}
{{- fail (printf "workers[%s].podDeletionCost: prefork workers do not support it; set it to false for this pool" .pool.name) -}}
{{- end -}}
{{- if and (ne $scaling.mode "none") (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- fail (printf "%s: minReplicas (%d) is above maxReplicas (%d)" $where (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- if and (eq $scaling.mode "cpu") (lt (int $scaling.minReplicas) 1) -}}
{{- fail (printf "%s.minReplicas: an HPA on CPU cannot scale to zero; use mode demand, or at least 1" $where) -}}
{{- end -}}
{{- if and (eq $scaling.mode "cpu") (not (dig "requests" "cpu" "" .pool.resources)) -}}
{{- fail (printf "%s.mode: cpu needs workers[%s].resources.requests.cpu" $where .pool.name) -}}
{{- end -}}
{{- if and (eq $scaling.mode "demand") (not .root.Values.exporter.enabled) (not .root.Values.keda.exporterUrl) -}}
{{- fail (printf "%s.mode: demand needs exporter.enabled or keda.exporterUrl" $where) -}}
{{- end -}}
{{- if and (eq $scaling.mode "redisList") (or .root.Values.broker.url .root.Values.broker.existingSecret.name) (not $scaling.redisList.address) -}}
{{- fail (printf "%s.redisList.address: with a separate broker, set the address of the Redis that holds its lists; for RabbitMQ use mode demand" $where) -}}
{{- end -}}
{{- if and (eq $scaling.mode "redisList") (not (or $scaling.redisList.address .root.Values.redis.url .root.Values.valkey.enabled)) -}}
{{- fail (printf "%s.redisList.address: KEDA cannot read the address from redis.existingSecret; set host:port" $where) -}}
{{- end -}}
{{- end }}
