"""Types of the disruption budgets."""

POLICY = """
PodDisruptionBudget ; How many of a set of pods may be evicted at a time.
  spec PodDisruptionBudgetSpec
  status PodDisruptionBudgetStatus
PodDisruptionBudgetSpec
  minAvailable intorstring ; So many (or so much) of the pods must stay healthy.
  maxUnavailable intorstring ; So many (or so much) of the pods may be missing.
  selector LabelSelector ; Labels of the pods. Empty: all pods of the namespace.
  unhealthyPodEvictionPolicy string ; IfHealthyBudget or AlwaysAllow: when pods that are not ready may be evicted.
PodDisruptionBudgetStatus
  observedGeneration int
  disruptedPods {}time ; Pods whose eviction was allowed, and that are not seen to end yet.
  disruptionsAllowed! int
  currentHealthy! int
  desiredHealthy! int
  expectedPods! int
  conditions []PolicyCondition key=type
PolicyCondition
  type! string
  status! string
  observedGeneration int
  lastTransitionTime time
  reason! string
  message! string
"""
