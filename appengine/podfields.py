"""Every field of a v1 Pod's metadata and specification: supported, ignored with the reason, or refused.

The names are those of Kubernetes 1.34's PodSpec. ``docs/pods.md`` is made from this table.
"""

from __future__ import annotations

from appengine.schema import (
    ANY,
    BOOLEAN,
    INT_OR_STRING,
    INTEGER,
    QUANTITY,
    STRING,
    ignored,
    lists,
    maps,
    objects,
    refused,
    yes,
)

_BY_SCHEDULER = "the scheduler's business; the pod is already bound to this node"
_BY_API = "the API server's business"
_STORAGE = "network and cloud storage needs drivers that an edge node does not have"
_STRINGS = maps(STRING)

METADATA = objects(
    {
        "name": yes(STRING),
        "namespace": yes(STRING),
        "uid": yes(STRING),
        "labels": yes(_STRINGS),
        "annotations": yes(_STRINGS),
        "deletionTimestamp": yes(STRING, "the pod is stopped with its grace period"),
        "deletionGracePeriodSeconds": yes(INTEGER),
        "creationTimestamp": ignored(STRING, _BY_API),
        "resourceVersion": ignored(STRING, _BY_API),
        "generation": ignored(INTEGER, _BY_API),
        "generateName": ignored(STRING, _BY_API),
        "selfLink": ignored(STRING, _BY_API),
        "finalizers": ignored(lists(STRING), _BY_API),
        "ownerReferences": ignored(lists(ANY), _BY_API),
        "managedFields": ignored(lists(ANY), _BY_API),
    }
)

_KEY_REF = objects({"name": yes(STRING), "key": yes(STRING), "optional": yes(BOOLEAN)})
_OBJECT_REF = objects({"name": yes(STRING), "optional": yes(BOOLEAN)})
_FIELD_REF = objects({"apiVersion": ignored(STRING, "v1 is the only one"), "fieldPath": yes(STRING)})
_RESOURCE_REF = objects({"containerName": yes(STRING), "resource": yes(STRING), "divisor": yes(QUANTITY)})

_ENV = objects(
    {
        "name": yes(STRING),
        "value": yes(STRING, "with `$(VAR)` expansion"),
        "valueFrom": yes(
            objects(
                {
                    "configMapKeyRef": yes(_KEY_REF),
                    "secretKeyRef": yes(_KEY_REF),
                    "fieldRef": yes(_FIELD_REF),
                    "resourceFieldRef": yes(_RESOURCE_REF),
                    "fileKeyRef": refused(ANY, "an alpha feature"),
                }
            )
        ),
    }
)
_ENV_FROM = objects({"prefix": yes(STRING), "configMapRef": yes(_OBJECT_REF), "secretRef": yes(_OBJECT_REF)})

_HTTP_GET = objects(
    {
        "path": yes(STRING),
        "port": yes(INT_OR_STRING),
        "host": yes(STRING),
        "scheme": yes(STRING, only=("HTTP", "HTTPS")),
        "httpHeaders": yes(lists(objects({"name": yes(STRING), "value": yes(STRING)}))),
    }
)
_EXEC = objects({"command": yes(lists(STRING))})
_TCP = objects({"port": yes(INT_OR_STRING), "host": yes(STRING)})
_PROBE = objects(
    {
        "exec": yes(_EXEC),
        "httpGet": yes(_HTTP_GET),
        "tcpSocket": yes(_TCP),
        "grpc": yes(objects({"port": yes(INTEGER), "service": yes(STRING)})),
        "initialDelaySeconds": yes(INTEGER),
        "timeoutSeconds": yes(INTEGER),
        "periodSeconds": yes(INTEGER),
        "successThreshold": yes(INTEGER),
        "failureThreshold": yes(INTEGER),
        "terminationGracePeriodSeconds": yes(INTEGER),
    }
)
_HANDLER = objects(
    {
        "exec": yes(_EXEC),
        "httpGet": yes(_HTTP_GET),
        "sleep": yes(objects({"seconds": yes(INTEGER)})),
        "tcpSocket": refused(_TCP, "deprecated; the kubelet does nothing with it either"),
    }
)
_RESOURCES = objects(
    {
        "limits": yes(
            maps(QUANTITY),
            "cpu and memory as cgroup settings; ephemeral-storage is counted, not enforced; others do not fit",
        ),
        "requests": yes(maps(QUANTITY)),
        "claims": refused(lists(ANY), "dynamic resource allocation needs drivers"),
    }
)
_SELINUX = objects({"user": yes(STRING), "role": yes(STRING), "type": yes(STRING), "level": yes(STRING)})
_APP_ARMOR = objects({"type": yes(STRING), "localhostProfile": yes(STRING)})
_SECCOMP = objects(
    {
        "type": yes(STRING, only=("RuntimeDefault", "Unconfined")),
        "localhostProfile": refused(STRING, "profiles of the pod's own are not loaded"),
    }
)

