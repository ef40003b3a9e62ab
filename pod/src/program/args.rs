//! The command line: all of the configuration, so that ps shows it.

use core::ffi::CStr;

use holdfast_bare::process::flags::{NEWIPC, NEWNET, NEWPID, NEWUSER, NEWUTS};
use holdfast_bare::start::Args;

use crate::sysctl::{Sysctl, SysctlNamespace};

/// What is asked for.
pub enum Command {
    /// Make a holder.
    Run(Config),
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// A holder's configuration.
pub struct Config {
    /// Clone flags of the new namespaces, without the mount namespace.
    pub namespaces: u64,
    /// With a UTS namespace.
    pub hostname: Option<&'static CStr>,
    /// Size of /dev/shm in bytes, as text.
    pub shm_size: &'static CStr,
    /// SELinux label of /dev/shm.
    pub shm_label: Option<&'static CStr>,
    args: Args,
}

/// A sysctl and its value.
pub struct Setting {
    /// Its name as it was written.
    pub name: &'static [u8],
    /// The sysctl.
    pub sysctl: Sysctl<'static>,
    /// What to write.
    pub value: &'static [u8],
}

/// A command line that cannot be obeyed.
pub struct Usage {
    /// The argument.
    pub object: &'static [u8],
    /// What is wrong with it.
    pub text: &'static str,
}

const UID_MAP: &CStr = c"--uid-map";
const GID_MAP: &CStr = c"--gid-map";
const SYSCTL: &CStr = c"--sysctl";

impl Command {
    /// Reads and checks the whole command line.
    pub fn parse(args: Args) -> Result<Self, Usage> {
        let mut rest = args.clone();
        let mut config =
            Config { namespaces: 0, hostname: None, shm_size: c"67108864", shm_label: None, args };
        while let Some(option) = rest.next() {
            if option == c"--help" {
                return Ok(Self::Help);
            }
            if option == c"--version" {
                return Ok(Self::Version);
            }
            let value = rest.next().ok_or(Usage { object: option.to_bytes(), text: "needs a value" })?;
            config.take(option, value)?;
        }
        config.check()?;
        Ok(Self::Run(config))
    }
}

impl Config {
    /// Lines for /proc/PID/uid_map.
    pub fn uid_maps(&self) -> impl Iterator<Item = &'static [u8]> + use<> {
        self.values(UID_MAP)
    }

    /// Lines for /proc/PID/gid_map.
    pub fn gid_maps(&self) -> impl Iterator<Item = &'static [u8]> + use<> {
        self.values(GID_MAP)
    }

    /// Sysctls and their values.
    pub fn settings(&self) -> impl Iterator<Item = Setting> + use<> {
        // Those that are wrong have been refused.
        self.values(SYSCTL).filter_map(|value| setting(value).ok())
    }

    /// Is this namespace the pod's own?
    pub fn owns(&self, namespace: u64) -> bool {
        self.namespaces & namespace != 0
    }

    fn values(&self, option: &'static CStr) -> impl Iterator<Item = &'static [u8]> + use<> {
        let mut args = self.args.clone();
        core::iter::from_fn(move || {
            loop {
                let (name, value) = (args.next()?, args.next()?);
                if name == option {
                    return Some(value.to_bytes());
                }
            }
        })
    }

    /// Looks at one option by itself.
    fn take(&mut self, option: &'static CStr, value: &'static CStr) -> Result<(), Usage> {
        const HOST_NAME_MAX: usize = 64;
        let bytes = value.to_bytes();
        let refuse = |text| Err(Usage { object: bytes, text });
        match option.to_bytes() {
            b"--new" => self.namespaces = namespaces(bytes)?,
            b"--hostname" if bytes.is_empty() || bytes.len() > HOST_NAME_MAX => {
                return refuse("is no host name of 1 to 64 bytes");
            }
            b"--hostname" => self.hostname = Some(value),
            b"--shm-size" if !is_number(bytes) => return refuse("is no number of bytes above 0"),
            b"--shm-size" => self.shm_size = value,
            b"--shm-label" => self.shm_label = Some(value),
            b"--sysctl" => setting(bytes).map(drop)?,
            b"--uid-map" | b"--gid-map" if !is_map(bytes) => {
                return refuse("is no id map like \"0 65536 65536\"");
            }
            b"--pod" | b"--uid-map" | b"--gid-map" => {}
            object => return Err(Usage { object, text: "is no option" }),
        }
        Ok(())
    }

    /// Looks at what options need of each other.
    fn check(&self) -> Result<(), Usage> {
        let needs = |object: &'static CStr, text| Err(Usage { object: object.to_bytes(), text });
        if self.hostname.is_some() && !self.owns(NEWUTS) {
            return needs(c"--hostname", "needs uts in --new");
        }
        let has_maps = (self.uid_maps().next().is_some(), self.gid_maps().next().is_some());
        if self.owns(NEWUSER) && has_maps != (true, true) {
            return needs(c"--new user", "needs --uid-map and --gid-map");
        }
        if !self.owns(NEWUSER) && has_maps != (false, false) {
            return needs(c"--uid-map and --gid-map", "need user in --new");
        }
        for Setting { name, sysctl, .. } in self.settings() {
            let text = match sysctl.namespace {
                SysctlNamespace::Net if !self.owns(NEWNET) => "needs net in --new",
                SysctlNamespace::Ipc if !self.owns(NEWIPC) => "needs ipc in --new",
                _ => continue,
            };
            return Err(Usage { object: name, text });
        }
        Ok(())
    }
}

fn namespaces(list: &'static [u8]) -> Result<u64, Usage> {
    let mut flags = 0;
    for name in list.split(|byte| *byte == b',').filter(|name| !name.is_empty()) {
        flags |= match name {
            b"net" => NEWNET,
            b"ipc" => NEWIPC,
            b"uts" => NEWUTS,
            b"pid" => NEWPID,
            b"user" => NEWUSER,
            object => return Err(Usage { object, text: "is no namespace of net, ipc, uts, pid, user" }),
        };
    }
    Ok(flags)
}

fn setting(text: &'static [u8]) -> Result<Setting, Usage> {
    let mut parts = text.splitn(2, |byte| *byte == b'=');
    let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
        return Err(Usage { object: text, text: "is no sysctl like NAME=VALUE" });
    };
    let sysctl = Sysctl::parse(name).map_err(|refusal| Usage { object: name, text: refusal.text() })?;
    Ok(Setting { name, sysctl, value })
}

/// Three numbers, one space between.
fn is_map(text: &[u8]) -> bool {
    let mut parts = text.split(|byte| *byte == b' ');
    let mut id = || parts.next().and_then(parse_u32);
    let (inside, outside, count) = (id(), id(), id());
    inside.is_some() && outside.is_some() && count.is_some_and(|count| count > 0) && parts.next().is_none()
}

fn is_number(text: &[u8]) -> bool {
    const LONGEST: usize = 19;
    text.len() <= LONGEST && text.iter().all(u8::is_ascii_digit) && text.iter().any(|digit| *digit != b'0')
}

fn parse_u32(text: &[u8]) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u32, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}
