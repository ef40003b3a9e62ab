//! What is refused, and by which path.

use super::{
    super::{MAX_BYTES, ManifestError, read},
    SMALL, refusal, with_container, with_spec,
};

#[test]
fn fields_that_are_refused() {
    for (more, path) in [
        ("  topologySpreadConstraints: []\n", "spec.topologySpreadConstraints"),
        ("  noSuchField: 1\n", "spec.noSuchField"),
        ("  nodeName: a\n", "spec.nodeName"),
        ("  nodeSelector: {}\n", "spec.nodeSelector"),
        ("  tolerations: []\n", "spec.tolerations"),
        ("  affinity: {}\n", "spec.affinity"),
        ("  runtimeClassName: a\n", "spec.runtimeClassName"),
        ("  subdomain: a\n", "spec.subdomain"),
        ("  serviceAccountName: a\n", "spec.serviceAccountName"),
        ("  imagePullSecrets: []\n", "spec.imagePullSecrets"),
        ("  resources: {}\n", "spec.resources"),
        ("  ephemeralContainers: []\n", "spec.ephemeralContainers"),
        ("  automountServiceAccountToken: true\n", "spec.automountServiceAccountToken: true is not possible"),
        ("  enableServiceLinks: true\n", "spec.enableServiceLinks"),
        ("  volumes:\n  - name: v\n    nfs: {server: a, path: /b}\n", "spec.volumes[0].nfs"),
        ("  volumes:\n  - name: v\n    configMap: {name: a}\n", "spec.volumes[0].configMap"),
        ("  volumes: [{name: v}]\n", "spec.volumes[0]: it says not what it is"),
        ("  volumes: [{name: v, hostPath: }]\n", "spec.volumes[0]: it says not what it is"),
        ("  volumes: [{name: v, emptyDir: {medium: Memory}}]\n", "spec.volumes[0].emptyDir.medium"),
        (
            "  volumes: [{name: v, emptyDir: {}, hostPath: {path: /a}}]\n",
            "spec.volumes[0]: a volume is one thing",
        ),
        (
            "  volumes: [{name: v, image: {reference: 'a:1'}, hostPath: {path: /a}}]\n",
            "spec.volumes[0]: a volume is one thing",
        ),
        ("  volumes: [{name: v, image: {}}]\n", "spec.volumes[0].image.reference: it is missing"),
        ("  volumes: [{name: v, image: {reference: 'a b'}}]\n", "spec.volumes[0].image.reference"),
        (
            "  volumes: [{name: v, image: {reference: 'a:1', pullPolicy: Sometimes}}]\n",
            "spec.volumes[0].image.pullPolicy",
        ),
        ("  volumes: [{name: v, hostPath: {path: a}}]\n", "spec.volumes[0].hostPath.path"),
        ("  volumes: [{name: v, hostPath: {path: /a/../b}}]\n", "spec.volumes[0].hostPath.path"),
        ("  volumes: [{name: v, hostPath: {path: /a, type: Pipe}}]\n", "spec.volumes[0].hostPath.type"),
        (
            "  volumes: [{name: v, emptyDir: {}}, {name: v, emptyDir: {}}]\n",
            "spec.volumes[1]: a volume \"v\"",
        ),
        (
            "  restartPolicy: Sometimes\n",
            "spec.restartPolicy: \"Sometimes\" is not possible here: use Always",
        ),
        ("  hostNetwork: 'true'\n", "spec.hostNetwork"),
        ("  hostUsers: false\n  hostPID: true\n", "spec: hostUsers: false goes with none of"),
        ("  shareProcessNamespace: true\n  hostPID: true\n", "spec: hostPID and shareProcessNamespace"),
        ("  activeDeadlineSeconds: 0\n", "spec.activeDeadlineSeconds: 0 is not from 1"),
        ("  terminationGracePeriodSeconds: -1\n", "spec.terminationGracePeriodSeconds"),
        ("  dnsPolicy: None\n", "spec.dnsPolicy: None needs a server"),
        ("  dnsConfig: {nameservers: [a]}\n", "spec.dnsConfig.nameservers[0]: \"a\" is not an IP address"),
        ("  dnsConfig: {options: [{name: \"a b\"}]}\n", "spec.dnsConfig.options[0].name"),
        ("  hostAliases: [{ip: a, hostnames: [b]}]\n", "spec.hostAliases[0].ip"),
        ("  hostname: A\n", "spec.hostname"),
        ("  securityContext: {windowsOptions: {}}\n", "spec.securityContext.windowsOptions"),
        ("  securityContext: {runAsUser: -1}\n", "spec.securityContext.runAsUser: -1 is not from 0"),
        ("  securityContext: {seccompProfile: {type: Localhost}}\n", "spec.securityContext.seccompProfile"),
        (
            "  securityContext: {seccompProfile: {type: Localhost, localhostProfile: ../a}}\n",
            "spec.securityContext.seccompProfile.localhostProfile",
        ),
        (
            "  securityContext: {seccompProfile: {type: Unconfined, localhostProfile: a}}\n",
            "spec.securityContext.seccompProfile.localhostProfile",
        ),
        (
            "  hostNetwork: true\n  securityContext: {sysctls: [{name: net.core.somaxconn, value: '1'}]}\n",
            "spec: the sysctl net.core.somaxconn",
        ),
        ("  initContainers: [{name: main, image: a}]\n", "spec.containers[0]: a container \"main\" is there"),
        (
            "  initContainers: [{name: i, image: a, restartPolicy: Never}]\n",
            "spec.initContainers[0].restartPolicy",
        ),
    ] {
        let refusal = refusal(&with_spec(more));
        assert!(refusal.contains(path), "{path} is not in {refusal}");
    }
}