_SECURITY = objects(
    {
        "runAsUser": yes(INTEGER),
        "runAsGroup": yes(INTEGER),
        "runAsNonRoot": yes(BOOLEAN),
        "privileged": yes(BOOLEAN),
        "readOnlyRootFilesystem": yes(BOOLEAN),
        "allowPrivilegeEscalation": yes(BOOLEAN),
        "capabilities": yes(objects({"add": yes(lists(STRING)), "drop": yes(lists(STRING))})),
        "seLinuxOptions": yes(_SELINUX),
        "seccompProfile": yes(_SECCOMP),
        "appArmorProfile": yes(_APP_ARMOR),
        "procMount": yes(STRING, only=("Default",)),
        "windowsOptions": refused(ANY, "this is Linux"),
    }
)

_MOUNT = objects(
    {
        "name": yes(STRING),
        "mountPath": yes(STRING),
        "readOnly": yes(BOOLEAN),
        "subPath": yes(STRING),
        "subPathExpr": yes(STRING),
        "mountPropagation": yes(STRING, only=("None", "HostToContainer", "Bidirectional")),
        "recursiveReadOnly": yes(STRING, only=("Disabled", "IfPossible")),
    }
)

_CONTAINER_FIELDS = {
    "name": yes(STRING),
    "image": yes(STRING),
    "imagePullPolicy": yes(STRING, only=("Always", "IfNotPresent", "Never")),
    "command": yes(lists(STRING), "with `$(VAR)` expansion"),
    "args": yes(lists(STRING), "with `$(VAR)` expansion"),
    "workingDir": yes(STRING),
    "env": yes(lists(_ENV)),
    "envFrom": yes(lists(_ENV_FROM)),
    "ports": yes(
        lists(
            objects(
                {
                    "name": yes(STRING),
                    "containerPort": yes(INTEGER),
                    "hostPort": yes(INTEGER),
                    "hostIP": yes(STRING),
                    "protocol": yes(STRING, only=("TCP", "UDP", "SCTP")),
                }
            )
        )
    ),
    "volumeMounts": yes(lists(_MOUNT)),
    "volumeDevices": refused(lists(ANY), _STORAGE),
    "resources": yes(_RESOURCES),
    "resizePolicy": ignored(lists(ANY), "resources of a running container are not resized in place"),
    "restartPolicy": yes(STRING, "`Always` on an init container makes it a sidecar", only=("Always",)),
    "restartPolicyRules": refused(lists(ANY), "an alpha feature"),
    "livenessProbe": yes(_PROBE),
    "readinessProbe": yes(_PROBE),
    "startupProbe": yes(_PROBE),
    "lifecycle": yes(objects({"postStart": yes(_HANDLER), "preStop": yes(_HANDLER), "stopSignal": yes(STRING)})),
    "securityContext": yes(_SECURITY),
    "stdin": yes(BOOLEAN),
    "stdinOnce": yes(BOOLEAN),
    "tty": yes(BOOLEAN),
    "terminationMessagePath": yes(STRING),
    "terminationMessagePolicy": yes(STRING, only=("File", "FallbackToLogsOnError")),
}
CONTAINER = objects(_CONTAINER_FIELDS)

_ITEMS = lists(objects({"key": yes(STRING), "path": yes(STRING), "mode": yes(INTEGER)}))
_DOWNWARD_ITEMS = lists(
    objects(
        {
            "path": yes(STRING),
            "fieldRef": yes(_FIELD_REF),
            "resourceFieldRef": yes(_RESOURCE_REF),
            "mode": yes(INTEGER),
        }
    )
)
_PROJECTION = objects(
    {
        "configMap": yes(objects({"name": yes(STRING), "items": yes(_ITEMS), "optional": yes(BOOLEAN)})),
        "secret": yes(objects({"name": yes(STRING), "items": yes(_ITEMS), "optional": yes(BOOLEAN)})),
        "downwardAPI": yes(objects({"items": yes(_DOWNWARD_ITEMS)})),
        "serviceAccountToken": refused(ANY, "tokens need the API server, which may be away"),
        "clusterTrustBundle": refused(ANY, "a beta feature"),
        "podCertificate": refused(ANY, "an alpha feature"),
    }
)

_HOST_PATH_TYPES = (
    "",
    "DirectoryOrCreate",
    "Directory",
    "FileOrCreate",
    "File",
    "Socket",
    "CharDevice",
    "BlockDevice",
)
_NO_STORAGE = (
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
)

VOLUME = objects(
    {
        "name": yes(STRING),
        "emptyDir": yes(
            objects({"medium": yes(STRING, only=("", "Memory")), "sizeLimit": yes(QUANTITY)}),
            "`sizeLimit` is the size of a `Memory` one, and evicts the pod otherwise",
        ),
        "hostPath": yes(objects({"path": yes(STRING), "type": yes(STRING, only=_HOST_PATH_TYPES)})),
        "configMap": yes(
            objects(
                {
                    "name": yes(STRING),
                    "items": yes(_ITEMS),
                    "defaultMode": yes(INTEGER),
                    "optional": yes(BOOLEAN),
                }
            )
        ),
        "secret": yes(
            objects(
                {
                    "secretName": yes(STRING),
                    "items": yes(_ITEMS),
                    "defaultMode": yes(INTEGER),
                    "optional": yes(BOOLEAN),
                }
            ),
            "kept in memory (tmpfs)",
        ),
        "downwardAPI": yes(objects({"items": yes(_DOWNWARD_ITEMS), "defaultMode": yes(INTEGER)})),
        "projected": yes(objects({"sources": yes(lists(_PROJECTION)), "defaultMode": yes(INTEGER)})),
        **{name: refused(ANY, _STORAGE) for name in _NO_STORAGE},
    }
)

