//! Mounts of a request: access, options, propagation, id maps, and what is covered.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use holdfast_e2e::{
    Scene,
    grpc::{self, Message},
    process,
    scene::BUSYBOX,
    specs::{container, pod, sleeper, with_user_namespace},
};
use serde_json::{Value, json};

/// A mount that a test makes on the host, below the scene's directory.
pub struct HostMount(PathBuf);

impl HostMount {
    fn new(args: &[&str], at: &Path) -> Result<Self> {
        fs::create_dir_all(at)?;
        let at_text = at.display().to_string();
        process::stdout("mount", args.iter().copied().chain([at_text.as_str()]))?;
        Ok(Self(at.to_owned()))
    }

    /// An empty tmpfs.
    pub fn tmpfs(at: &Path) -> Result<Self> {
        Self::new(&["-t", "tmpfs", "holdfast-e2e"], at)
    }

    /// The directory mounted on itself, with this propagation.
    pub fn itself(at: &Path, propagation: &str) -> Result<Self> {
        let this = Self::new(&["--bind", &at.display().to_string()], at)?;
        process::stdout("mount", [format!("--make-{propagation}"), at.display().to_string()])?;
        Ok(this)
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let flags = nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW;
        let _ = nix::mount::umount2(&self.0, flags);
    }
}

/// Directories of these names, open to everybody.
fn directories(dir: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        fs::create_dir_all(dir.join(name))?;
        fs::set_permissions(dir.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    }
    Ok(())
}

/// Read-only, recursively so, by a symlink, a single file; all in a container whose root is read-only, as is
/// the kubelet's termination log.
#[test]
fn mounts_are_what_was_asked_for() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let dir = scene.dir.join("mounts");
    directories(&dir, &["ro", "rw", "deep", "target"])?;
    fs::write(dir.join("target/inside"), "behind a link\n")?;
    fs::write(dir.join("file"), "a file\n")?;
    fs::write(dir.join("termination"), "")?;
    std::os::unix::fs::symlink("target", dir.join("link"))?;
    let below = HostMount::tmpfs(&dir.join("deep/sub"))?;
    let pod = pod(&scene.dir, "mounts");
    let pod_id = scene.run_pod(&pod)?;
    let mut container = sleeper("main", BUSYBOX);
    container["linux"]["security_context"]["readonly_rootfs"] = true.into();
    let host = |name: &str| dir.join(name).display().to_string();
    container["mounts"] = json!([
        {"container_path": "/ro", "host_path": host("ro"), "readonly": true},
        {"container_path": "/rw", "host_path": host("rw")},
        {"container_path": "/link", "host_path": host("link")},
        {"container_path": "/file", "host_path": host("file"), "readonly": true},
        {"container_path": "/deep", "host_path": host("deep"), "readonly": true},
        {"container_path": "/deepest", "host_path": host("deep"), "readonly": true, "recursive_read_only": true},
        {"container_path": "/dev/termination-log", "host_path": host("termination")},
    ]);
    let id = scene.start(&pod_id, &pod, &container)?;
    let can = |path: &str| -> Result<bool> {
        Ok(scene.shell(&id, &format!("touch {path}/x 2>/dev/null && echo yes || echo no"))? == "yes")
    };
    for (path, writable) in [
        ("", false),
        ("/ro", false),
        ("/rw", true),
        ("/deep", false),
        // Read-only is the mount, and not what is mounted below it.
        ("/deep/sub", true),
        ("/deepest", false),
        ("/deepest/sub", false),
    ] {
        ensure!(can(path)? == writable, "{path}/ can be written to: {}", !writable);
    }
    ensure!(dir.join("rw/x").exists(), "what was written is not on the host");
    ensure!(scene.shell(&id, "cat /link/inside /file")? == "behind a link\na file");
    scene.shell(&id, "printf 'last words' > /dev/termination-log")?;
    ensure!(fs::read_to_string(dir.join("termination"))? == "last words");
    echoed(&container["mounts"], &scene.status(&id)?["mounts"])?;
    scene.remove_pod(&pod_id)?;
    drop(below);
    oracle.nothing_left()
}

