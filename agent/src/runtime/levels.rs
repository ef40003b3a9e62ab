//! SELinux levels of pods: each has one of its own on this node, from RunPodSandbox until it is removed.

use std::collections::HashSet;

use holdfast_model::{PodId, PodSandboxConfig, SelinuxOptions};
use holdfast_spec::selinux;

use super::{
    Runtime,
    names::{Names, Reservation},
    record::PodRecord,
};

impl Runtime {
    /// Takes a level for a new pod: one that no other pod has, and that no request names. None where the node has no
    /// SELinux, or the pod is told its level.
    pub(super) fn reserve_level(
        &self,
        pod: &PodId,
        config: &PodSandboxConfig,
    ) -> Option<(String, Reservation<String>)> {
        let told = named(config.security.selinux.as_ref()).is_some();
        if self.host.selinux.is_none() || told {
            return None;
        }
        first_free(&self.levels, pod, &self.named_levels())
    }

    /// Takes the level of a pod that is there already.
    pub(super) fn adopt_level(&self, record: &PodRecord) -> Option<Reservation<String>> {
        let level = Some(&record.selinux_level).filter(|level| !level.is_empty())?;
        self.levels.adopt(level, record.id.as_str())
    }

    fn named_levels(&self) -> HashSet<String> {
        let mut levels = HashSet::new();
        for pod in self.all_pods() {
            levels.extend(named(pod.record.get().config.security.selinux.as_ref()));
        }
        for container in self.all_containers() {
            levels.extend(named(container.record.get().config.security.selinux.as_ref()));
        }
        levels
    }
}

/// The level of a pod's containers where no request says one.
pub(super) fn of_pod(record: &PodRecord) -> String {
    if record.selinux_level.is_empty() {
        // Made before levels were kept, or with a level of the request's, which wins.
        return selinux::levels(&record.id).next().unwrap_or_default();
    }
    record.selinux_level.clone()
}

fn named(options: Option<&SelinuxOptions>) -> Option<String> {
    options.map(|options| selinux::normal(&options.level)).filter(|level| !level.is_empty())
}

/// None if all are taken, which is half a million.
fn first_free(
    taken: &Names<String>,
    pod: &PodId,
    named: &HashSet<String>,
) -> Option<(String, Reservation<String>)> {
    selinux::levels(pod).filter(|level| !named.contains(level)).find_map(|level| {
        let reservation = taken.adopt(&level, pod.as_str())?;
        Some((level, reservation))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pods_have_one_level() {
        let levels = Names::default();
        // The same digits where it counts: the levels would be equal.
        let pod = |last: u32| -> PodId { format!("00000005{}{last:08x}", "0".repeat(48)).parse().unwrap() };
        let named = HashSet::from(["s0:c5,c7".to_owned()]);
        let mut kept: Vec<(String, Reservation<String>)> =
            (0..50).map(|last| first_free(&levels, &pod(last), &named).unwrap()).collect();
        let different: HashSet<&String> = kept.iter().map(|(level, _)| level).collect();
        assert_eq!(different.len(), 50);
        assert!(!different.contains(&"s0:c5,c7".to_owned()), "one that a request names");
        // A removed pod's is free again, and a restart gives each the one that it had.
        let (level, reservation) = kept.remove(0);
        assert!(levels.adopt(&level, "after a restart").is_none());
        reservation.release();
        assert_eq!(first_free(&levels, &pod(99), &named).unwrap().0, level);
        assert!(levels.adopt(&level, "after a restart").is_some());
    }
}
