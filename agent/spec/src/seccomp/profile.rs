//! Seccomp profiles: the JSON that operators write, and the form that is compiled.
//!
//! Both dialects of the field are read: the OCI runtime spec's (`architectures`, `names`, `args`) and Docker's, which
//! adds `archMap`, `includes`, `excludes` and the older single `name`. Fields that neither has are passed over, as
//! every runtime does.

use serde::{Deserialize, Serialize};

use crate::caps::{Cap, CapSet};

/// What the kernel does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// `SCMP_ACT_KILL`, `SCMP_ACT_KILL_THREAD`.
    #[serde(rename = "SCMP_ACT_KILL_THREAD", alias = "SCMP_ACT_KILL")]
    KillThread,
    /// `SCMP_ACT_KILL_PROCESS`.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    /// `SCMP_ACT_TRAP`.
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// `SCMP_ACT_ERRNO`.
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    /// `SCMP_ACT_TRACE`.
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    /// `SCMP_ACT_LOG`.
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    /// `SCMP_ACT_ALLOW`.
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    /// `SCMP_ACT_NOTIFY`, which is refused: there is no listener.
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

/// An architecture whose calls a filter judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names of linux/audit.h")]
pub enum Arch {
    #[serde(rename = "SCMP_ARCH_X86")]
    X86,
    #[serde(rename = "SCMP_ARCH_X86_64")]
    X8664,
    #[serde(rename = "SCMP_ARCH_X32")]
    X32,
    #[serde(rename = "SCMP_ARCH_ARM")]
    Arm,
    #[serde(rename = "SCMP_ARCH_AARCH64")]
    Aarch64,
    #[serde(rename = "SCMP_ARCH_RISCV64")]
    Riscv64,
    #[serde(rename = "SCMP_ARCH_PPC64LE")]
    Ppc64Le,
    #[serde(rename = "SCMP_ARCH_S390")]
    S390,
    #[serde(rename = "SCMP_ARCH_S390X")]
    S390X,
    #[serde(rename = "SCMP_ARCH_LOONGARCH64")]
    Loongarch64,
    /// One that no kernel which runs this program speaks: a profile may name it, a filter need not know it.
    #[serde(other)]
    Foreign,
}

impl Arch {
    /// This program's own.
    pub const fn native() -> Self {
        if cfg!(target_arch = "x86_64") {
            Self::X8664
        } else if cfg!(target_arch = "aarch64") {
            Self::Aarch64
        } else if cfg!(target_arch = "riscv64") {
            Self::Riscv64
        } else if cfg!(target_arch = "powerpc64") {
            Self::Ppc64Le
        } else if cfg!(target_arch = "s390x") {
            Self::S390X
        } else {
            Self::Loongarch64
        }
    }

    /// This program's own and those that the same kernel may run beside it.
    pub fn family_of_this() -> Vec<Self> {
        match Self::native() {
            Self::X8664 => vec![Self::X8664, Self::X86, Self::X32],
            Self::Aarch64 => vec![Self::Aarch64, Self::Arm],
            Self::S390X => vec![Self::S390X, Self::S390],
            own => vec![own],
        }
    }

    /// Go's name for this program's own, which Docker's includes and excludes use.
    const fn native_in_go() -> &'static str {
        match Self::native() {
            Self::X8664 => "amd64",
            Self::Aarch64 => "arm64",
            Self::Riscv64 => "riscv64",
            Self::Ppc64Le => "ppc64le",
            Self::S390X => "s390x",
            _ => "loong64",
        }
    }
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// `!=`
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    /// `<`
    #[serde(rename = "SCMP_CMP_LT")]
    LessThan,
    /// `<=`
    #[serde(rename = "SCMP_CMP_LE")]
    LessEqual,
    /// `==`
    #[serde(rename = "SCMP_CMP_EQ")]
    EqualTo,
    /// `>=`
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterEqual,
    /// `>`
    #[serde(rename = "SCMP_CMP_GT")]
    GreaterThan,
    /// `argument & value == value_two`
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// A condition on an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arg {
    /// Which argument, 0 to 5.
    #[serde(default, deserialize_with = "null_is_zero")]
    pub index: u32,
    /// What it is compared with; the mask of [`Op::MaskedEqual`].
    #[serde(default, deserialize_with = "null_is_zero")]
    pub value: u64,
    /// What the masked argument is compared with.
    #[serde(default, deserialize_with = "null_is_zero")]
    pub value_two: u64,
    /// How.
    pub op: Op,
}

/// What happens to some calls. Conditions on different arguments all have to hold; several on the same argument are
/// alternatives, as in runc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Names of the calls.
    pub names: Vec<String>,
    /// What happens.
    pub action: Action,
    /// errno of [`Action::Errno`], data of [`Action::Trace`]; `None` is EPERM.
    pub errno: Option<u32>,
    /// Conditions.
    pub args: Vec<Arg>,
}

