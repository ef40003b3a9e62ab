//! Mounts of a container, both ways: ContainerStatus echoes them, and the kubelet reads the termination
//! message from the host path that it finds there.

use holdfast_cri::v1;
use holdfast_model::{Mount, MountPropagation};

use super::{
    Invalid,
    image::{image_spec, image_spec_to_wire},
    invalid::{Within, each},
    namespace::{id_mappings, id_mappings_to_wire},
};

/// The mounts of a container's configuration.
pub fn mounts(mounts: Vec<v1::Mount>) -> Result<Vec<Mount>, Invalid> {
    each("mounts", mounts, mount)
}

/// The mounts of a container. In a status `images` are the ids of those that name an image: the kubelet shows them as the
/// digests of the pod's image volumes.
pub fn mounts_to_wire(mounts: &[Mount], images: &[String]) -> Vec<v1::Mount> {
    let mut images = images.iter();
    let with_id = |mount| {
        let mut wire = to_wire(mount);
        if let Some(image) = &mut wire.image
            && let Some(id) = images.next()
        {
            image.image_ref.clone_from(id);
        }
        wire
    };
    mounts.iter().map(with_id).collect()
}

fn mount(mount: v1::Mount) -> Result<Mount, Invalid> {
    if mount.container_path.is_empty() {
        return Err(Invalid::missing("container_path"));
    }
    // An image message without a name is how some clients write "no image".
    let image = mount.image.filter(|image| !image.image.is_empty());
    if image.is_some() && !mount.host_path.is_empty() {
        return Err(Invalid::conflict("image", "and host_path are both set: a mount has one source"));
    }
    if image.is_none() && mount.host_path.is_empty() {
        return Err(Invalid::missing("host_path"));
    }
    let propagation = propagation(mount.propagation)?;
    if mount.recursive_read_only && (!mount.readonly || propagation != MountPropagation::Private) {
        // KEP-3857: a mount that may change below or let new mounts in cannot be read-only all the way down.
        return Err(Invalid::conflict(
            "recursive_read_only",
            "needs readonly and propagation PROPAGATION_PRIVATE",
        ));
    }
    Ok(Mount {
        container_path: mount.container_path,
        host_path: mount.host_path,
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation,
        uid_mappings: id_mappings("uidMappings", &mount.uid_mappings)?,
        gid_mappings: id_mappings("gidMappings", &mount.gid_mappings)?,
        image: image.map(|image| image_spec(Some(image))).transpose().within("image")?,
        image_sub_path: mount.image_sub_path,
        mount_options: mount.mount_options,
    })
}

fn propagation(value: i32) -> Result<MountPropagation, Invalid> {
    match v1::MountPropagation::try_from(value) {
        Ok(v1::MountPropagation::PropagationPrivate) => Ok(MountPropagation::Private),
        Ok(v1::MountPropagation::PropagationHostToContainer) => Ok(MountPropagation::HostToContainer),
        Ok(v1::MountPropagation::PropagationBidirectional) => Ok(MountPropagation::Bidirectional),
        Err(_) => Err(Invalid::choice("propagation", value, "the values of MountPropagation")),
    }
}

fn to_wire(mount: &Mount) -> v1::Mount {
    let propagation = match mount.propagation {
        MountPropagation::Private => v1::MountPropagation::PropagationPrivate,
        MountPropagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        MountPropagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    v1::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation as i32,
        uid_mappings: id_mappings_to_wire(&mount.uid_mappings),
        gid_mappings: id_mappings_to_wire(&mount.gid_mappings),
        recursive_read_only: mount.recursive_read_only,
        image: mount.image.as_ref().map(image_spec_to_wire),
        image_sub_path: mount.image_sub_path.clone(),
        mount_options: mount.mount_options.clone(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bind() -> v1::Mount {
        v1::Mount { container_path: "/data".into(), host_path: "/srv/data".into(), ..Default::default() }
    }

    #[test]
    fn there_and_back_nothing_is_lost() {
        let map = vec![v1::IdMapping { host_id: 65536, container_id: 0, length: 65536 }];
        let wire = vec![
            v1::Mount {
                readonly: true,
                selinux_relabel: true,
                recursive_read_only: true,
                uid_mappings: map.clone(),
                gid_mappings: map,
                mount_options: vec!["noexec".into()],
                ..bind()
            },
            v1::Mount { propagation: 1, ..bind() },
            v1::Mount { propagation: 2, ..bind() },
            v1::Mount {
                host_path: String::new(),
                image: Some(v1::ImageSpec {
                    image: "data:1".into(),
                    image_ref: "sha256:1".into(),
                    ..Default::default()
                }),
                image_sub_path: "etc".into(),
                ..bind()
            },
        ];
        let mut asked = wire.clone();
        asked[3].image.as_mut().unwrap().image_ref.clear();
        assert_eq!(mounts_to_wire(&mounts(asked).unwrap(), &["sha256:1".to_owned()]), wire);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let image = Some(v1::ImageSpec { image: "x".into(), ..Default::default() });
        let cases = [
            (v1::Mount { container_path: String::new(), ..bind() }, "mounts[0].container_path is missing"),
            (v1::Mount { host_path: String::new(), ..bind() }, "mounts[0].host_path is missing"),
            (
                v1::Mount { image, ..bind() },
                "mounts[0].image and host_path are both set: a mount has one source",
            ),
            (
                v1::Mount { recursive_read_only: true, ..bind() },
                "mounts[0].recursive_read_only needs readonly and propagation PROPAGATION_PRIVATE",
            ),
            (
                v1::Mount { recursive_read_only: true, readonly: true, propagation: 1, ..bind() },
                "mounts[0].recursive_read_only needs readonly and propagation PROPAGATION_PRIVATE",
            ),
            (
                v1::Mount { propagation: 7, ..bind() },
                "mounts[0].propagation: 7 is not one of the values of MountPropagation",
            ),
        ];
        for (wire, expected) in cases {
            assert_eq!(mounts(vec![wire]).unwrap_err().to_string(), expected);
        }
    }
}
