{{- define "shoal.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* Of our pods. Not app.kubernetes.io/name: on Ray's pods that label is KubeRay's, whose Services select by it. */ -}}
{{- define "shoal.selector" -}}
app.kubernetes.io/part-of: shoal
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "shoal.labels" -}}
app.kubernetes.io/name: shoal
{{ include "shoal.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "shoal.image" -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag }}{{- end -}}
{{- end -}}

{{- define "shoal.secretName" -}}
{{- .Values.secrets.existingSecret | default (include "shoal.name" .) -}}
{{- end -}}

{{- /* Pods that hold instances: enough for all of them. */ -}}
{{- define "shoal.enginePods" -}}
{{- $per := int .Values.servingEngineSpec.instancesPerPod -}}
{{- div (add (int .Values.cluster.instances) (sub $per 1)) $per -}}
{{- end -}}

{{- /* "true" where the controller scales by itself: then Ray's autoscaler adds and removes the pods that it asks for. */ -}}
{{- define "shoal.scales" -}}
{{- if (.Values.cluster.scaling | default dict).enabled -}}true{{- end -}}
{{- end -}}

{{- /* The configuration file: the user's tree, and what the chart owns. */ -}}
{{- define "shoal.config" -}}
{{- $owned := dict "host" "node" "frontend" "haproxy" "http_port" 8000 "grpc_port" 50051 "metrics_port" 9400 "spares" 0 -}}
{{- if .Values.tls.secretName -}}
{{- $tls := dict -}}
{{- range $side := list "inner" "edge" -}}
{{- if index $.Values.tls $side -}}
{{- $_ := set $tls (printf "%s_cert" $side) (printf "/etc/shoal-tls/%s.pem" $side) -}}
{{- $_ := set $tls (printf "%s_key" $side) (printf "/etc/shoal-tls/%s-key.pem" $side) -}}
{{- end -}}
{{- end -}}
{{- if .Values.tls.inner -}}{{- $_ := set $tls "inner_ca" "/etc/shoal-tls/inner-ca.pem" -}}{{- end -}}
{{- $_ := set $owned "tls" $tls -}}
{{- end -}}
{{- toYaml (merge $owned .Values.cluster) -}}
{{- end -}}

{{- define "shoal.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "shoal.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- /* What every process inherits; the same as cluster/environment.py gives on one machine. */ -}}
{{- define "shoal.env" -}}
- {name: SHOAL_NODE_ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
- {name: SHOAL_RUN_ID, valueFrom: {fieldRef: {fieldPath: "metadata.labels['ray.io/cluster']"}}}
- {name: SHOAL_CONFIG, value: /etc/shoal/shoal.yaml}
- {name: SHOAL_SECRETS, value: /etc/shoal-secrets}
- {name: HOME, value: /home/shoal}
- {name: RAY_worker_niceness, value: "0"}
- {name: RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO, value: "0"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_enable_metrics_collection, value: "false"}
- {name: RAY_SERVE_ENABLE_HA_PROXY, value: "1"}
- {name: DO_NOT_TRACK, value: "1"}
- {name: PYTHONUNBUFFERED, value: "1"}
- {name: VLLM_ENABLE_V1_MULTIPROCESSING, value: "0"}
- {name: VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES, value: "0"}
- {name: VLLM_CPU_OMP_THREADS_BIND, value: nobind}
- {name: VLLM_LOGGING_LEVEL, value: ERROR}
- {name: VLLM_NO_USAGE_STATS, value: "1"}
{{- end -}}

{{- /* Ray's own check of this pod's raylet: of no peer, and of no request. */ -}}
{{- define "shoal.rayletProbes" -}}
startupProbe:
  httpGet: {path: /api/local_raylet_healthz, port: 52365}
  periodSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /api/local_raylet_healthz, port: 52365}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 12
{{- end -}}

{{- /* One pod template. Takes root, component, image, resources, threads, ports, shm, grace, preStop, readiness, spec. */ -}}
{{- define "shoal.podTemplate" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "shoal.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    {{- with .spec.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # A changed configuration is a new cluster: KubeRay starts it beside the old one and ends that when it can answer.
    shoal/config: {{ include "shoal.config" $root | sha256sum }}
spec:
  serviceAccountName: {{ include "shoal.name" $root }}
  automountServiceAccountToken: {{ and (eq .component "head") (eq (include "shoal.scales" $root) "true") }}
  enableServiceLinks: false
  hostNetwork: false
  hostPID: false
  hostIPC: false
  terminationGracePeriodSeconds: {{ .grace }}
  securityContext:
    {{- include "shoal.podSecurity" $root | nindent 4 }}
  {{- with $root.Values.servingEngineSpec.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .spec.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .spec.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .spec.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- $affinity := deepCopy (.spec.affinity | default dict) }}
  {{- if .spec.onePodPerNode }}
  {{- $labels := dict "app.kubernetes.io/instance" $root.Release.Name "app.kubernetes.io/component" .component }}
  {{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" $labels) }}
  {{- $alone := dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term) }}
  {{- $affinity = merge $affinity (dict "podAntiAffinity" $alone) }}
  {{- end }}
  {{- with $affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ $key }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "shoal.selector" $root | nindent 10 }}
          app.kubernetes.io/component: {{ $.component }}
    {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "shoal.image" .image }}
      imagePullPolicy: {{ $root.Values.servingEngineSpec.imagePullPolicy }}
      securityContext:
        {{- include "shoal.containerSecurity" $root | nindent 8 }}
      resources:
        {{- toYaml .resources | nindent 8 }}
      env:
        {{- include "shoal.env" $root | nindent 8 }}
        - {name: OMP_NUM_THREADS, value: {{ .threads | default 1 | quote }}}
        {{- with .spec.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- toYaml .ports | nindent 8 }}
      {{- include "shoal.rayletProbes" $root | nindent 6 }}
      readinessProbe:
        httpGet: {{ toJson .readiness }}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      {{- with .preStop }}
      lifecycle:
        preStop:
          exec:
            command: {{ toJson . }}
      {{- end }}
      volumeMounts:
        - {name: config, mountPath: /etc/shoal, readOnly: true}
        - {name: secrets, mountPath: /etc/shoal-secrets, readOnly: true}
        {{- if $root.Values.tls.secretName }}
        - {name: tls, mountPath: /etc/shoal-tls, readOnly: true}
        {{- end }}
        - {name: shared-mem, mountPath: /dev/shm}
        - {name: tmp, mountPath: /tmp}
        - {name: home, mountPath: /home/shoal}
        - {name: models, mountPath: /home/shoal/.cache/huggingface}
  volumes:
    - name: config
      configMap: {name: {{ include "shoal.name" $root }}}
    - name: secrets
      secret: {secretName: {{ include "shoal.secretName" $root }}, defaultMode: 0440}
    {{- with $root.Values.tls.secretName }}
    - name: tls
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    - name: shared-mem
      emptyDir: {medium: Memory, sizeLimit: {{ .shm }}}
    - name: tmp
      emptyDir: {sizeLimit: {{ $root.Values.servingEngineSpec.tmpSize }}}
    - name: home
      emptyDir: {sizeLimit: 4Gi}
    - name: models
      {{- if $root.Values.servingEngineSpec.pvcStorage.claimName }}
      persistentVolumeClaim: {claimName: {{ $root.Values.servingEngineSpec.pvcStorage.claimName }}}
      {{- else }}
      emptyDir: {sizeLimit: {{ $root.Values.servingEngineSpec.pvcStorage.cacheSize }}}
      {{- end }}
{{- end -}}
