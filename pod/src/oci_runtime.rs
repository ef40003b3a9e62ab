//! Another OCI runtime, as a RuntimeClass handler names it: how it is called, and what it says.
//!
//! The command line is the one that runc, crun, youki and runsc share (runtime-spec `runtime.md` names the operations,
//! not the options; runc's are what everybody follows).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Longest log that is looked through for an error, in bytes from its end.
pub const LOG_LIMIT: u64 = 64 << 10;

/// A program that starts containers from OCI bundles.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OciRuntime {
    /// Its program, an absolute path.
    pub program: PathBuf,
    /// Where it keeps what it knows of its containers: its `--root`.
    pub root: PathBuf,
    /// Options of the configuration, before the command.
    pub options: Vec<String>,
    /// The version of the runtime spec that its bundles say they follow.
    pub oci_version: String,
    /// It asks systemd for the container's scope.
    pub systemd_cgroup: bool,
}

impl OciRuntime {
    /// The arguments of a command, the program's name first.
    pub fn arguments<const N: usize>(&self, log: &Path, command: [&str; N]) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec![self.program.clone().into()];
        all.extend(["--root".into(), self.root.clone().into(), "--log".into(), log.into()]);
        all.extend(["--log-format", "json"].map(OsString::from));
        if self.systemd_cgroup {
            all.push("--systemd-cgroup".into());
        }
        all.extend(self.options.iter().map(OsString::from));
        all.extend(command.map(OsString::from));
        all
    }

    /// The directory in which it keeps what it knows of a container.
    pub fn state_of(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }
}

/// The last error in a runtime's log (`--log-format json`).
pub fn last_error(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default)]
        level: String,
        #[serde(default)]
        msg: String,
    }
    let lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.rev().find_map(|line| match serde_json::from_str::<Line>(line) {
        Ok(line) => ["error", "fatal", "panic"].contains(&line.level.as_str()).then_some(line.msg),
        // Whatever else it wrote there before it gave up.
        Err(_) => Some(line.to_owned()),
    })
}

/// Whether a failed create or exec is about the command that was to run. Such a container is made all the same, and its
/// start fails, as with containerd: a kubelet waits for ever for a pod whose container cannot be created.
pub fn is_about_command(error: &str) -> bool {
    // In their order: runc; crun; youki; runc's and crun's working directory.
    ["exec: \"", "executable file", "open executable", "find executable", "exec format error", "chdir"]
        .iter()
        .any(|words| error.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_before_the_command() {
        let runtime = OciRuntime {
            program: "/bin/runc".into(),
            root: "/r".into(),
            options: vec!["--debug".into()],
            systemd_cgroup: true,
            ..OciRuntime::default()
        };
        let arguments = runtime.arguments(Path::new("/l"), ["start", "id"]);
        let text: Vec<_> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
        assert_eq!(
            text.join(" "),
            "/bin/runc --root /r --log /l --log-format json --systemd-cgroup --debug start id"
        );
        assert_eq!(runtime.state_of("id"), Path::new("/r/id"));
    }

    #[test]
    fn the_last_error_is_what_counts() {
        let log = "{\"level\":\"warning\",\"msg\":\"w\",\"time\":\"t\"}\n{\"level\":\"error\",\"msg\":\"first\"}\n\
                   {\"level\":\"error\",\"msg\":\"runc create failed: no\",\"time\":\"t\"}\n\
                   {\"level\":\"info\",\"msg\":\"i\"}\n";
        assert_eq!(last_error(log).as_deref(), Some("runc create failed: no"));
        assert_eq!(last_error("plain words\n\n").as_deref(), Some("plain words"));
        assert_eq!(last_error("{\"level\":\"debug\",\"msg\":\"d\"}\n"), None);
        assert_eq!(last_error(""), None);
    }

    #[test]
    fn errors_about_the_command_are_told_from_others() {
        for error in [
            "runc create failed: unable to start container process: error during container init: exec: \"nope\": \
             executable file not found in $PATH",
            "exec: \"/x\": stat /x: no such file or directory",
            "exec: \"/etc\": is a directory",
            "executable file `nope` not found in $PATH: No such file or directory",
            "open executable: Permission denied",
            "chdir to cwd (\"/x\") set in config.json failed: not a directory",
        ] {
            assert!(is_about_command(error), "{error}");
        }
        for error in [
            "error mounting \"/none\" to rootfs at \"/x\": mount src=/none, flags=MS_BIND: no such file or directory",
            "unable to apply cgroup configuration: no such file or directory",
        ] {
            assert!(!is_about_command(error), "{error}");
        }
    }
}