#[test]
fn fields_of_containers_that_are_refused() {
    for (more, path) in [
        ("livenessProbe: {}", "livenessProbe"),
        ("lifecycle: {}", "lifecycle"),
        ("envFrom: []", "envFrom"),
        ("restartPolicy: Always", "restartPolicy"),
        ("volumeDevices: []", "volumeDevices"),
        ("stdin: true", "stdin: true is not possible"),
        ("stdinOnce: true", "stdinOnce"),
        ("imagePullPolicy: always", "imagePullPolicy"),
        ("command: sh -c true", "command: sh -c true is not a list"),
        (
            "args: [1]",
            "args[0]: 1 without quotes is a number in YAML 1.1, as Kubernetes reads it: write \"1\"",
        ),
        ("args: [yes]", "args[0]: yes without quotes is true in YAML 1.1"),
        ("args: [{}]", "args[0]: a mapping is not a text"),
        ("workingDir: work", "workingDir"),
        ("terminationMessagePath: log", "terminationMessagePath"),
        ("terminationMessagePolicy: Logs", "terminationMessagePolicy"),
        ("env: [{name: A, value: 1}]", "env[0].value"),
        ("env: [{name: A=B}]", "env[0].name"),
        ("env: [{name: N, value: x}]", "env[0].name: N without quotes is false in YAML 1.1"),
        ("env: [{name: y, value: x}]", "env[0].name: y without quotes is true in YAML 1.1"),
        ("env: [{name: on, value: x}]", "env[0].name: on without quotes is true in YAML 1.1"),
        (
            "env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]",
            "env[0]: it has both",
        ),
        ("env: [{name: A, valueFrom: {secretKeyRef: {name: a, key: b}}}]", "env[0].valueFrom.secretKeyRef"),
        (
            "env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]",
            "env[0].valueFrom.fieldRef.fieldPath",
        ),
        (
            "env: [{name: A, valueFrom: {fieldRef: {apiVersion: v2, fieldPath: metadata.name}}}]",
            "fieldRef.apiVersion",
        ),
        ("ports: [{hostPort: 80}]", "ports[0].containerPort: it is missing"),
        ("ports: [{containerPort: 0}]", "ports[0].containerPort: 0 is not from 1 to 65535"),
        ("ports: [{containerPort: 80, protocol: HTTP}]", "ports[0].protocol"),
        (
            "ports: [{containerPort: 80, hostPort: 1}, {containerPort: 81, hostPort: 1}]",
            "host port 1 is taken twice",
        ),
        ("resources: {limits: {ephemeral-storage: 1Gi}}", "resources.limits[ephemeral-storage]"),
        ("resources: {limits: {nvidia.com/gpu: 1}}", "resources.limits[nvidia.com/gpu]"),
        ("resources: {claims: []}", "resources.claims"),
        ("resources: {limits: {memory: 64MB}}", "resources.limits[memory]: \"64MB\": it is not a quantity"),
        ("resources: {limits: {memory: 400m}}", "resources.limits[memory]: \"400m\" is a part of a byte"),
        ("resources: {limits: {cpu: -1}}", "resources.limits[cpu]: \"-1\": it is negative"),
        (
            "resources: {limits: {cpu: 1}, requests: {cpu: 2}}",
            "resources: the request of cpu is above its limit",
        ),
        ("resources: {limits: {hugepages-3Mi: 3Mi}}", "resources.limits[hugepages-3Mi]"),
        ("resources: {limits: {hugepages-2Mi: 3Mi}}", "it is not a multiple of 2Mi"),
        (
            "securityContext: {privileged: true, allowPrivilegeEscalation: false}",
            "securityContext: allowPrivilege",
        ),
        (
            "securityContext: {allowPrivilegeEscalation: false, capabilities: {add: [CAP_SYS_ADMIN]}}",
            "securityContext: allowPrivilege",
        ),
        ("securityContext: {allowPrivilegeEscalation: false, capabilities: {add: [All]}}", "allowPrivilege"),
        ("securityContext: {capabilities: {add: [FLY]}}", "securityContext.capabilities.add[0]: \"FLY\""),
        (
            "securityContext: {procMount: Unmasked}",
            "spec.containers[0].securityContext.procMount: Unmasked needs",
        ),
        ("securityContext: {fsGroup: 1}", "securityContext.fsGroup"),
        ("volumeMounts: [{name: v, mountPath: /a}]", "volumeMounts[0].name: there is no volume \"v\""),
    ] {
        let refusal = refusal(&with_container(more));
        assert!(
            refusal.contains("spec.containers[0]") && refusal.contains(path),
            "{path} is not in {refusal}"
        );
    }
}

