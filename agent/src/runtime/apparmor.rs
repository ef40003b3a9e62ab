//! The default AppArmor profile: loaded at the start where the host has AppArmor.

use std::{path::Path, time::Duration};

use holdfast_spec::apparmor::{DEFAULT_PROFILE, default_profile};

use super::command::Command;

/// The parser compiles in milliseconds; in an emulated machine, in seconds.
const LIMIT: Duration = Duration::from_secs(30);
/// Where the parser is, whatever our PATH says.
const PARSERS: [&str; 3] =
    ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser", "/usr/local/sbin/apparmor_parser"];

/// Loads our profile, or replaces the one that an older version has loaded, and returns its name. Without it containers
/// start unconfined by AppArmor, as they do on a host without.
pub(super) async fn load_default() -> Option<String> {
    // An older parser does not know the newer rules, and says so.
    let loaded = match load(true).await {
        Ok(()) => Ok(()),
        Err(_) => load(false).await,
    };
    match loaded {
        Ok(()) => Some(DEFAULT_PROFILE.to_owned()),
        Err(problem) => {
            tracing::warn!(
                profile = DEFAULT_PROFILE,
                problem,
                "AppArmor is on, but the default profile cannot be loaded"
            );
            None
        }
    }
}

async fn load(since_4: bool) -> Result<(), String> {
    let program = PARSERS
        .into_iter()
        .find(|path| Path::new(path).exists())
        .ok_or("there is no apparmor_parser: install the package apparmor")?;
    let text = default_profile(own_profile().as_deref(), since_4);
    let args = ["--replace", "--skip-cache", "--quiet"].map(Into::into).to_vec();
    let parser = Command { args, input: text.as_bytes(), ..Command::new(Path::new(program), LIMIT) };
    parser.succeed().await.map_err(|error| holdfast_model::chain(&error))
}

/// Which profile confines us; `name (mode)` in the kernel's file.
fn own_profile() -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/attr/current").ok()?;
    let name = text.trim_end_matches(['\n', '\0']).split(" (").next()?;
    (name != "unconfined" && !name.is_empty() && !name.contains('"')).then(|| name.to_owned())
}
