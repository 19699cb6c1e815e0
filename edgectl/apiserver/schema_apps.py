"""Types of the workload kinds."""

APPS = """
Deployment ; Runs a number of pods and replaces them step by step.
  spec DeploymentSpec
  status DeploymentStatus
DeploymentSpec
  replicas int ; Number of pods wanted; 1 by default.
  selector! LabelSelector ; Labels of the pods; it cannot be changed.
  template! PodTemplateSpec ; What each pod looks like.
  strategy DeploymentStrategy retain
  minReadySeconds int ; Seconds a pod must be ready to count as available.
  revisionHistoryLimit int ; Number of old replica sets to keep.
  paused bool
  progressDeadlineSeconds int
DeploymentStrategy
  type string ; RollingUpdate or Recreate.
  rollingUpdate RollingUpdateDeployment
RollingUpdateDeployment
  maxUnavailable intorstring
  maxSurge intorstring
DeploymentStatus
  observedGeneration int
  replicas int
  updatedReplicas int
  readyReplicas int
  availableReplicas int
  unavailableReplicas int
  conditions []DeploymentCondition key=type
  collisionCount int
DeploymentCondition
  type! string
  status! string
  lastUpdateTime time
  lastTransitionTime time
  reason string
  message string
ReplicaSet ; Keeps a number of equal pods.
  spec ReplicaSetSpec
  status ReplicaSetStatus
ReplicaSetSpec
  replicas int
  minReadySeconds int
  selector! LabelSelector
  template PodTemplateSpec
ReplicaSetStatus
  replicas int
  fullyLabeledReplicas int
  readyReplicas int
  availableReplicas int
  observedGeneration int
  conditions []WorkloadCondition key=type
WorkloadCondition
  type! string
  status! string
  lastTransitionTime time
  reason string
  message string
DaemonSet ; Runs one pod on each of its nodes.
  spec DaemonSetSpec
  status DaemonSetStatus
DaemonSetSpec
  selector! LabelSelector
  template! PodTemplateSpec
  updateStrategy DaemonSetUpdateStrategy
  minReadySeconds int
  revisionHistoryLimit int
DaemonSetUpdateStrategy
  type string ; RollingUpdate or OnDelete.
  rollingUpdate RollingUpdateDaemonSet
RollingUpdateDaemonSet
  maxUnavailable intorstring
  maxSurge intorstring
DaemonSetStatus
  currentNumberScheduled int
  numberMisscheduled int
  desiredNumberScheduled int
  numberReady int
  observedGeneration int
  updatedNumberScheduled int
  numberAvailable int
  numberUnavailable int
  collisionCount int
  conditions []WorkloadCondition key=type
PodTemplateSpec
  metadata ObjectMeta
  spec PodSpec
Scale ; The number of replicas of a workload.
  spec ScaleSpec
  status ScaleStatus
ScaleSpec
  replicas int
ScaleStatus
  replicas int
  selector string
"""