SPEC = objects(
    {
        "containers": yes(lists(CONTAINER)),
        "initContainers": yes(lists(CONTAINER)),
        "ephemeralContainers": refused(lists(ANY), "debug with exec, or with a second pod"),
        "volumes": yes(lists(VOLUME)),
        "restartPolicy": yes(STRING, only=("Always", "OnFailure", "Never")),
        "terminationGracePeriodSeconds": yes(INTEGER),
        "activeDeadlineSeconds": yes(INTEGER),
        "dnsPolicy": yes(
            STRING,
            "`ClusterFirst` is `Default` where the node knows no cluster DNS",
            only=("Default", "ClusterFirst", "ClusterFirstWithHostNet", "None"),
        ),
        "dnsConfig": yes(
            objects(
                {
                    "nameservers": yes(lists(STRING)),
                    "searches": yes(lists(STRING)),
                    "options": yes(lists(objects({"name": yes(STRING), "value": yes(STRING)}))),
                }
            )
        ),
        "hostAliases": yes(lists(objects({"ip": yes(STRING), "hostnames": yes(lists(STRING))}))),
        "hostname": yes(STRING),
        "subdomain": yes(STRING),
        "setHostnameAsFQDN": yes(BOOLEAN),
        "hostnameOverride": refused(STRING, "an alpha feature"),
        "hostNetwork": yes(BOOLEAN),
        "hostPID": yes(BOOLEAN),
        "hostIPC": yes(BOOLEAN),
        "hostUsers": ignored(BOOLEAN, "user namespaces are set for the whole Docker engine"),
        "shareProcessNamespace": yes(BOOLEAN),
        "securityContext": yes(
            objects(
                {
                    "runAsUser": yes(INTEGER),
                    "runAsGroup": yes(INTEGER),
                    "runAsNonRoot": yes(BOOLEAN),
                    "supplementalGroups": yes(lists(INTEGER)),
                    "supplementalGroupsPolicy": yes(STRING, only=("Merge",)),
                    "fsGroup": yes(INTEGER),
                    "fsGroupChangePolicy": ignored(STRING, "ownership is set once, when the volume is made"),
                    "sysctls": yes(lists(objects({"name": yes(STRING), "value": yes(STRING)}))),
                    "seLinuxOptions": yes(_SELINUX),
                    "seLinuxChangePolicy": ignored(STRING, "volumes are not relabelled"),
                    "seccompProfile": yes(_SECCOMP),
                    "appArmorProfile": yes(_APP_ARMOR),
                    "windowsOptions": refused(ANY, "this is Linux"),
                }
            )
        ),
        "imagePullSecrets": yes(lists(objects({"name": yes(STRING)}))),
        "nodeName": yes(STRING),
        "nodeSelector": ignored(_STRINGS, _BY_SCHEDULER),
        "affinity": ignored(ANY, _BY_SCHEDULER),
        "tolerations": ignored(lists(ANY), _BY_SCHEDULER),
        "topologySpreadConstraints": ignored(lists(ANY), _BY_SCHEDULER),
        "schedulerName": ignored(STRING, _BY_SCHEDULER),
        "schedulingGates": ignored(lists(ANY), _BY_SCHEDULER),
        "preemptionPolicy": ignored(STRING, _BY_SCHEDULER),
        "priorityClassName": ignored(STRING, "its value stands in `priority`"),
        "priority": yes(INTEGER, "used in the order of eviction"),
        "serviceAccountName": yes(STRING, "shown in `fieldRef`"),
        "serviceAccount": ignored(STRING, "the deprecated name of `serviceAccountName`"),
        "automountServiceAccountToken": ignored(BOOLEAN, _BY_API),
        "enableServiceLinks": yes(BOOLEAN, "`KUBERNETES_SERVICE_HOST` and `…_PORT` are set in any case"),
        "readinessGates": refused(lists(ANY), "the node does not see the conditions that others set in the cloud"),
        "runtimeClassName": refused(STRING, "the node has one runtime"),
        "overhead": ignored(maps(QUANTITY), "comes with a runtime class, and the node has one runtime"),
        "os": yes(objects({"name": yes(STRING, only=("linux",))})),
        "resources": refused(ANY, "resources of whole pods are a beta feature; set them on containers"),
        "resourceClaims": refused(lists(ANY), "dynamic resource allocation needs drivers"),
        "workloadRef": refused(ANY, "an alpha feature"),
    }
)

POD = objects(
    {
        "apiVersion": yes(STRING, only=("v1",)),
        "kind": yes(STRING, only=("Pod",)),
        "metadata": yes(METADATA),
        "spec": yes(SPEC),
        "status": ignored(ANY, "the node's own report"),
    }
)
