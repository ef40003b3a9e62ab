//! The agent's configuration: one struct, its defaults, and the files that change them.
//!
//! `/etc/holdfast/config.toml` is read first, then `conf.d/*.toml` beside it in the order of their names; a table is
//! merged key by key, everything else is replaced. Every file is checked on its own before they are merged, so that
//! an error names the file and the line that it stands in.

mod form;
mod handlers;
mod load;
mod show;
mod types;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use holdfast_cgroup::DriverSetting;
use holdfast_network::Mode;
use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use serde::{Deserialize, Serialize};

pub use handlers::{BUILT_IN, Handler, Handlers};
pub use load::{ConfigError, DEFAULT_PATH};
pub use types::{LogFormat, LogLevel, Ulimit};

/// Where packages put the programs that are not beside `holdfast` itself.
const LIBEXEC: &str = "/usr/libexec/holdfast";

/// The configuration. What each key means is said once, in [`show`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Pods, containers, images and logs; survives a reboot.
    #[serde(deserialize_with = "form::absolute_path")]
    pub root: PathBuf,
    /// Sockets, pins and process facts; dies with the boot.
    #[serde(deserialize_with = "form::absolute_path")]
    pub state: PathBuf,
    /// `unix://` and the socket's absolute path.
    #[serde(deserialize_with = "form::listen")]
    pub listen: String,
    /// Mode of the socket.
    #[serde(deserialize_with = "form::mode", serialize_with = "form::mode_text")]
    pub listen_mode: u32,
    /// Group of the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_group: Option<String>,
    /// Who makes the cgroups.
    pub cgroup_driver: DriverSetting,
    /// Parent of pods that name none; `None`: `/holdfast` or `holdfast.slice`, as the driver wants it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_cgroup_parent: Option<String>,
    /// What is logged.
    pub log_level: LogLevel,
    /// How it is logged.
    pub log_format: LogFormat,
    /// The program `holdfast-pod`; see [`Config::pod_program`].
    #[serde(deserialize_with = "form::optional_path", skip_serializing_if = "Option::is_none")]
    pub pod_program: Option<PathBuf>,
    /// The program `holdfast-shim`; see [`Config::shim_program`].
    #[serde(deserialize_with = "form::optional_path", skip_serializing_if = "Option::is_none")]
    pub shim_program: Option<PathBuf>,
    /// `[image]`.
    pub image: ImageSection,
    /// `[network]`.
    pub network: NetworkSection,
    /// `[runtime]`.
    pub runtime: RuntimeSection,
    /// `[cdi]`.
    pub cdi: CdiSection,
    /// `[streaming]`.
    pub streaming: StreamingSection,
}

/// `[image]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageSection {
    /// `<host[:port]>/hosts.toml` of the registries.
    #[serde(deserialize_with = "form::absolute_path")]
    pub registry_config_dir: PathBuf,
    /// Layers downloaded at once, over all pulls.
    #[serde(deserialize_with = "form::at_least_one")]
    pub max_parallel_downloads: usize,
    /// A registry that sends nothing for so long is given up.
    #[serde(deserialize_with = "form::at_least_one")]
    pub progress_timeout_s: u64,
}

/// `[network]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSection {
    /// Source of the pods' networks; `None`: CNI for `holdfast serve`, the embedded network for `holdfast run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// `[network.cni]`.
    pub cni: CniSection,
    /// `[network.embedded]`.
    pub embedded: EmbeddedSection,
}

/// `[network.cni]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CniSection {
    /// Directory of the configuration lists.
    #[serde(deserialize_with = "form::absolute_path")]
    pub conf_dir: PathBuf,
    /// Directories of the plugins.
    #[serde(deserialize_with = "form::absolute_paths")]
    pub bin_dirs: Vec<PathBuf>,
}

