{{- define "kctl.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Names of parts are this and a suffix of at most 20 characters; 63 are allowed. */}}
{{- define "kctl.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "kctl.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "kctl.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "kctl.selector" -}}
app.kubernetes.io/name: {{ include "kctl.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "kctl.labels" -}}
{{ include "kctl.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "kctl.image" -}}
{{- $registry := .root.Values.image.registry | trimSuffix "/" }}
{{- if $registry }}{{ $registry }}/{{ end }}{{ .repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "kctl.caSecret" -}}
{{- .Values.ca.existingSecret | default (printf "%s-ca" (include "kctl.fullname" .)) }}
{{- end }}

{{- define "kctl.joinSecret" -}}
{{- .Values.join.existingSecret | default (printf "%s-join" (include "kctl.fullname" .)) }}
{{- end }}

{{/* Where agents find the controller: the headless service has the address of the pod itself. An agent
lets its controller's address pass whatever is blocked, and the kernel sees the pod's address, not that
of a service. */}}
{{- define "kctl.controllerAddress" -}}
{{- if .Values.agent.controller }}{{ .Values.agent.controller }}
{{- else }}{{ include "kctl.fullname" . }}-agents.{{ .Release.Namespace }}.svc:7443
{{- end }}
{{- end }}

{{/* The certificate of the CA, where it is known while the chart is rendered: of the value, or of the
Secret that is there. */}}
{{- define "kctl.knownCertificate" -}}
{{- if .Values.ca.certificate }}
{{- .Values.ca.certificate }}
{{- else if .Values.ca.existingSecret }}
{{- $secret := lookup "v1" "Secret" .Release.Namespace .Values.ca.existingSecret }}
{{- if $secret }}{{ index $secret.data "tls.crt" | b64dec }}{{ end }}
{{- end }}
{{- end }}

{{/* MiB: what an agent needs, and 1 KiB for each rule that there is room for, which is what a rule takes
in the kernel's maps and in the agent's lists together. */}}
{{- define "kctl.agentMemory" -}}
{{- add 128 (div (add (int64 .Values.agent.maxEntries) 1023) 1024) }}Mi
{{- end }}

{{/* The Secret with the token that opens /metrics, as the monitors name it; empty without one. */}}
{{- define "kctl.metricsToken" -}}
{{- $credentials := .Values.metrics.authorization.credentials }}
{{- if and .Values.metrics.enabled $credentials }}
{{- toYaml (pick $credentials "name" "key") }}
{{- end }}
{{- end }}

{{- define "kctl.metricsEndpoint" -}}
port: metrics
scheme: https
interval: {{ .Values.metrics.interval }}
{{- with .Values.metrics.tlsConfig }}
tlsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.metrics.authorization }}
authorization:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* AppArmor had an annotation before it had a field. */}}
{{- define "kctl.hasAppArmorField" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}yes{{ end }}
{{- end }}

{{- define "kctl.controllerProbe" -}}
exec:
  command: [kctl-controller, check, --data-dir=/var/lib/kctl/controller, "--listen=127.0.0.1:7443"]
periodSeconds: {{ .period }}
timeoutSeconds: 6
failureThreshold: {{ .failures }}
{{- end }}

{{- define "kctl.agentProbe" -}}
exec:
  command: [kctl-agent, check, --live, "--socket={{ .socketDir }}/agent.sock"]
periodSeconds: {{ .period }}
timeoutSeconds: 6
failureThreshold: {{ .failures }}
{{- end }}

{{/* What an agent's container may do: agent, or the one that detaches. */}}
{{- define "kctl.agentSecurity" -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add:
    {{- toYaml .capabilities | nindent 4 }}
seccompProfile:
  {{- toYaml .agent.seccompProfile | nindent 2 }}
{{- if include "kctl.hasAppArmorField" .root }}
appArmorProfile:
  {{- toYaml .agent.appArmorProfile | nindent 2 }}
{{- end }}
{{- with .agent.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "kctl.appArmorAnnotation" -}}
{{- $profile := .profile }}
container.apparmor.security.beta.kubernetes.io/{{ .container }}: {{ if eq $profile.type "Localhost" }}localhost/{{ $profile.localhostProfile }}{{ else if eq $profile.type "Unconfined" }}unconfined{{ else }}runtime/default{{ end }}
{{- end }}

{{- define "kctl.agentPlacement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
