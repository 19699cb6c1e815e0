"""Types that every kind uses: metadata, selectors, references."""

META = """
ObjectMeta ; Metadata that every persisted object has.
  name string ; Name, unique in its namespace. It cannot be changed.
  generateName string ; Prefix from which the server makes a unique name when name is empty.
  namespace string ; Namespace within which the name is unique.
  selfLink string ; Deprecated; never set.
  uid string ; Unique in time and space; set by the server.
  resourceVersion string ; Opaque version of the object, for change detection and watches.
  generation int ; Counts the changes of the desired state.
  creationTimestamp time ; When the object was created, set by the server.
  deletionTimestamp time ; When the object will be deleted; set by the server on a graceful deletion.
  deletionGracePeriodSeconds int ; Seconds the object may take to end.
  labels {}string ; Keys and values to select objects by.
  annotations {}string ; Keys and values of arbitrary metadata.
  ownerReferences []OwnerReference key=uid ; Objects this one depends on; it is collected when all are gone.
  finalizers []string set ; Must be empty before the object is removed.
  managedFields []ManagedFieldsEntry ; Which manager owns which fields.
OwnerReference ; Identifies an owning object in the same namespace, or a cluster-scoped one.
  apiVersion! string
  kind! string
  name! string
  uid! string
  controller bool ; True if this owner manages the object.
  blockOwnerDeletion bool ; The owner's foreground deletion waits for this object.
ManagedFieldsEntry
  manager string
  operation string
  apiVersion string
  time time
  fieldsType string
  fieldsV1 any
  subresource string
LabelSelector ; A query over labels; both parts must match.
  matchLabels {}string
  matchExpressions []LabelSelectorRequirement
LabelSelectorRequirement
  key! string
  operator! string ; In, NotIn, Exists or DoesNotExist.
  values []string
LocalObjectReference
  name string
ObjectReference ; Points at an object.
  kind string
  namespace string
  name string
  uid string
  apiVersion string
  resourceVersion string
  fieldPath string
TypedLocalObjectReference
  apiGroup string
  kind! string
  name! string
Condition
  type! string
  status! string
  observedGeneration int
  lastTransitionTime! time
  reason! string
  message! string
"""