/// A source that is not there is made as a directory, as a kubelet counts on for a hostPath volume without a type.
/// A link that leads nowhere is not made to lead somewhere.
#[test]
fn missing_sources_are_made() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let dir = scene.dir.join("missing");
    directories(&dir, &["there"])?;
    std::os::unix::fs::symlink("there", dir.join("link"))?;
    std::os::unix::fs::symlink("nowhere", dir.join("dangling"))?;
    let pod = pod(&scene.dir, "missing-sources");
    let pod_id = scene.run_pod(&pod)?;
    let mounted = |name: &str, source: &str| {
        let mut container = sleeper(name, BUSYBOX);
        container["mounts"] = json!([{"container_path": "/data", "host_path": dir.join(source)}]);
        container
    };
    for (name, source, made) in [
        ("plain", "a/b/c", &["a", "a/b", "a/b/c"][..]),
        ("linked", "link/new/er", &["there/new", "there/new/er"]),
    ] {
        let id = scene.start(&pod_id, &pod, &mounted(name, source))?;
        scene.shell(&id, "echo hello > /data/file")?;
        ensure!(fs::read_to_string(dir.join(source).join("file"))? == "hello\n");
        for path in made {
            let meta = fs::metadata(dir.join(path))?;
            let owner = (std::os::unix::fs::MetadataExt::uid(&meta), meta.is_dir());
            let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o7777;
            ensure!(mode == 0o755 && owner == (0, true), "{path} has mode {mode:o}, {owner:?}");
        }
    }
    for source in ["dangling", "a/b/c/file/x"] {
        let (container, pod) = scene.create_files(&pod, &mounted("never", source))?;
        let output = scene.crictl.call(&["create", &pod_id, &container, &pod])?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && text.contains(source), "{source}: {text}");
    }
    ensure!(!dir.join("nowhere").exists(), "a dangling link was followed");
    scene.remove_pod(&pod_id)?;
    ensure!(dir.join("a/b/c/file").is_file(), "a volume went with its pod");
    oracle.nothing_left()
}

/// A status echoes the mounts of the request: the kubelet finds the termination message that way.
fn echoed(asked: &Value, told: &Value) -> Result<()> {
    let (asked, told) = (asked.as_array().into_iter().flatten(), told.as_array().into_iter().flatten());
    let told: Vec<&Value> = told.collect();
    for mount in asked {
        let same = |told: &&&Value| told["containerPath"] == mount["container_path"];
        let Some(found) = told.iter().find(same) else { anyhow::bail!("{mount} is not in {told:?}") };
        let flag = |value: &Value| value.as_bool().unwrap_or(false);
        ensure!(found["hostPath"] == mount["host_path"], "{found}");
        ensure!(flag(&found["readonly"]) == flag(&mount["readonly"]), "{found}");
        ensure!(flag(&found["recursiveReadOnly"]) == flag(&mount["recursive_read_only"]), "{found}");
    }
    Ok(())
}

/// Options of a mount. crictl's CRI is older than the field.
#[test]
fn options_of_a_mount() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "options");
    let pod_id = scene.run_pod(&pod)?;
    // runtime.v1.Mount: container_path 1, host_path 2, mount_options 11.
    let mount = Message::default().text(1, "/data").text(2, &scene.dir.display().to_string());
    let create = |mount: &Message| {
        let config = Message::default()
            .message(1, &Message::default().text(1, "main"))
            .message(2, &Message::default().text(1, BUSYBOX))
            .text(3, "sleep")
            .text(3, "1000")
            .message(7, mount);
        let request = Message::default().text(1, &pod_id).message(2, &config);
        grpc::call(&scene.socket()?, "/runtime.v1.RuntimeService/CreateContainer", &request)
    };
    ensure!(create(&mount.clone().text(11, "suid")).is_err(), "an option that lifts a limit was taken");
    let answer = create(
        &["noexec", "nodev", "nosuid", "noatime"].iter().fold(mount, |mount, one| mount.text(11, one)),
    )?;
    // CreateContainerResponse: one text, its tag and its length before it.
    let id = String::from_utf8_lossy(answer.get(2..).unwrap_or_default()).into_owned();
    scene.crictl.ok(&["start", &id])?;
    let options = scene.shell(&id, "grep ' /data ' /proc/self/mountinfo")?;
    for option in ["noexec", "nodev", "nosuid", "noatime"] {
        ensure!(options.contains(option), "{option} is not in {options}");
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// What is mounted later on the host is seen or not, and so is what the container mounts.
#[test]
fn propagation_of_mounts() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let dir = scene.dir.join("shared");
    directories(&scene.dir, &["shared", "shared/late", "shared/inner", "shared/own", "alone"])?;
    let shared = HostMount::itself(&dir, "rshared")?;
    let alone = HostMount::itself(&scene.dir.join("alone"), "private")?;
    let mut pod = pod(&scene.dir, "propagation");
    pod["linux"]["security_context"]["privileged"] = true.into();
    let pod_id = scene.run_pod(&pod)?;
    let mut container = sleeper("main", BUSYBOX);
    container["linux"]["security_context"]["privileged"] = true.into();
    container["mounts"] = json!([
        {"container_path": "/private", "host_path": dir, "propagation": 0},
        {"container_path": "/slave", "host_path": dir, "propagation": 1},
        {"container_path": "/both", "host_path": dir, "propagation": 2},
    ]);
    let id = scene.start(&pod_id, &pod, &container)?;
    let sees = |path: &str| -> Result<bool> {
        Ok(scene.shell(&id, &format!("test -e {path} && echo yes || echo no"))? == "yes")
    };

    let late = HostMount::tmpfs(&dir.join("late"))?;
    fs::write(dir.join("late/here"), "")?;
    for (path, seen) in [("/private", false), ("/slave", true), ("/both", true)] {
        ensure!(sees(&format!("{path}/late/here"))? == seen, "{path}: {}", !seen);
    }
    scene.shell(&id, "mount -t tmpfs inner /both/inner && touch /both/inner/made")?;
    let inner = HostMount(dir.join("inner"));
    scene.shell(&id, "mount -t tmpfs own /slave/own && touch /slave/own/made")?;
    ensure!(dir.join("inner/made").exists(), "a bidirectional mount is not seen on the host");
    ensure!(!dir.join("own/made").exists(), "a mount of the container's own is seen on the host");
    ensure!(sees("/slave/inner/made")? && !sees("/private/inner/made")?, "in the container itself");

    // Nothing would ever come through where the host's mount is private: said at once, as by others.
    for propagation in [1, 2] {
        let mut container = sleeper("never", BUSYBOX);
        container["mounts"] = json!([{"container_path": "/x", "host_path": scene.dir.join("alone"), "propagation": propagation}]);
        let (container, pod) = scene.create_files(&pod, &container)?;
        let output = scene.crictl.call(&["create", &pod_id, &container, &pod])?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && text.contains("shared"), "propagation {propagation}: {text}");
    }
    scene.remove_pod(&pod_id)?;
    drop((inner, late, shared, alone));
    oracle.nothing_left()
}