#[test]
fn mounts_that_are_refused() {
    for (mount, word) in [
        ("mountPath: a", "mountPath: \"a\" is not an absolute path"),
        ("mountPath: '/a:b'", "mountPath: \"/a:b\" holds a colon"),
        ("mountPath: /a, subPath: /b", "subPath"),
        ("mountPath: /a, subPath: ../b", "subPath: \"../b\" is not a path below the volume"),
        ("mountPath: /a, subPath: b/../../c", "subPath"),
        ("mountPath: /a, subPathExpr: b", "subPathExpr"),
        (
            "mountPath: /a, mountPropagation: Bidirectional",
            "mountPropagation: Bidirectional is for privileged",
        ),
        ("mountPath: /a, recursiveReadOnly: Enabled", "recursiveReadOnly: it goes with readOnly"),
        (
            "mountPath: /a, readOnly: true, mountPropagation: HostToContainer, recursiveReadOnly: Enabled",
            "recursiveReadOnly: it goes with readOnly",
        ),
        ("mountPath: /a}, {name: v, mountPath: /a/", "volumeMounts[1]: there is a mount at /a/ already"),
    ] {
        let container = with_container(&format!("volumeMounts: [{{name: v, {mount}}}]"));
        let refusal = refusal(&format!("{container}  volumes: [{{name: v, emptyDir: {{}}}}]\n"));
        assert!(refusal.contains("spec.containers[0].volumeMounts[") && refusal.contains(word), "{refusal}");
    }
}

#[test]
fn documents_that_are_no_pod() {
    for (text, word) in [
        ("", "empty"),
        ("kind: [", "line 2: while parsing"),
        ("[]", "the manifest: a list is not a mapping"),
        (
            "apiVersion: v1\nkind: Service\n",
            "kind: a Service takes a cluster: holdfast run runs a Pod (line 2)",
        ),
        ("apiVersion: apps/v1\nkind: Deployment\nspec: {x: 1}\n", "kind: a Deployment takes a cluster"),
        ("apiVersion: v2\nkind: Pod\n", "apiVersion: \"v2\""),
        ("kind: Pod\n", "apiVersion: it is missing"),
        ("apiVersion: v1\nkind: Pod\n", "metadata: it is missing"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n",
            "spec.containers: a pod has",
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}\n", "spec.containers: it is missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: A}\nspec: {}\n", "metadata.name: \"A\" is not a name"),
        (&format!("{SMALL}status: {{phase: Running}}\n"), "status: "),
        (&format!("{SMALL}more: 1\n"), "more: "),
        (&format!("{SMALL}---\n{SMALL}"), "line 10: a second document"),
        (&SMALL.replace("name: web", "name: web\n  ownerReferences: []"), "metadata.ownerReferences"),
        (&SMALL.replace("name: web", "name: web\n  uid: ../a"), "metadata.uid"),
        (
            &SMALL.replace("name: web", "name: web\n  labels: {a: 1}"),
            "metadata.labels[a]: 1 without quotes is a number",
        ),
        (&SMALL.replace("    image: a:1", "    image: 'a b'"), "spec.containers[0].image"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.contains(word), "{word} is not in {refusal}");
    }
    assert_eq!(read(b"a: 1\nb: \xff\n"), Err(ManifestError::NotText { line: 2 }));
    assert_eq!(read(&vec![b' '; MAX_BYTES + 1]), Err(ManifestError::TooLarge { limit: MAX_BYTES }));
    let apparmor =
        "name: web\n  annotations: {container.apparmor.security.beta.kubernetes.io/main: unconfined}";
    assert!(refusal(&SMALL.replace("name: web", apparmor)).contains("write securityContext.appArmorProfile"));
}

#[test]
fn all_problems_are_told_at_once_in_their_order() {
    let text = with_container("livenessProbe: {}\nargs: [1]") + "  hostname: A\n  noSuch: 1\n";
    let refusal = refusal(&text);
    let paths: Vec<_> = refusal.lines().skip(1).filter_map(|line| line.trim().split(": ").next()).collect();
    let expected =
        ["spec.containers[0].livenessProbe", "spec.containers[0].args[0]", "spec.hostname", "spec.noSuch"];
    assert_eq!(paths, expected, "{refusal}");
}