/// `[network.embedded]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedSection {
    /// Name of the bridge and of the nftables table.
    #[serde(deserialize_with = "form::interface")]
    pub bridge: String,
    /// At most one subnet of each family.
    #[serde(deserialize_with = "form::subnets")]
    pub subnets: Vec<String>,
    /// MTU in bytes; `None`: that of the interface with the default route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// `[runtime]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeSection {
    /// Resource limits of every container's first process.
    pub default_ulimits: Vec<Ulimit>,
    /// Most processes and threads of a container; `None`: as many as its pod may have.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "form::positive")]
    pub pids_limit: Option<u32>,
    /// Whether a pod's ports below 1024 need no capability.
    pub enable_unprivileged_ports: bool,
    /// Whether ping in a pod needs no capability.
    pub enable_unprivileged_icmp: bool,
    /// Whether device nodes belong to the user that a container is told to run as.
    pub device_ownership_from_security_context: bool,
    /// Where `localhost` seccomp profiles lie.
    #[serde(deserialize_with = "form::absolute_path")]
    pub seccomp_profile_root: PathBuf,
    /// Directories of OCI hook files.
    #[serde(deserialize_with = "form::absolute_paths")]
    pub hooks_dirs: Vec<PathBuf>,
    /// What a RuntimeClass may name: `[runtime.handlers.NAME]`.
    #[serde(deserialize_with = "handlers::named")]
    pub handlers: Handlers,
}

/// `[cdi]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CdiSection {
    /// Folders of the CDI spec files; what a later one says wins.
    #[serde(deserialize_with = "form::absolute_paths")]
    pub spec_dirs: Vec<PathBuf>,
}

/// `[streaming]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamingSection {
    /// Where exec, attach and port-forward sessions connect to; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The host of the URLs; `None`: the address of `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// PEM file of the certificate; with it and the key the URLs are https.
    #[serde(deserialize_with = "form::optional_path", skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the private key.
    #[serde(deserialize_with = "form::optional_path", skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
}

/// The defaults, all of them in this one place.
impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/holdfast".into(),
            state: "/run/holdfast".into(),
            listen: "unix:///run/holdfast/holdfast.sock".to_owned(),
            listen_mode: 0o600,
            listen_group: None,
            cgroup_driver: DriverSetting::Auto,
            default_cgroup_parent: None,
            log_level: LogLevel::Info,
            log_format: LogFormat::Text,
            pod_program: None,
            shim_program: None,
            image: ImageSection::default(),
            network: NetworkSection::default(),
            runtime: RuntimeSection::default(),
            cdi: CdiSection::default(),
            streaming: StreamingSection::default(),
        }
    }
}

impl Default for CdiSection {
    fn default() -> Self {
        Self { spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()] }
    }
}

impl Default for StreamingSection {
    fn default() -> Self {
        let holdfast_streaming::Config { address, advertise, .. } = holdfast_streaming::Config::default();
        Self { listen: address, advertise, tls_cert: None, tls_key: None }
    }
}

impl Default for ImageSection {
    fn default() -> Self {
        Self {
            registry_config_dir: "/etc/holdfast/certs.d".into(),
            max_parallel_downloads: 3,
            progress_timeout_s: 60,
        }
    }
}

impl Default for CniSection {
    fn default() -> Self {
        let holdfast_network::CniConfig { conf_dir, bin_dirs } = holdfast_network::CniConfig::default();
        Self { conf_dir, bin_dirs }
    }
}

impl Default for EmbeddedSection {
    fn default() -> Self {
        let holdfast_network::EmbeddedConfig { bridge, subnets, mtu } =
            holdfast_network::EmbeddedConfig::default();
        Self { bridge, subnets, mtu }
    }
}

impl Default for RuntimeSection {
    /// Containers do not get the agent's own NOFILE limit, which is infinity: programs that close every possible
    /// descriptor at their start would be busy for minutes.
    fn default() -> Self {
        Self {
            pids_limit: None,
            default_ulimits: vec![Ulimit {
                resource: PosixRlimitType::RlimitNofile,
                soft: 1 << 20,
                hard: 1 << 20,
            }],
            enable_unprivileged_ports: true,
            enable_unprivileged_icmp: true,
            device_ownership_from_security_context: false,
            seccomp_profile_root: "/var/lib/kubelet/seccomp".into(),
            hooks_dirs: Vec::new(),
            handlers: Handlers::new(),
        }
    }
}

