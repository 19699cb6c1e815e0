"""Types of the core group but for Pod, of leases and of endpoint slices."""

CORE = """
Namespace ; A scope for names.
  spec NamespaceSpec
  status NamespaceStatus
NamespaceSpec
  finalizers []string ; Must be empty before the namespace is removed.
NamespaceStatus
  phase string ; Active or Terminating.
  conditions []NamespaceCondition key=type
NamespaceCondition
  type! string
  status! string
  lastTransitionTime time
  reason string
  message string
Node ; A worker of the cluster: a machine that runs pods.
  spec NodeSpec ; What the node should be.
  status NodeStatus ; What the node was last seen to be.
NodeSpec
  podCIDR string ; Pod subnet of the node.
  podCIDRs []string set
  providerID string
  unschedulable bool ; True keeps new pods off the node (cordon).
  taints []Taint
  configSource any
  externalID string
Taint ; Keeps pods that do not tolerate it off the node.
  key! string
  value string
  effect! string ; NoSchedule, PreferNoSchedule or NoExecute.
  timeAdded time
NodeStatus
  capacity {}quantity ; What the node has.
  allocatable {}quantity ; What of it pods may use.
  phase string
  conditions []NodeCondition key=type
  addresses []NodeAddress key=type
  daemonEndpoints NodeDaemonEndpoints
  nodeInfo NodeSystemInfo
  images []ContainerImage
  volumesInUse []string
  volumesAttached []any
  config any
  runtimeHandlers []any
  features any
NodeCondition
  type! string
  status! string
  lastHeartbeatTime time
  lastTransitionTime time
  reason string
  message string
NodeAddress
  type! string ; Hostname, InternalIP, ExternalIP, InternalDNS or ExternalDNS.
  address! string
NodeDaemonEndpoints
  kubeletEndpoint DaemonEndpoint
DaemonEndpoint
  Port! int
NodeSystemInfo
  machineID! string
  systemUUID! string
  bootID! string
  kernelVersion! string
  osImage! string
  containerRuntimeVersion! string
  kubeletVersion! string
  kubeProxyVersion! string
  operatingSystem! string
  architecture! string
ContainerImage
  names []string
  sizeBytes int
ConfigMap ; Configuration for pods to use.
  data {}string ; Text by key.
  binaryData {}bytes ; Base64 by key.
  immutable bool ; True forbids changes of the data.
Secret ; Confidential data for pods to use.
  data {}bytes ; Base64 by key.
  stringData {}string ; Text by key; written into data, never read back.
  type string ; What the data is; Opaque by default.
  immutable bool ; True forbids changes of the data.
Service ; A name and address for a set of pods.
  spec ServiceSpec
  status ServiceStatus
ServiceSpec
  ports []ServicePort key=port,protocol
  selector {}string ; Labels of the pods behind the service.
  clusterIP string ; Virtual address; None makes the service headless.
  clusterIPs []string
  type string ; ClusterIP, NodePort, LoadBalancer or ExternalName.
  externalIPs []string
  sessionAffinity string
  loadBalancerIP string
  loadBalancerSourceRanges []string
  externalName string
  externalTrafficPolicy string
  healthCheckNodePort int
  publishNotReadyAddresses bool
  sessionAffinityConfig any
  ipFamilies []string
  ipFamilyPolicy string
  allocateLoadBalancerNodePorts bool
  loadBalancerClass string
  internalTrafficPolicy string
  trafficDistribution string ; PreferClose prefers endpoints that are near.
ServicePort
  name string
  protocol string
  appProtocol string
  port! int
  targetPort intorstring
  nodePort int
ServiceStatus
  loadBalancer any
  conditions []Condition key=type
Endpoints ; The addresses behind a service.
  subsets []EndpointSubset
EndpointSubset
  addresses []EndpointAddress
  notReadyAddresses []EndpointAddress
  ports []EndpointPort
EndpointAddress
  ip! string
  hostname string
  nodeName string
  targetRef ObjectReference
EndpointPort
  name string
  port! int
  protocol string
  appProtocol string
EndpointSlice ; Part of the addresses behind a service.
  addressType! string ; IPv4, IPv6 or FQDN.
  endpoints []Endpoint ; None for a service without pods. Kubernetes takes that too, whatever its OpenAPI says.
  ports []EndpointPort
Endpoint
  addresses! []string set
  conditions EndpointConditions
  hostname string
  targetRef ObjectReference
  deprecatedTopology {}string
  nodeName string
  zone string
  hints any
EndpointConditions
  ready bool
  serving bool
  terminating bool
ServiceAccount ; An identity for the processes of pods.
  secrets []ObjectReference key=name
  imagePullSecrets []LocalObjectReference
  automountServiceAccountToken bool
Event ; Something that happened to an object.
  involvedObject! ObjectReference
  reason string
  message string
  source EventSource
  firstTimestamp time
  lastTimestamp time
  count int
  type string
  eventTime microtime
  series EventSeries
  action string
  related ObjectReference
  reportingComponent string
  reportingInstance string
EventSource
  component string
  host string
EventSeries
  count int
  lastObservedTime microtime
Lease ; A claim that its holder renews.
  spec LeaseSpec
LeaseSpec
  holderIdentity string
  leaseDurationSeconds int
  acquireTime microtime
  renewTime microtime
  leaseTransitions int
"""
