//! seccomp and AppArmor profiles, in the form of today and in the deprecated one.

use holdfast_cri::v1::{self, security_profile::ProfileType};
use holdfast_model::SecurityProfile;

use super::Invalid;

/// Before a profile's name, in the deprecated form.
const LOCALHOST: &str = "localhost/";

/// The profile that counts: the message where it is there, else the path of the deprecated field.
pub(super) fn effective(
    profile: Option<v1::SecurityProfile>,
    field: &str,
    path: &str,
    path_field: &str,
) -> Result<Option<SecurityProfile>, Invalid> {
    match profile {
        Some(profile) => from_message(profile, field).map(Some),
        None => from_path(path, path_field),
    }
}

fn from_message(profile: v1::SecurityProfile, field: &str) -> Result<SecurityProfile, Invalid> {
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault) => Ok(SecurityProfile::RuntimeDefault),
        Ok(ProfileType::Unconfined) => Ok(SecurityProfile::Unconfined),
        Ok(ProfileType::Localhost) if profile.localhost_ref.is_empty() => {
            Err(Invalid::missing(format!("{field}.localhost_ref")))
        }
        // Some clients write the deprecated form here too; containerd takes both.
        Ok(ProfileType::Localhost) => {
            let name = profile.localhost_ref;
            Ok(SecurityProfile::Localhost(name.strip_prefix(LOCALHOST).unwrap_or(&name).to_owned()))
        }
        Err(_) => Err(Invalid::choice(
            format!("{field}.profile_type"),
            profile.profile_type,
            "RuntimeDefault, Unconfined, Localhost",
        )),
    }
}

fn from_path(path: &str, field: &str) -> Result<Option<SecurityProfile>, Invalid> {
    match path {
        "" => Ok(None),
        "runtime/default" | "docker/default" => Ok(Some(SecurityProfile::RuntimeDefault)),
        "unconfined" => Ok(Some(SecurityProfile::Unconfined)),
        _ => match path.strip_prefix(LOCALHOST) {
            Some(name) if !name.is_empty() => Ok(Some(SecurityProfile::Localhost(name.to_owned()))),
            _ => Err(Invalid::text(
                field,
                path,
                "is none of runtime/default, docker/default, unconfined and localhost/<name>",
            )),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn message(profile_type: i32, localhost_ref: &str) -> v1::SecurityProfile {
        v1::SecurityProfile { profile_type, localhost_ref: localhost_ref.into() }
    }

    #[test]
    fn new_and_old_forms() {
        let localhost = |name: &str| Some(SecurityProfile::Localhost(name.into()));
        let cases = [
            (None, "", None),
            (None, "runtime/default", Some(SecurityProfile::RuntimeDefault)),
            (None, "docker/default", Some(SecurityProfile::RuntimeDefault)),
            (None, "unconfined", Some(SecurityProfile::Unconfined)),
            (None, "localhost/a/b.json", localhost("a/b.json")),
            (Some(message(0, "")), "unconfined", Some(SecurityProfile::RuntimeDefault)),
            (Some(message(1, "")), "runtime/default", Some(SecurityProfile::Unconfined)),
            (Some(message(2, "x.json")), "nonsense", localhost("x.json")),
        ];
        for (profile, path, expected) in cases {
            assert_eq!(effective(profile, "seccomp", path, "seccomp_profile_path").unwrap(), expected);
        }
    }

    #[test]
    fn nonsense_is_refused_by_its_field() {
        let cases = [
            (None, "localhost/", "seccomp_profile_path: \"localhost/\" is none of"),
            (None, "default", "seccomp_profile_path: \"default\" is none of"),
            (Some(message(2, "")), "", "seccomp.localhost_ref is missing"),
            (Some(message(5, "")), "", "seccomp.profile_type: 5 is not one of"),
        ];
        for (profile, path, expected) in cases {
            let error = effective(profile, "seccomp", path, "seccomp_profile_path").unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
