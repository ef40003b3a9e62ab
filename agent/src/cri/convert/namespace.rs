//! Namespaces, id maps, group policy and SELinux labels.

use holdfast_cri::v1;
use holdfast_model::{
    IdMapping, NamespaceMode, NamespaceOptions, SelinuxOptions, SupplementalGroupsPolicy, UserNamespace,
};

use super::{Invalid, invalid::Within};

/// Whose options they are: only a container joins the PID namespace of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Pod,
    Container,
}

/// The namespaces of a container, from a message on its own.
pub fn namespace_options(options: v1::NamespaceOption) -> Result<NamespaceOptions, Invalid> {
    namespace_options_of(options, Scope::Container)
}

pub(super) fn namespace_options_of(
    options: v1::NamespaceOption,
    scope: Scope,
) -> Result<NamespaceOptions, Invalid> {
    let pid = mode("pid", options.pid, &[])?;
    if pid == NamespaceMode::Target && scope == Scope::Container && options.target_id.is_empty() {
        return Err(Invalid::missing("target_id"));
    }
    Ok(NamespaceOptions {
        network: mode("network", options.network, &[NamespaceMode::Pod, NamespaceMode::Node])?,
        pid,
        ipc: mode("ipc", options.ipc, &[NamespaceMode::Pod, NamespaceMode::Node])?,
        target_id: options.target_id,
        user: options
            .userns_options
            .map(|user| user_namespace(&user))
            .transpose()
            .within("userns_options")?,
    })
}

/// Namespaces for PodSandboxStatus.
pub fn namespace_options_to_wire(options: &NamespaceOptions) -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: mode_to_wire(options.network),
        pid: mode_to_wire(options.pid),
        ipc: mode_to_wire(options.ipc),
        target_id: options.target_id.clone(),
        userns_options: options.user.as_ref().map(|user| v1::UserNamespace {
            mode: mode_to_wire(user.mode),
            uids: id_mappings_to_wire(&user.uids),
            gids: id_mappings_to_wire(&user.gids),
        }),
    }
}

/// A mode; an empty list allows all four.
fn mode(field: &str, value: i32, allowed: &[NamespaceMode]) -> Result<NamespaceMode, Invalid> {
    let Ok(wire) = v1::NamespaceMode::try_from(value) else {
        return Err(Invalid::choice(field, value, "POD, CONTAINER, NODE, TARGET"));
    };
    let mode = match wire {
        v1::NamespaceMode::Pod => NamespaceMode::Pod,
        v1::NamespaceMode::Container => NamespaceMode::Container,
        v1::NamespaceMode::Node => NamespaceMode::Node,
        v1::NamespaceMode::Target => NamespaceMode::Target,
    };
    if allowed.is_empty() || allowed.contains(&mode) {
        Ok(mode)
    } else {
        Err(Invalid::choice(field, wire.as_str_name(), "POD, NODE"))
    }
}

fn mode_to_wire(mode: NamespaceMode) -> i32 {
    let wire = match mode {
        NamespaceMode::Pod => v1::NamespaceMode::Pod,
        NamespaceMode::Container => v1::NamespaceMode::Container,
        NamespaceMode::Node => v1::NamespaceMode::Node,
        NamespaceMode::Target => v1::NamespaceMode::Target,
    };
    wire as i32
}

/// KEP-127: exactly one mapping each for uids and gids, from id 0 of the container on.
fn user_namespace(user: &v1::UserNamespace) -> Result<UserNamespace, Invalid> {
    let mode = mode("mode", user.mode, &[NamespaceMode::Pod, NamespaceMode::Node])?;
    let (uids, gids) = (id_mappings("uids", &user.uids)?, id_mappings("gids", &user.gids)?);
    for (field, maps) in [("uids", &uids), ("gids", &gids)] {
        match (mode, maps.as_slice()) {
            (NamespaceMode::Node, []) => {}
            (NamespaceMode::Node, _) => {
                return Err(Invalid::conflict(field, "is set, but mode NODE has no mappings"));
            }
            (_, [map]) if map.container_id != 0 => {
                return Err(Invalid::conflict(field, "does not map the container's id 0"));
            }
            (_, [_]) => {}
            _ => return Err(Invalid::conflict(field, "must hold exactly one mapping")),
        }
    }
    Ok(UserNamespace { mode, uids, gids })
}

