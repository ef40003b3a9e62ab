//! Log files of containers, and the directories that they lie in.

use std::path::{Path, PathBuf};

use holdfast_model::{ContainerConfig, PodSandboxConfig};
use holdfast_sys::path::make_directories;
use rustix::io::Errno;

use super::Error;

/// The absolute path of a container's log file; empty: its output is dropped.
pub fn path(pod: &PodSandboxConfig, config: &ContainerConfig) -> Result<PathBuf, Error> {
    if config.log_path.is_empty() || pod.log_directory.is_empty() {
        return Ok(PathBuf::new());
    }
    let relative = PathBuf::from(&config.log_path);
    let plain = relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if !plain {
        return Err(Error::BadRequest {
            field: "config.log_path",
            problem: format!("{:?} is not a relative path below the pod's log directory", config.log_path),
        });
    }
    Ok(PathBuf::from(&pod.log_directory).join(relative))
}

/// Makes a directory for logs that is not there, 0755, as containerd and CRI-O do; it stays when the pod goes, with the
/// logs. None, or one without a name: nothing to do. Blocking.
pub fn make_directory(path: Option<&Path>, field: &'static str) -> Result<(), Error> {
    let Some(path) = path.filter(|path| path.is_absolute()) else { return Ok(()) };
    make_directories(path).map(drop).map_err(|error| {
        if OF_THE_PATH.iter().any(|errno| error.is(*errno)) {
            let cause = holdfast_model::chain(&error);
            let problem = format!("directory {} is not there and cannot be made: {cause}", path.display());
            return Error::BadRequest { field, problem };
        }
        Error::Io { operation: "make the log directory", path: path.to_owned(), source: error.into() }
    })
}

/// Errors of mkdirat(2) and openat(2) that say that the path is a wrong one; others are about the node.
const OF_THE_PATH: [Errno; 9] = [
    Errno::ACCESS,
    Errno::INVAL,
    Errno::LOOP,
    Errno::NAMETOOLONG,
    Errno::NOENT,
    Errno::NOTDIR,
    Errno::OPNOTSUPP,
    Errno::PERM,
    Errno::ROFS,
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_log_path_stays_below_its_directory() {
        let mut pod_config =
            PodSandboxConfig { log_directory: "/var/log/pods/x".into(), ..Default::default() };
        for bad in ["../x", "/etc/passwd", "a/../../b"] {
            assert!(join(&pod_config, bad).is_err(), "{bad}");
        }
        assert_eq!(join(&pod_config, "c/0.log").ok(), Some("/var/log/pods/x/c/0.log".into()));
        pod_config.log_directory.clear();
        assert_eq!(join(&pod_config, "c/0.log").ok(), Some(PathBuf::new()));
    }

    fn join(pod: &PodSandboxConfig, path: &str) -> Result<PathBuf, Error> {
        let config = ContainerConfig { log_path: path.into(), ..Default::default() };
        super::path(pod, &config)
    }

    #[test]
    fn a_directory_for_logs_is_made_where_that_is_possible() {
        let dir = tempfile::tempdir().unwrap();
        let pods = dir.path().join("log/pods/x");
        for _ in 0..2 {
            make_directory(Some(&pods), "f").unwrap();
        }
        assert!(pods.is_dir());
        std::fs::write(pods.join("file"), "").unwrap();
        let refused = make_directory(Some(&pods.join("file/c")), "config.log_directory").unwrap_err();
        assert!(
            matches!(&refused, Error::BadRequest { problem, .. } if problem.contains("x/file/c")),
            "{refused}"
        );
        make_directory(Some(Path::new("")), "f").unwrap();
        make_directory(None, "f").unwrap();
    }
}
