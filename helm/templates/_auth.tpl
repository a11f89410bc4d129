{{/* Keys of signed runs: what verifies, in workers, and what signs, in workers and in `helm test`; keys of secret answers. */}}

{{/* The keys' volumes: folders, which map a volume's name to a part of `auth`. */}}
{{- define "skillfleet.keyVolumes" -}}
{{- range $name, $from := . }}
{{- if $from.secret }}
- name: {{ $name }}
  secret:
    secretName: {{ $from.secret | quote }}
    {{- with $from.key }}
    items:
      {{- /* By its own name, which is the key's id. */}}
      - key: {{ . | quote }}
        path: {{ . | quote }}
    {{- end }}
{{- else if $from.configMap }}
- name: {{ $name }}
  configMap:
    name: {{ $from.configMap | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where they are mounted: folders. */}}
{{- define "skillfleet.keyMounts" -}}
{{- range $name, $from := . }}
{{- if or $from.secret $from.configMap }}
- name: {{ $name }}
  mountPath: /etc/skillfleet/{{ $name }}
  readOnly: true
{{- end }}
{{- end }}
{{- end }}

{{/* Where the process finds them, and whether tokens are required: root, folders. */}}
{{- define "skillfleet.keyEnv" -}}
{{- if .root.Values.auth.required }}
- name: SKILLFLEET_AUTH
  value: required
{{- end }}
{{- range $name, $from := .folders }}
{{- if or $from.secret $from.configMap }}
- name: {{ get (dict "producer-keys" "SKILLFLEET_AUTH_KEYS" "worker-keys" "SKILLFLEET_AUTH_WORKER_KEYS" "signing-key" "SKILLFLEET_AUTH_SIGNING_KEY_FILE" "answer-keys" "SKILLFLEET_ANSWER_KEYS") $name }}
  value: /etc/skillfleet/{{ $name }}{{ with $from.key }}/{{ . }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The folders of a worker, as JSON. */}}
{{- define "skillfleet.workerKeys" -}}
{{- dict "producer-keys" .Values.auth.producerKeys "worker-keys" .Values.auth.workerKeys "signing-key" .Values.auth.workerSigningKey "answer-keys" .Values.auth.answerKeys | toJson -}}
{{- end }}

{{- define "skillfleet.validateAuth" -}}
{{- $auth := .Values.auth -}}
{{- if and $auth.required (not (or $auth.producerKeys.secret $auth.producerKeys.configMap)) -}}
{{- fail "auth.producerKeys: auth.required needs the public keys of producers; set secret or configMap" -}}
{{- end -}}
{{- range $name := list "producerKeys" "workerKeys" -}}
{{- $from := get $auth $name -}}
{{- if and $from.secret $from.configMap }}{{ fail (printf "auth.%s: set either secret or configMap, not both" $name) }}{{ end -}}
{{- end -}}
{{- range $name := list "workerSigningKey" "producerSigningKey" -}}
{{- $from := get $auth $name -}}
{{- if ne (empty $from.secret) (empty $from.key) }}{{ fail (printf "auth.%s: set both secret and key" $name) }}{{ end -}}
{{- end -}}
{{- if and $auth.workerSigningKey.secret $auth.required (not (or $auth.workerKeys.secret $auth.workerKeys.configMap)) -}}
{{- fail "auth.workerKeys: runs that workers sign are refused without the public keys of workers; set secret or configMap" -}}
{{- end -}}
{{- end }}

{{/* Whether `helm test` can enqueue a run: it needs a key where runs must be signed. */}}
{{- define "skillfleet.testable" -}}
{{- if or (not .Values.auth.required) .Values.auth.producerSigningKey.secret }}true{{ end -}}
{{- end }}
