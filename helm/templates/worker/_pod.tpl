{{/* A worker's pod: root, pool. */}}
{{- define "skillfleet.workerPod" -}}
{{- $security := include "skillfleet.podSecurity" .root | fromYaml -}}
{{- $_ := set $security "automountServiceAccountToken" (or .pool.podDeletionCost .root.Values.sandbox.kubernetes.enabled) -}}
{{- $keys := include "skillfleet.workerKeys" .root | fromJson -}}
serviceAccountName: {{ .root.Values.workerServiceAccount.name | default (include "skillfleet.name" (dict "root" .root "suffix" "worker")) | quote }}
{{ toYaml $security }}
{{- /* The kubelet kills after this; the worker itself ends at drainSeconds + 10. */}}
terminationGracePeriodSeconds: {{ add .pool.drainSeconds .pool.graceMarginSeconds .pool.preStop.seconds }}
{{- with .pool.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .pool.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- if .pool.shareProcessNamespace }}
shareProcessNamespace: true
{{- end }}
{{- with include "skillfleet.placement" .pool | trim }}
{{ . }}
{{- end }}
{{- with .pool.topologySpread }}
topologySpreadConstraints:
  {{- range . }}
  - {{ toYaml . | nindent 4 | trim }}
    labelSelector:
      matchLabels:
        {{- include "skillfleet.selector" (dict "root" $.root "component" "worker" "pool" $.pool.name) | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- if .root.Values.redis.startupCheck }}
initContainers:
  - name: doctor
    {{- include "skillfleet.runImage" (dict "root" .root "image" .pool.image) | nindent 4 }}
    command: [skillfleet, doctor]
    {{- include "skillfleet.workerEnvFrom" .root | nindent 4 }}
    env:
      {{- include "skillfleet.env" (dict "root" .root "role" "worker") | nindent 6 }}
      {{- with include "skillfleet.artifactsEnv" .root | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with include "skillfleet.workspacesEnv" .root | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with include "skillfleet.sandboxEnv" .root | trim }}
      {{- . | nindent 6 }}
      {{- end }}
    resources:
      {{- toYaml .pool.resources | nindent 6 }}
    {{- include "skillfleet.containerSecurity" .root | nindent 4 }}
    volumeMounts:
      {{- include "skillfleet.volumeMounts" .root | nindent 6 }}
      {{- with include "skillfleet.workspacesMount" .root | trim }}
      {{- . | nindent 6 }}
      {{- end }}
{{- end }}
containers:
  - name: worker
    {{- include "skillfleet.runImage" (dict "root" .root "image" .pool.image) | nindent 4 }}
    {{- /* Exec form, no shell: SIGTERM reaches the worker. */}}
    command:
      {{- include "skillfleet.workerCommand" .pool | nindent 6 }}
    {{- include "skillfleet.workerEnvFrom" .root | nindent 4 }}
    env:
      {{- include "skillfleet.env" (dict "root" .root "role" "worker") | nindent 6 }}
      {{- with include "skillfleet.artifactsEnv" .root | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with include "skillfleet.workspacesEnv" .root | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with include "skillfleet.sandboxEnv" .root | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with include "skillfleet.telemetryEnv" (dict "root" .root "own" .pool.env) | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with include "skillfleet.keyEnv" (dict "root" .root "folders" $keys) | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      - name: SKILLFLEET_DRAIN_SECONDS
        value: {{ .pool.drainSeconds | quote }}
      {{- if .pool.secrets }}
      - name: SKILLFLEET_SECRETS_DIR
        value: /var/run/skillfleet/secrets
      {{- end }}
      {{- /* The kubelet and Prometheus reach the pod's address, not its loopback. */}}
      - name: SKILLFLEET_PROBE_HOST
        value: 0.0.0.0
      - name: SKILLFLEET_PROBE_PORT
        value: {{ .pool.probes.port | quote }}
      - name: SKILLFLEET_METRICS
        value: {{ .root.Values.monitoring.enabled | quote }}
      {{- if .pool.podDeletionCost }}
      - name: SKILLFLEET_POD_DELETION_COST
        value: "true"
      {{- end }}
      {{- with .pool.env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      - name: probes
        containerPort: {{ .pool.probes.port | int }}
        protocol: TCP
    {{- include "skillfleet.workerProbes" .pool.probes | nindent 4 }}
    {{- with .pool.preStop.command }}
    lifecycle:
      preStop:
        exec:
          command:
            {{- toYaml . | nindent 12 }}
    {{- end }}
    resources:
      {{- toYaml .pool.resources | nindent 6 }}
    {{- include "skillfleet.containerSecurity" .root | nindent 4 }}
    volumeMounts:
      {{- include "skillfleet.volumeMounts" .root | nindent 6 }}
      {{- with include "skillfleet.workspacesMount" .root | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with include "skillfleet.keyMounts" $keys | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- if .pool.secrets }}
      - name: secrets
        mountPath: /var/run/skillfleet/secrets
        readOnly: true
      {{- end }}
      {{- with .pool.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  {{- include "skillfleet.volumes" (dict "root" .root "tmp" .pool.tmpSizeLimit) | nindent 2 }}
  {{- with include "skillfleet.workspacesVolume" .root | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with include "skillfleet.keyVolumes" $keys | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .pool.secrets }}
  - name: secrets
    projected:
      sources:
        {{- range . }}
        - secret:
            {{- toYaml . | nindent 12 }}
        {{- end }}
  {{- end }}
  {{- with .pool.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "skillfleet.workerCommand" -}}
- skillfleet
- worker
{{- range .modules }}
- {{ . | quote }}
{{- end }}
- --pool
- {{ .pool }}
- --concurrency
- {{ .concurrency | int | toString | quote }}
{{- range .queues }}
- --queue
- {{ . | quote }}
{{- end }}
{{- with .celeryArgs }}
- --
{{- range . }}
- {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "skillfleet.workerProbes" -}}
startupProbe:
  httpGet:
    path: /startupz
    port: probes
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: {{ div (add .startupSeconds 1) 2 }}
livenessProbe:
  httpGet:
    path: /livez
    port: probes
  periodSeconds: {{ .livenessPeriodSeconds | int }}
  timeoutSeconds: 3
  failureThreshold: 3
readinessProbe:
  httpGet:
    path: /readyz
    port: probes
  periodSeconds: {{ .readinessPeriodSeconds | int }}
  timeoutSeconds: 3
  failureThreshold: 2
{{- end }}