impl RuntimeSection {
    /// [`Self::default_ulimits`] in the words of the OCI runtime spec.
    pub fn default_rlimits(&self) -> Vec<PosixRlimit> {
        self.default_ulimits.iter().map(Ulimit::to_oci).collect()
    }
}

impl Config {
    /// This configuration with a network mode, if it names none.
    #[must_use]
    pub fn with_network_mode(mut self, mode: Mode) -> Self {
        self.network.mode.get_or_insert(mode);
        self
    }

    /// The file system path of `listen`.
    pub fn listen_path(&self) -> PathBuf {
        PathBuf::from(self.listen.strip_prefix(form::UNIX).unwrap_or(&self.listen))
    }

    /// The program of the holder: as configured, else beside this program, else in libexec/holdfast of the same
    /// prefix, else in /usr/libexec/holdfast. `None` when it is in none of these places.
    pub fn pod_program(&self) -> Option<PathBuf> {
        program(self.pod_program.as_deref(), "holdfast-pod")
    }

    /// The program of the shim, found as [`Config::pod_program`] is.
    pub fn shim_program(&self) -> Option<PathBuf> {
        program(self.shim_program.as_deref(), "holdfast-shim")
    }
}

fn program(configured: Option<&Path>, name: &str) -> Option<PathBuf> {
    if let Some(path) = configured {
        return Some(path.to_owned());
    }
    let own = std::env::current_exe().ok();
    places(own.as_deref()).into_iter().map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// Directories in which the programs of `own`, the path of this one, are looked for, in this order.
fn places(own: Option<&Path>) -> Vec<PathBuf> {
    let beside = own.and_then(Path::parent);
    let prefix = beside.and_then(Path::parent).map(|prefix| prefix.join("libexec/holdfast"));
    beside.map(Path::to_owned).into_iter().chain(prefix).chain([PathBuf::from(LIBEXEC)]).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_beside_us_and_in_our_prefix() {
        let at = |own: &str| places(Some(Path::new(own)));
        let usual = Path::new("/usr/libexec/holdfast");
        assert_eq!(
            at("/opt/x/bin/holdfast"),
            [Path::new("/opt/x/bin"), Path::new("/opt/x/libexec/holdfast"), usual]
        );
        assert_eq!(at("/usr/bin/holdfast"), [Path::new("/usr/bin"), usual, usual]);
        assert_eq!(at("/holdfast"), [Path::new("/"), usual]);
        assert_eq!(places(None), [usual]);
    }

    #[test]
    fn the_defaults_are_those_of_the_interface() {
        let config = Config::default();
        assert_eq!(config.root, Path::new("/var/lib/holdfast"));
        assert_eq!(config.listen_path(), Path::new("/run/holdfast/holdfast.sock"));
        assert_eq!((config.listen_mode, config.listen_group.as_deref()), (0o600, None));
        assert_eq!(config.image.registry_config_dir, Path::new("/etc/holdfast/certs.d"));
        assert_eq!(config.network.cni.conf_dir, Path::new("/etc/cni/net.d"));
        assert_eq!(config.network.cni.bin_dirs, [Path::new("/opt/cni/bin"), Path::new("/usr/lib/cni")]);
        assert_eq!(config.network.embedded.bridge, "holdfast0");
        assert_eq!(config.cgroup_driver, DriverSetting::Auto);
        assert_eq!(config.cdi.spec_dirs, [Path::new("/etc/cdi"), Path::new("/var/run/cdi")]);
        let taken = ["172.17.", "10.88.", "10.42.", "10.43.", "10.244."];
        let subnets = &config.network.embedded.subnets;
        assert!(!subnets.iter().any(|subnet| taken.iter().any(|prefix| subnet.starts_with(prefix))));
    }

    #[test]
    fn a_program_that_is_configured_is_taken_as_it_is() {
        let config = Config { pod_program: Some("/x/holdfast-pod".into()), ..Config::default() };
        assert_eq!(config.pod_program().unwrap(), Path::new("/x/holdfast-pod"));
        assert_eq!(program(None, "holdfast-no-such-program"), None);
    }
}
