//! A profile in the words of the OCI runtime spec, for runtimes that compile it themselves.

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use super::profile::{Action, Arch, Profile, Rule};

/// The spec's `linux.seccomp`.
pub fn to_oci(profile: &Profile) -> Result<LinuxSeccomp, serde_json::Error> {
    let mut architectures = profile.architectures.clone();
    if !architectures.contains(&Arch::native()) {
        architectures.insert(0, Arch::native());
    }
    architectures.retain(|arch| *arch != Arch::Foreign);
    let mut document = json!({
        "defaultAction": profile.default_action,
        "architectures": architectures,
        "syscalls": profile.rules.iter().map(rule).collect::<Vec<_>>(),
    });
    if let Some(errno) = profile.default_errno {
        document["defaultErrnoRet"] = errno.into();
    }
    if let Some(flags) = &profile.flags {
        document["flags"] = json!(flags);
    }
    serde_json::from_value(document)
}

fn rule(rule: &Rule) -> Value {
    let mut document = json!({ "names": rule.names, "action": rule.action });
    // Elsewhere a number means nothing, and is refused by some.
    if let Some(errno) = rule.errno.filter(|_| matches!(rule.action, Action::Errno | Action::Trace)) {
        document["errnoRet"] = errno.into();
    }
    if !rule.args.is_empty() {
        document["args"] = json!(rule.args);
    }
    document
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        caps::{Cap, CapSet},
        seccomp::{default, profile},
    };

    /// What another runtime reads is what we compile ourselves.
    #[test]
    fn it_reads_back_as_the_same_profile() {
        for caps in [CapSet::EMPTY, CapSet::DEFAULT, CapSet::EMPTY.with(Cap::SYS_ADMIN)] {
            let ours = default::profile(caps);
            let text = serde_json::to_vec(&to_oci(&ours).unwrap()).unwrap();
            assert_eq!(profile::parse(&text, caps, (6, 0)).unwrap(), ours);
        }
    }

    #[test]
    fn dockers_conditions_are_decided() {
        let text = br#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "architectures": ["SCMP_ARCH_MIPS"],
            "syscalls": [
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"name": "read", "action": "SCMP_ACT_ALLOW", "errnoRet": 1},
                {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5,
                 "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]}]}"#;
        let oci = to_oci(&profile::parse(text, CapSet::EMPTY, (6, 0)).unwrap()).unwrap();
        let document = json!(oci);
        assert_eq!(document["defaultErrnoRet"], 38);
        assert_eq!(document["flags"], json!(["SECCOMP_FILTER_FLAG_LOG"]));
        assert_eq!(document["architectures"], json!([Arch::native()]));
        assert_eq!(document["syscalls"].as_array().unwrap().len(), 2);
        assert_eq!(document["syscalls"][0], json!({"names": ["read"], "action": "SCMP_ACT_ALLOW"}));
        assert_eq!(document["syscalls"][1]["args"][0]["value"], 9);
    }
}