impl Rule {
    /// Without conditions. Names are separated by blanks.
    pub fn new(names: &str, action: Action) -> Self {
        Self {
            names: names.split_whitespace().map(str::to_owned).collect(),
            action,
            errno: None,
            args: Vec::new(),
        }
    }
}

/// A profile for one container on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What happens to a call without a rule.
    pub default_action: Action,
    /// errno of that.
    pub default_errno: Option<u32>,
    /// Architectures; this program's own is always among them.
    pub architectures: Vec<Arch>,
    /// Rules.
    pub rules: Vec<Rule>,
    /// Flags of seccomp(2) by name; `None`: not said.
    pub flags: Option<Vec<String>>,
}

/// What is wrong with a profile's text.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not JSON of the form that is wanted.
    #[error("not a seccomp profile")]
    Json(#[source] serde_json::Error),
    /// `architectures` and `archMap` together.
    #[error("has both architectures and archMap: keep one of them")]
    TwoArchitectureLists,
    /// A kernel version that is none.
    #[error("minKernel {0:?} is not of the form major.minor")]
    MinKernel(String),
    /// Calls that are passed to a listener.
    #[error("{0} asks for a listener, which is not supported: use another action")]
    Listener(&'static str),
}

/// Reads a profile for a container with this bounding set on a kernel of this version.
pub fn parse(text: &[u8], caps: CapSet, kernel: (u32, u32)) -> Result<Profile, ProfileError> {
    let json: Json = serde_json::from_slice(text).map_err(ProfileError::Json)?;
    if json.listener_path.is_some_and(|path| !path.is_empty()) {
        return Err(ProfileError::Listener("listenerPath"));
    }
    let mut rules = Vec::with_capacity(json.syscalls.len());
    for rule in json.syscalls {
        if rule.applies(caps, kernel)? {
            rules.extend(rule.into_rule());
        }
    }
    if json.default_action == Action::Notify || rules.iter().any(|rule| rule.action == Action::Notify) {
        return Err(ProfileError::Listener("SCMP_ACT_NOTIFY"));
    }
    Ok(Profile {
        default_action: json.default_action,
        default_errno: json.default_errno_ret,
        architectures: architectures(json.architectures, &json.arch_map)?,
        rules,
        flags: json.flags,
    })
}

fn architectures(list: Vec<Arch>, map: &[ArchMap]) -> Result<Vec<Arch>, ProfileError> {
    if !list.is_empty() && !map.is_empty() {
        return Err(ProfileError::TwoArchitectureLists);
    }
    let Some(own) = map.iter().find(|entry| entry.architecture == Arch::native()) else {
        return Ok(list);
    };
    Ok(std::iter::once(own.architecture).chain(own.sub_architectures.iter().flatten().copied()).collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    default_action: Action,
    default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_is_empty")]
    architectures: Vec<Arch>,
    #[serde(default, deserialize_with = "null_is_empty")]
    arch_map: Vec<ArchMap>,
    #[serde(default, deserialize_with = "null_is_empty")]
    syscalls: Vec<JsonRule>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonRule {
    name: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    names: Vec<Option<String>>,
    action: Action,
    errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_is_empty")]
    args: Vec<Arg>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

/// When a rule counts. Docker: of `includes` all parts have to fit, of `excludes` none may.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default, deserialize_with = "null_is_empty")]
    caps: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

impl JsonRule {
    fn applies(&self, caps: CapSet, kernel: (u32, u32)) -> Result<bool, ProfileError> {
        let has = |name: &String| Cap::parse(name).is_some_and(|cap| caps.has(cap));
        let is_native = |name: &String| name == Arch::native_in_go();
        if let Some(includes) = &self.includes {
            let fits = includes.caps.iter().all(has)
                && (includes.arches.is_empty() || includes.arches.iter().any(is_native))
                && kernel >= min_kernel(includes)?.unwrap_or_default();
            if !fits {
                return Ok(false);
            }
        }
        if let Some(excludes) = &self.excludes {
            let fits = excludes.caps.iter().any(has)
                || excludes.arches.iter().any(is_native)
                || min_kernel(excludes)?.is_some_and(|version| kernel >= version);
            return Ok(!fits);
        }
        Ok(true)
    }

    /// Both spellings of a rule's calls count. One without any, as recorders write it, says nothing.
    fn into_rule(self) -> Option<Rule> {
        let mut names: Vec<String> = Vec::new();
        for name in self.name.into_iter().chain(self.names.into_iter().flatten()) {
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
        let rule = Rule { names, action: self.action, errno: self.errno_ret, args: self.args };
        (!rule.names.is_empty()).then_some(rule)
    }
}

fn min_kernel(condition: &Condition) -> Result<Option<(u32, u32)>, ProfileError> {
    let Some(text) = condition.min_kernel.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let version =
        text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    version.map(Some).ok_or_else(|| ProfileError::MinKernel(text.to_owned()))
}

/// Go writes an absent list as null.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<Vec<T>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Go leaves a number out that is zero.
fn null_is_zero<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(text: &str, caps: CapSet) -> Vec<String> {
        parse(text.as_bytes(), caps, (6, 1)).unwrap().rules.into_iter().flat_map(|rule| rule.names).collect()
    }

    #[test]
    fn both_dialects() {
        let oci = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"flags":null,
            "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":38,
                "args":[{"index":1,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
        let profile = parse(oci.as_bytes(), CapSet::EMPTY, (6, 1)).unwrap();
        assert_eq!((profile.default_action, profile.architectures), (Action::Allow, vec![Arch::X8664]));
        assert_eq!((profile.rules[0].errno, profile.rules[0].args[0].op), (Some(38), Op::MaskedEqual));

        let docker = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"archMap":[
            {"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]},
            {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}],
            "syscalls":[{"name":"read","action":"SCMP_ACT_ALLOW","args":null,"comment":"old form"}]}"#;
        let profile = parse(docker.as_bytes(), CapSet::EMPTY, (6, 1)).unwrap();
        assert_eq!(profile.default_errno, Some(1));
        assert_eq!(profile.architectures[0], Arch::native());
        assert_eq!(profile.rules[0].names, ["read"]);
    }

    #[test]
    fn includes_and_excludes() {
        let text = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["a"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["b"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["c"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
            {"names":["d"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"6.10"}},
            {"names":["e"],"action":"SCMP_ACT_ALLOW","excludes":{"minKernel":"4.8"}},
            {"names":["f"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["sparc"]}},
            {"names":["g"],"action":"SCMP_ACT_ALLOW","includes":{},"excludes":{}}]}"#;
        assert_eq!(names(text, CapSet::EMPTY), ["b", "c", "g"]);
        assert_eq!(names(text, CapSet::EMPTY.with(Cap::SYS_ADMIN)), ["a", "c", "g"]);
    }

    /// As recorders (SPO, oci-seccomp-bpf-hook) and people write them.
    #[test]
    fn profiles_as_they_are_found() {
        let rules = |text: &str| {
            let text = format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{text}]}}"#);
            parse(text.as_bytes(), CapSet::EMPTY, (6, 1)).unwrap().rules
        };
        // A rule of nothing does nothing.
        for nothing in [
            "",
            r#"{"action":"SCMP_ACT_ALLOW"}"#,
            r#"{"names":[],"action":"SCMP_ACT_ALLOW"}"#,
            r#"{"names":null,"name":null,"action":"SCMP_ACT_ALLOW","args":[],"includes":null,"excludes":null}"#,
            r#"{"names":["",null],"name":"","action":"SCMP_ACT_KILL"}"#,
        ] {
            assert_eq!(rules(nothing), [], "{nothing}");
        }
        for (text, expected) in [
            (r#"{"name":"read","action":"SCMP_ACT_ALLOW"}"#, &["read"][..]),
            (r#"{"name":"read","names":null,"action":"SCMP_ACT_ALLOW","args":null}"#, &["read"]),
            (r#"{"name":"read","names":["write","read"],"action":"SCMP_ACT_ALLOW"}"#, &["read", "write"]),
            (r#"{"names":["read","write","read"],"action":"SCMP_ACT_ALLOW"}"#, &["read", "write"]),
            (r#"{"names":["no_such_call"],"action":"SCMP_ACT_ALLOW","errnoRet":null}"#, &["no_such_call"]),
        ] {
            assert_eq!(rules(text)[0].names, expected, "{text}");
        }
        let zero =
            &rules(r#"{"names":["a"],"action":"SCMP_ACT_LOG","args":[{"index":null,"op":"SCMP_CMP_EQ"}]}"#)
                [0];
        assert_eq!((zero.args[0].index, zero.args[0].value), (0, 0));
        let nulls = r#"{"defaultAction":"SCMP_ACT_LOG","defaultErrnoRet":null,"architectures":null,"archMap":null,
            "syscalls":null,"flags":null,"listenerPath":null,"listenerMetadata":null}"#;
        assert_eq!(parse(nulls.as_bytes(), CapSet::EMPTY, (6, 1)).unwrap().rules, []);
    }

    #[test]
    fn what_is_refused() {
        for (text, part) in [
            ("", "not a seccomp profile"),
            ("[]", "not a seccomp profile"),
            (r#"{"defaultAction":"SCMP_ACT_PERMIT"}"#, "not a seccomp profile"),
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY"),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/x"}"#, "listenerPath"),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"]}]}"#, "not a seccomp profile"),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[null]}"#, "not a seccomp profile"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
                    "archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#,
                "archMap",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                    {"name":"a","action":"SCMP_ACT_LOG","includes":{"minKernel":"new"}}]}"#,
                "minKernel",
            ),
        ] {
            let error = parse(text.as_bytes(), CapSet::EMPTY, (6, 1)).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
