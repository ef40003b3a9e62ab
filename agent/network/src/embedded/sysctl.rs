//! The sysctls that a bridge with routed pods needs, written only where they are not so already.
//!
//! `/proc/sys/net` is that of the network namespace of the thread that opens a file.

use std::{fs, path::Path};

use crate::{Error, subnet::Subnet};

/// Whether this host speaks IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    let off = |path: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == "1");
    Path::new("/proc/sys/net/ipv6/conf/default").exists()
        && !off("/proc/sys/net/ipv6/conf/all/disable_ipv6")
        && !off("/proc/sys/net/ipv6/conf/default/disable_ipv6")
}

/// Lets the host route between the bridge and the world.
pub(crate) fn prepare(bridge: &str, subnets: &[Subnet]) -> Result<(), Error> {
    if subnets.iter().any(|subnet| subnet.is_v4()) {
        // Host ports at 127.0.0.1; the guard chain closes what else this opens.
        set(&format!("ipv4/conf/{bridge}/route_localnet"), "1")?;
        set("ipv4/ip_forward", "1")?;
    }
    if subnets.iter().any(|subnet| !subnet.is_v4()) {
        // A pod is not to become the host's router (CVE-2020-10749).
        set(&format!("ipv6/conf/{bridge}/accept_ra"), "0")?;
        forward_ipv6(bridge)?;
    }
    Ok(())
}

/// With forwarding on, the kernel takes router advertisements only where accept_ra is 2: without that the host would
/// lose its own default route when the first pod comes.
fn forward_ipv6(bridge: &str) -> Result<(), Error> {
    if read("ipv6/conf/all/forwarding")? == "1" {
        return Ok(());
    }
    let interfaces =
        fs::read_dir("/proc/sys/net/ipv6/conf").map_err(Error::io("read /proc/sys/net/ipv6/conf"))?;
    for name in interfaces.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let key = format!("ipv6/conf/{name}/accept_ra");
        let special = ["all", "default", "lo", bridge].contains(&name.as_str());
        // An interface may go while this runs.
        if !special && read(&key).is_ok_and(|value| value == "1") {
            let _ = set(&key, "2");
        }
    }
    set("ipv6/conf/all/forwarding", "1")
}

fn read(key: &str) -> Result<String, Error> {
    let path = format!("/proc/sys/net/{key}");
    let text = fs::read_to_string(&path).map_err(Error::io(format!("read {path}")))?;
    Ok(text.trim().to_owned())
}

fn set(key: &str, value: &str) -> Result<(), Error> {
    if read(key)? == value {
        return Ok(());
    }
    let path = format!("/proc/sys/net/{key}");
    fs::write(&path, value).map_err(Error::io(format!("write {value} to {path}")))
}