pub(super) fn id_mappings(field: &str, maps: &[v1::IdMapping]) -> Result<Vec<IdMapping>, Invalid> {
    maps.iter()
        .enumerate()
        .map(|(i, map)| {
            let v1::IdMapping { host_id, container_id, length } = *map;
            let fits = |first: u32| length != 0 && first.checked_add(length).is_some();
            if fits(host_id) && fits(container_id) {
                Ok(IdMapping { host_id, container_id, length })
            } else {
                Err(Invalid::conflict(format!("{field}[{i}]"), "is empty or goes past the last id"))
            }
        })
        .collect()
}

pub(super) fn id_mappings_to_wire(maps: &[IdMapping]) -> Vec<v1::IdMapping> {
    maps.iter()
        .map(|map| v1::IdMapping { host_id: map.host_id, container_id: map.container_id, length: map.length })
        .collect()
}

pub(super) fn supplemental_groups_policy(value: i32) -> Result<SupplementalGroupsPolicy, Invalid> {
    match v1::SupplementalGroupsPolicy::try_from(value) {
        Ok(v1::SupplementalGroupsPolicy::Merge) => Ok(SupplementalGroupsPolicy::Merge),
        Ok(v1::SupplementalGroupsPolicy::Strict) => Ok(SupplementalGroupsPolicy::Strict),
        Err(_) => Err(Invalid::choice("supplemental_groups_policy", value, "Merge, Strict")),
    }
}

/// A label of which no part is said is none.
pub(super) fn selinux(options: Option<v1::SeLinuxOption>) -> Option<SelinuxOptions> {
    let v1::SeLinuxOption { user, role, r#type: kind, level } = options?;
    let options = SelinuxOptions { user, role, kind, level };
    (options != SelinuxOptions::default()).then_some(options)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MAP: v1::IdMapping = v1::IdMapping { host_id: 65536, container_id: 0, length: 65536 };

    fn user(mode: i32, uids: &[v1::IdMapping], gids: &[v1::IdMapping]) -> v1::NamespaceOption {
        v1::NamespaceOption {
            userns_options: Some(v1::UserNamespace { mode, uids: uids.to_vec(), gids: gids.to_vec() }),
            ..Default::default()
        }
    }

    #[test]
    fn there_and_back_nothing_is_lost() {
        let cases = [
            v1::NamespaceOption::default(),
            v1::NamespaceOption { network: 2, pid: 1, ipc: 2, ..Default::default() },
            v1::NamespaceOption { pid: 3, target_id: "t".into(), ..Default::default() },
            user(0, &[MAP], &[MAP]),
            user(2, &[], &[]),
        ];
        for wire in cases {
            assert_eq!(namespace_options_to_wire(&namespace_options(wire.clone()).unwrap()), wire);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let shifted = v1::IdMapping { container_id: 5, ..MAP };
        let long = v1::IdMapping { host_id: u32::MAX, ..MAP };
        let cases = [
            (
                v1::NamespaceOption { network: 1, ..Default::default() },
                "network: CONTAINER is not one of POD, NODE",
            ),
            (v1::NamespaceOption { ipc: 3, ..Default::default() }, "ipc: TARGET is not one of POD, NODE"),
            (v1::NamespaceOption { pid: 8, ..Default::default() }, "pid: 8 is not one of"),
            (v1::NamespaceOption { pid: 3, ..Default::default() }, "target_id is missing"),
            (user(1, &[MAP], &[MAP]), "userns_options.mode: CONTAINER is not one of POD, NODE"),
            (user(3, &[MAP], &[MAP]), "userns_options.mode: TARGET is not one of POD, NODE"),
            (user(0, &[], &[MAP]), "userns_options.uids must hold exactly one mapping"),
            (user(0, &[MAP], &[MAP, MAP]), "userns_options.gids must hold exactly one mapping"),
            (user(0, &[MAP], &[shifted]), "userns_options.gids does not map the container's id 0"),
            (user(0, &[long], &[MAP]), "userns_options.uids[0] is empty or goes past the last id"),
            (user(2, &[MAP], &[]), "userns_options.uids is set, but mode NODE has no mappings"),
        ];
        for (wire, expected) in cases {
            let error = namespace_options(wire).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_pod_may_be_told_of_a_target_without_naming_it() {
        let wire = v1::NamespaceOption { pid: 3, ..Default::default() };
        assert_eq!(namespace_options_of(wire, Scope::Pod).unwrap().pid, NamespaceMode::Target);
    }
}
