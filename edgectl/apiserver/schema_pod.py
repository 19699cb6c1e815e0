"""Types of the Pod."""

POD = """
Pod ; A group of containers that run together on one node.
  spec PodSpec ; What the pod should be.
  status PodStatus ; What the pod was last seen to be.
PodSpec
  volumes []Volume key=name retain
  initContainers []Container key=name ; Run one after the other before the containers.
  containers! []Container key=name ; There must be at least one.
  ephemeralContainers []any
  restartPolicy string ; Always, OnFailure or Never.
  terminationGracePeriodSeconds int ; Seconds between asking the containers to end and killing them; 30 by default.
  activeDeadlineSeconds int
  dnsPolicy string
  nodeSelector {}string ; Labels that the node must have.
  serviceAccountName string
  serviceAccount string
  automountServiceAccountToken bool
  nodeName string ; The node that runs the pod; set by the scheduler when empty.
  hostNetwork bool
  hostPID bool
  hostIPC bool
  shareProcessNamespace bool
  securityContext PodSecurityContext
  imagePullSecrets []LocalObjectReference key=name
  hostname string
  subdomain string
  affinity Affinity
  schedulerName string
  tolerations []Toleration
  hostAliases []HostAlias key=ip
  priorityClassName string
  priority int
  dnsConfig PodDNSConfig
  readinessGates []PodReadinessGate
  runtimeClassName string
  enableServiceLinks bool
  preemptionPolicy string
  overhead {}quantity
  topologySpreadConstraints []TopologySpreadConstraint key=topologyKey,whenUnsatisfiable
  setHostnameAsFQDN bool
  os PodOS
  hostUsers bool
  schedulingGates []PodSchedulingGate key=name
  resourceClaims []any
  resources ResourceRequirements
PodOS
  name! string
PodSchedulingGate
  name! string
PodReadinessGate
  conditionType! string
HostAlias
  ip! string
  hostnames []string
PodDNSConfig
  nameservers []string
  searches []string
  options []PodDNSConfigOption
PodDNSConfigOption
  name string
  value string
PodSecurityContext
  seLinuxOptions any
  windowsOptions any
  runAsUser int
  runAsGroup int
  runAsNonRoot bool
  supplementalGroups []int
  supplementalGroupsPolicy string
  fsGroup int
  sysctls []Sysctl
  fsGroupChangePolicy string
  seccompProfile any
  appArmorProfile any
Sysctl
  name! string
  value! string
Toleration ; Lets the pod onto nodes with a matching taint.
  key string
  operator string ; Exists or Equal.
  value string
  effect string
  tolerationSeconds int
TopologySpreadConstraint
  maxSkew! int
  topologyKey! string
  whenUnsatisfiable! string
  labelSelector LabelSelector
  minDomains int
  nodeAffinityPolicy string
  nodeTaintsPolicy string
  matchLabelKeys []string
Affinity
  nodeAffinity NodeAffinity
  podAffinity PodAffinity
  podAntiAffinity PodAffinity
NodeAffinity
  requiredDuringSchedulingIgnoredDuringExecution NodeSelector
  preferredDuringSchedulingIgnoredDuringExecution []PreferredSchedulingTerm
NodeSelector
  nodeSelectorTerms! []NodeSelectorTerm ; One of them must match.
NodeSelectorTerm
  matchExpressions []NodeSelectorRequirement
  matchFields []NodeSelectorRequirement
NodeSelectorRequirement
  key! string
  operator! string ; In, NotIn, Exists, DoesNotExist, Gt or Lt.
  values []string
PreferredSchedulingTerm
  weight! int
  preference! NodeSelectorTerm
PodAffinity
  requiredDuringSchedulingIgnoredDuringExecution []PodAffinityTerm
  preferredDuringSchedulingIgnoredDuringExecution []WeightedPodAffinityTerm
WeightedPodAffinityTerm
  weight! int
  podAffinityTerm! PodAffinityTerm
PodAffinityTerm
  labelSelector LabelSelector
  namespaces []string
  topologyKey! string
  namespaceSelector LabelSelector
  matchLabelKeys []string
  mismatchLabelKeys []string
Container ; A process in its own file system.
  name! string ; Unique in the pod; a DNS label.
  image string ; Image to run.
  command []string ; Replaces the entry point of the image.
  args []string ; Arguments of the entry point.
  workingDir string
  ports []ContainerPort key=containerPort,protocol
  envFrom []EnvFromSource
  env []EnvVar key=name
  resources ResourceRequirements
  resizePolicy []any
  restartPolicy string
  volumeMounts []VolumeMount key=mountPath
  volumeDevices []VolumeDevice key=devicePath
  livenessProbe Probe
  readinessProbe Probe
  startupProbe Probe
  lifecycle Lifecycle
  terminationMessagePath string
  terminationMessagePolicy string
  imagePullPolicy string ; Always, Never or IfNotPresent.
  securityContext SecurityContext
  stdin bool
  stdinOnce bool
  tty bool
ContainerPort
  name string
  hostPort int
  containerPort! int
  protocol string ; TCP, UDP or SCTP.
  hostIP string
EnvFromSource
  prefix string
  configMapRef ConfigMapEnvSource
  secretRef ConfigMapEnvSource
ConfigMapEnvSource
  name string
  optional bool
EnvVar
  name! string
  value string
  valueFrom EnvVarSource
EnvVarSource
  fieldRef ObjectFieldSelector
  resourceFieldRef ResourceFieldSelector
  configMapKeyRef KeySelector
  secretKeyRef KeySelector
ObjectFieldSelector
  apiVersion string
  fieldPath! string
ResourceFieldSelector
  containerName string
  resource! string
  divisor quantity
KeySelector
  name string
  key! string
  optional bool
ResourceRequirements
  limits {}quantity ; The most the container may use.
  requests {}quantity ; What the scheduler sets aside.
  claims []any
VolumeMount
  name! string
  readOnly bool
  recursiveReadOnly string
  mountPath! string
  subPath string
  subPathExpr string
  mountPropagation string
VolumeDevice
  name! string
  devicePath! string
Probe
  exec ExecAction
  httpGet HTTPGetAction
  tcpSocket TCPSocketAction
  grpc GRPCAction
  initialDelaySeconds int
  timeoutSeconds int
  periodSeconds int
  successThreshold int
  failureThreshold int
  terminationGracePeriodSeconds int
ExecAction
  command []string
HTTPGetAction
  path string
  port! intorstring
  host string
  scheme string
  httpHeaders []HTTPHeader
HTTPHeader
  name! string
  value! string
TCPSocketAction
  port! intorstring
  host string
GRPCAction
  port! int
  service string
Lifecycle
  postStart LifecycleHandler
  preStop LifecycleHandler
LifecycleHandler
  exec ExecAction
  httpGet HTTPGetAction
  tcpSocket TCPSocketAction
  sleep SleepAction
SleepAction
  seconds! int
SecurityContext
  capabilities Capabilities
  privileged bool
  seLinuxOptions any
  windowsOptions any
  runAsUser int
  runAsGroup int
  runAsNonRoot bool
  readOnlyRootFilesystem bool
  allowPrivilegeEscalation bool
  procMount string
  seccompProfile any
  appArmorProfile any
Capabilities
  add []string
  drop []string
Volume ; Storage that containers of the pod can mount.
  name! string
  hostPath HostPathVolumeSource
  emptyDir EmptyDirVolumeSource
  secret SecretVolumeSource
  configMap ConfigMapVolumeSource
  downwardAPI DownwardAPIVolumeSource
  projected ProjectedVolumeSource
  persistentVolumeClaim any
  nfs any
  iscsi any
  csi any
  ephemeral any
  gcePersistentDisk any
  awsElasticBlockStore any
  azureDisk any
  azureFile any
  cephfs any
  cinder any
  fc any
  flexVolume any
  flocker any
  gitRepo any
  glusterfs any
  photonPersistentDisk any
  portworxVolume any
  quobyte any
  rbd any
  scaleIO any
  storageos any
  vsphereVolume any
  image any
HostPathVolumeSource
  path! string
  type string
EmptyDirVolumeSource
  medium string
  sizeLimit quantity
SecretVolumeSource
  secretName string
  items []KeyToPath
  defaultMode int
  optional bool
ConfigMapVolumeSource
  name string
  items []KeyToPath
  defaultMode int
  optional bool
KeyToPath
  key! string
  path! string
  mode int
DownwardAPIVolumeSource
  items []DownwardAPIVolumeFile
  defaultMode int
DownwardAPIVolumeFile
  path! string
  fieldRef ObjectFieldSelector
  resourceFieldRef ResourceFieldSelector
  mode int
ProjectedVolumeSource
  sources []VolumeProjection
  defaultMode int
VolumeProjection
  secret ConfigMapVolumeSource
  configMap ConfigMapVolumeSource
  downwardAPI DownwardAPIVolumeSource
  serviceAccountToken ServiceAccountTokenProjection
  clusterTrustBundle any
ServiceAccountTokenProjection
  audience string
  expirationSeconds int
  path! string
PodStatus
  phase string ; Pending, Running, Succeeded, Failed or Unknown.
  observedGeneration int
  conditions []PodCondition key=type
  message string
  reason string
  nominatedNodeName string
  hostIP string
  hostIPs []HostIP
  podIP string
  podIPs []PodIP key=ip
  startTime time
  initContainerStatuses []ContainerStatus
  containerStatuses []ContainerStatus
  qosClass string
  ephemeralContainerStatuses []ContainerStatus
  resize string
  resourceClaimStatuses []any
HostIP
  ip string
PodIP
  ip string
PodCondition
  type! string
  observedGeneration int
  status! string
  lastProbeTime time
  lastTransitionTime time
  reason string
  message string
ContainerStatus
  name! string
  state ContainerState
  lastState ContainerState
  ready! bool
  restartCount! int
  image! string
  imageID! string
  containerID string
  started bool
  allocatedResources {}quantity
  resources ResourceRequirements
  volumeMounts []any
  user any
ContainerState
  waiting ContainerStateWaiting
  running ContainerStateRunning
  terminated ContainerStateTerminated
ContainerStateWaiting
  reason string
  message string
ContainerStateRunning
  startedAt time
ContainerStateTerminated
  exitCode! int
  signal int
  reason string
  message string
  startedAt time
  finishedAt time
  containerID string
"""
