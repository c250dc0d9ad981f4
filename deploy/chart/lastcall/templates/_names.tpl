{{- define "lastcall.namespace" -}}
{{ .Values.namespace.create | ternary .Values.namespace.name .Release.Namespace }}
{{- end }}

{{- define "lastcall.labels" -}}
app.kubernetes.io/name: lastcall
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "lastcall.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}
