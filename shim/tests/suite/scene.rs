//! A container to be: its directories and its launch.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use holdfast_pod::launch::{IdMap, ImageVolume, Launch, Rootfs, UserRequest};
use holdfast_sys::ns;
use serde_json::{Value, json};

const BUSYBOX: &str = "/usr/bin/busybox";
const APPLETS: [&str; 36] = [
    "sh", "true", "false", "echo", "cat", "sleep", "id", "ls", "mkdir", "touch", "kill", "head", "tr", "dd",
    "env", "grep", "mount", "ps", "seq", "stty", "test", "tty", "wc", "printf", "readlink", "yes", "chmod",
    "stat", "df", "hostname", "pwd", "setsid", "trap", "mknod", "umask", "ln",
];

pub struct Scene {
    pub dir: tempfile::TempDir,
    pub spec: Value,
    pub user: UserRequest,
    pub join: u64,
    pub own: u64,
    pub pod_shm: bool,
    pub map: Vec<IdMap>,
    pub layers: Vec<PathBuf>,
    pub volumes: Vec<PathBuf>,
    pub image_volumes: Vec<ImageVolume>,
    pub make_sources: Vec<PathBuf>,
}

impl Scene {
    /// `None`, and a visible word, where tests like these cannot run.
    pub fn new(args: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new(BUSYBOX).exists() {
            println!("SKIP: needs root and {BUSYBOX} (Debian busybox-static)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["lower", "upper", "work", "run", "state", "logs"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let lower = dir.path().join("lower");
        fill(&lower);
        let spec = spec(args);
        Some(Self {
            dir,
            spec,
            user: UserRequest::default(),
            join: ns::NEWNS | ns::NEWNET | ns::NEWIPC | ns::NEWUTS,
            own: ns::NEWNS | ns::NEWPID | ns::NEWCGROUP,
            pod_shm: true,
            map: Vec::new(),
            layers: vec![lower],
            volumes: Vec::new(),
            image_volumes: Vec::new(),
            make_sources: Vec::new(),
        })
    }

    pub fn sh(script: &str) -> Option<Self> {
        Self::new(&["/bin/sh", "-c", script])
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn log(&self) -> PathBuf {
        self.path("logs/0.log")
    }

    pub fn process(&mut self) -> &mut Value {
        &mut self.spec["process"]
    }

    pub fn mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    pub fn bind(&mut self, source: &Path, target: &str, options: &[&str]) {
        let options: Vec<&str> = [&["rbind"], options].concat();
        self.mount(json!({"destination": target, "type": "bind", "source": source, "options": options}));
    }

    /// Mounts an image of these layers, lowest first.
    pub fn image(&mut self, layers: &[PathBuf], sub_path: &str, target: &str, options: &[&str]) {
        let mount = self.spec["mounts"].as_array().unwrap().len();
        let options = [&["ro"], options].concat();
        self.mount(
            json!({"destination": target, "type": "overlay", "source": "sha256:1", "options": options}),
        );
        let (image, sub_path) = ("test:1".to_owned(), sub_path.into());
        self.image_volumes.push(ImageVolume { mount, image, layers: layers.to_vec(), sub_path });
    }

    pub fn launch(&self) -> Vec<u8> {
        let launch = Launch {
            spec: self.spec.clone(),
            rootfs: Rootfs {
                layers: self.layers.clone(),
                upper: self.path("upper"),
                work: self.path("work"),
            },
            volumes: self.volumes.clone(),
            image_volumes: self.image_volumes.clone(),
            user: self.user.clone(),
            join: self.join,
            own: self.own,
            pod_shm: self.pod_shm,
            uid_map: self.map.clone(),
            gid_map: self.map.clone(),
            raw_env: vec![b"RAW=\xff\xfe".to_vec()],
            relabel: Vec::new(),
            make_sources: self.make_sources.clone(),
            seccomp_flags: 0,
        };
        serde_json::to_vec(&launch).unwrap()
    }

    /// The log's lines without their stamps.
    pub fn lines(&self) -> Vec<String> {
        lines_of(&self.log())
    }
}

pub fn lines_of(path: &Path) -> Vec<String> {
    let text = fs::read(path).unwrap();
    let text = String::from_utf8_lossy(&text);
    // A record is seen half while it is being written: it counts from its end on.
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| line.trim_end_matches(['\n', '\r']).split_once(' ').unwrap().1.to_owned()).collect()
}

fn fill(lower: &Path) {
    for name in ["bin", "etc", "tmp", "work", "usr"] {
        fs::create_dir(lower.join(name)).unwrap();
    }
    fs::set_permissions(lower.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy(BUSYBOX, lower.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", lower.join("bin").join(applet)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001:Bob:/home/bob:/bin/sh\n";
    fs::write(lower.join("etc/passwd"), passwd).unwrap();
    fs::write(lower.join("etc/group"), "root:x:0:\nstaff:x:50:bob\nbob:x:1001:\n").unwrap();
    fs::write(lower.join("bin/noexec"), "#!/bin/sh\n").unwrap();
    fs::write(lower.join("bin/garbage"), "\u{1}\u{2}\u{3}").unwrap();
    fs::set_permissions(lower.join("bin/garbage"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(lower.join("bin/lost"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(lower.join("bin/lost"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Capabilities of containerd's default.
pub const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

fn spec(args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs", "readonly": false},
        "process": process(args),
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi", "/no/such"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

pub fn process(args: &[&str]) -> Value {
    json!({
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/usr/bin:/bin", "FOO=bar"],
        "cwd": "/",
        "capabilities": {
            "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            "inheritable": [], "ambient": [],
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1000, "hard": 1024}],
        "noNewPrivileges": false,
    })
}
