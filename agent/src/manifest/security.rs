//! Security contexts of a pod and of its containers.

use std::path::{Component, Path};

use holdfast_model::{Capabilities, Map, SecurityProfile, SelinuxOptions, SupplementalGroupsPolicy};
use holdfast_spec::caps::{Cap, is_all};

use super::{
    reader::{Fields, Item},
    types::{CommonSecurity, ContainerSecurity, Pod, PodSecurity},
};

/// Greatest uid and gid; the kernel keeps the one above for "no change".
const MAX_ID: i64 = u32::MAX as i64 - 1;

/// Reads a PodSecurityContext.
pub fn of_pod(item: &Item<'_>) -> PodSecurity {
    let Some(fields) = item.fields() else { return PodSecurity::default() };
    let policies = [("Merge", SupplementalGroupsPolicy::Merge), ("Strict", SupplementalGroupsPolicy::Strict)];
    // Either policy does the same to a directory that is new.
    if let Some(item) = fields.take("fsGroupChangePolicy") {
        item.choice(&[("Always", ()), ("OnRootMismatch", ())]);
    }
    let policy = fields.take("supplementalGroupsPolicy").and_then(|item| item.choice(&policies));
    let groups = fields.take("supplementalGroups").map(|item| item.items()).unwrap_or_default();
    PodSecurity {
        common: common(&fields),
        fs_group: id(&fields, "fsGroup"),
        supplemental_groups: groups.iter().filter_map(|item| item.number(0, MAX_ID)).collect(),
        supplemental_groups_policy: policy.unwrap_or_default(),
        sysctls: fields.take("sysctls").map(|item| sysctls(&item)).unwrap_or_default(),
    }
}

/// Reads a container's SecurityContext.
pub fn of_container(item: &Item<'_>) -> ContainerSecurity {
    let Some(fields) = item.fields() else { return ContainerSecurity::default() };
    let flag = |name: &str| fields.take(name).and_then(|item| item.flag());
    let proc_mounts = [("Default", false), ("Unmasked", true)];
    let security = ContainerSecurity {
        common: common(&fields),
        privileged: flag("privileged").unwrap_or(false),
        read_only_root: flag("readOnlyRootFilesystem").unwrap_or(false),
        no_new_privs: flag("allowPrivilegeEscalation") == Some(false),
        unmasked_proc: fields.take("procMount").and_then(|item| item.choice(&proc_mounts)).unwrap_or(false),
        capabilities: fields.take("capabilities").map(|item| capabilities(&item)).unwrap_or_default(),
    };
    let is_admin = |name: &String| Cap::parse(name) == Cap::parse("SYS_ADMIN") || is_all(name);
    if security.no_new_privs && (security.privileged || security.capabilities.add.iter().any(is_admin)) {
        let problem =
            "allowPrivilegeEscalation: false goes neither with privileged nor with SYS_ADMIN: take one out";
        item.refuse(problem);
    }
    security
}

/// What can be seen only when all of the pod is known.
pub fn check_pod(spec: &Item<'_>, pod: &Pod) {
    for container in pod.all_containers() {
        if container.security.unmasked_proc && pod.host_users {
            let path = &container.path;
            spec.refuse(format!("{path}.securityContext.procMount: Unmasked needs spec.hostUsers: false"));
        }
    }
    let host = [("net.", pod.host_network, "hostNetwork"), ("kernel.", pod.host_ipc, "hostIPC")];
    for name in pod.security.sysctls.keys() {
        for (prefix, on_host, field) in host {
            if on_host && name.replace('/', ".").starts_with(prefix) {
                spec.refuse(format!("the sysctl {name} would change the host with {field}: take it out"));
            }
        }
    }
}

fn common(fields: &Fields<'_>) -> CommonSecurity {
    CommonSecurity {
        run_as_user: id(fields, "runAsUser"),
        run_as_group: id(fields, "runAsGroup"),
        run_as_non_root: fields.take("runAsNonRoot").and_then(|item| item.flag()),
        seccomp: fields.take("seccompProfile").and_then(|item| profile(&item, true)),
        apparmor: fields.take("appArmorProfile").and_then(|item| profile(&item, false)),
        selinux: fields.take("seLinuxOptions").and_then(|item| selinux(&item)),
    }
}

fn id(fields: &Fields<'_>, name: &str) -> Option<i64> {
    fields.take(name).and_then(|item| item.number(0, MAX_ID))
}

fn profile(item: &Item<'_>, is_file: bool) -> Option<SecurityProfile> {
    let fields = item.fields()?;
    let kinds = [
        ("RuntimeDefault", Some(SecurityProfile::RuntimeDefault)),
        ("Unconfined", Some(SecurityProfile::Unconfined)),
        ("Localhost", None),
    ];
    let names: Vec<_> = kinds.iter().enumerate().map(|(at, (name, _))| (*name, at)).collect();
    let at = fields.need("type")?.choice(&names)?;
    let name = fields.take("localhostProfile");
    match (kinds.into_iter().nth(at)?.1, name) {
        (Some(profile), None) => Some(profile),
        (Some(_), Some(name)) => {
            name.refuse("it goes with type: Localhost only: take it out");
            None
        }
        (None, Some(name)) => profile_name(&name, is_file).map(SecurityProfile::Localhost),
        (None, None) => {
            item.refuse("type: Localhost needs localhostProfile: write it");
            None
        }
    }
}

/// The name of a profile: a file's below the node's profiles, or that of a loaded profile.
fn profile_name(item: &Item<'_>, is_file: bool) -> Option<String> {
    let name = item.word()?;
    let inside =
        Path::new(&name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if is_file && !inside {
        item.refuse(format!("{name:?} is not a path below the node's profiles: no leading / and no .."));
        return None;
    }
    Some(name)
}

fn selinux(item: &Item<'_>) -> Option<SelinuxOptions> {
    let fields = item.fields()?;
    let text = |name: &str| fields.take(name).and_then(|item| item.text()).unwrap_or_default();
    Some(SelinuxOptions { user: text("user"), role: text("role"), kind: text("type"), level: text("level") })
}

fn capabilities(item: &Item<'_>) -> Capabilities {
    let Some(fields) = item.fields() else { return Capabilities::default() };
    let list = |name: &str| {
        let items = fields.take(name).map(|item| item.items()).unwrap_or_default();
        items.iter().filter_map(capability).collect()
    };
    Capabilities { add: list("add"), drop: list("drop"), add_ambient: Vec::new() }
}

fn capability(item: &Item<'_>) -> Option<String> {
    let name = item.word()?;
    if is_all(&name) || Cap::parse(&name).is_some() {
        return Some(name);
    }
    item.refuse(format!("{name:?} is not a capability: see capabilities(7), and leave CAP_ out"));
    None
}

fn sysctls(item: &Item<'_>) -> Map {
    let one = |item: &Item<'_>| {
        let fields = item.fields()?;
        let name = fields.need("name").and_then(|item| item.word());
        let value = fields.need("value").and_then(|item| item.text());
        Some((name?, value?))
    };
    let mut sysctls = Map::new();
    for item in item.items() {
        if let Some((name, value)) = one(&item)
            && sysctls.insert(name.clone(), value).is_some()
        {
            item.refuse(format!("{name} is there twice: take one out"));
        }
    }
    sysctls
}