/// With mappings a volume's files belong inside to whom they belong outside; without, to nobody.
#[test]
fn volumes_in_a_user_namespace() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    directories(&scene.dir, &["volume"])?;
    let volume = scene.dir.join("volume");
    fs::write(volume.join("of-root"), "")?;
    let mut pod = pod(&scene.dir, "mapped-volume");
    with_user_namespace(&mut pod, 1_310_720);
    let pod_id = scene.run_pod(&pod)?;
    let mut container = sleeper("main", BUSYBOX);
    let map = json!([{"container_id": 0, "host_id": 1_310_720, "length": 65536}]);
    container["mounts"] = json!([
        {"container_path": "/mapped", "host_path": volume, "uidMappings": map, "gidMappings": map},
        {"container_path": "/plain", "host_path": volume},
    ]);
    let id = scene.start(&pod_id, &pod, &container)?;
    let script =
        "touch /mapped/made /plain/strange; stat -c %u:%g /mapped/of-root /plain/of-root /mapped/made";
    ensure!(scene.shell(&id, script)? == "0:0\n65534:65534\n0:0");
    let owner = |name: &str| -> Result<u32> {
        Ok(std::os::unix::fs::MetadataExt::uid(&fs::metadata(volume.join(name))?))
    };
    ensure!(owner("made")? == 0 && owner("strange")? == 1_310_720);
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Masked and read-only paths are those of the request, and none if it names none (procMount Unmasked).
#[test]
fn masked_and_read_only_paths() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "masks");
    let pod_id = scene.run_pod(&pod)?;
    for (name, masked, readonly) in [
        ("masked", json!(["/proc/keys", "/etc/group", "/usr/bin", "/no/such"]), json!(["/proc/sys", "/var"])),
        ("unmasked", json!([]), json!([])),
    ] {
        let hidden = name == "masked";
        let mut container = sleeper(name, BUSYBOX);
        container["linux"]["security_context"]["masked_paths"] = masked;
        container["linux"]["security_context"]["readonly_paths"] = readonly;
        let id = scene.start(&pod_id, &pod, &container)?;
        for (script, possible) in [
            ("test -s /etc/group", !hidden),
            ("test -n \"$(ls /usr/bin)\"", !hidden),
            ("! grep -q ' /proc/keys ' /proc/self/mountinfo", !hidden),
            ("touch /var/x", !hidden),
            ("echo 0 > /proc/sys/kernel/shm_rmid_forced", !hidden),
            ("touch /etc/x", true),
        ] {
            let found = scene.shell(&id, &format!("({script}) 2>/dev/null && echo yes || echo no"))?;
            ensure!((found == "yes") == possible, "{name}: {script}: {found}");
        }
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A directory of the image's volumes can be written to though the root is read-only, and only there.
#[test]
fn volumes_of_an_image_are_writable() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let image = scene.registry.image("escape-paths:1");
    scene.crictl.ok(&["pull", &image])?;
    let pod = pod(&scene.dir, "image-volumes");
    let pod_id = scene.run_pod(&pod)?;
    let script = "touch /up/volume/x && echo in; touch /up/x 2>/dev/null || echo not beside";
    let mut container = container("main", &image, &["sh", "-c", script]);
    container["working_dir"] = "/".into();
    container["linux"]["security_context"]["readonly_rootfs"] = true.into();
    let id = scene.start(&pod_id, &pod, &container)?;
    scene.exited(&id)?;
    ensure!(scene.crictl.ok(&["logs", &id])? == "in\nnot beside");
    scene.remove_pod(&pod_id)?;
    scene.crictl.ok(&["rmi", &image])?;
    oracle.nothing_left()
}
