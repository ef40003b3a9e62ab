//! The default AppArmor profile: loaded at the start where the host has AppArmor.

use std::{path::Path, process::Stdio, time::Duration};

use holdfast_spec::apparmor::{DEFAULT_PROFILE, default_profile};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

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
    let mut child = Command::new(program)
        .args(["--replace", "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("run {program}: {error}"))?;
    let text = default_profile(own_profile().as_deref(), since_4);
    let run = async {
        if let Some(mut input) = child.stdin.take() {
            // A parser that ends early says why on stderr.
            let _ = input.write_all(text.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = timeout(LIMIT, run)
        .await
        .map_err(|_| format!("{program} did not end within {} s", LIMIT.as_secs()))?
        .map_err(|error| format!("wait for {program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}: {}", output.status, complaint.trim()))
}

/// Which profile confines us; `name (mode)` in the kernel's file.
fn own_profile() -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/attr/current").ok()?;
    let name = text.trim_end_matches(['\n', '\0']).split(" (").next()?;
    (name != "unconfined" && !name.is_empty() && !name.contains('"')).then(|| name.to_owned())
}
