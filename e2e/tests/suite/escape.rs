//! Ways out of a container that others have left open: other processes, descriptors, links of an image, our own program.

use std::{fs, os::unix::fs::symlink};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    canary::Canary,
    place, process,
    scene::BUSYBOX,
    specs::{PID_POD, container, pod, sleeper},
    wait,
};
use serde_json::json;

#[test]
fn nothing_of_the_host_behind_the_holder() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let canary = scene.dir.join("canary");
    fs::write(&canary, "of the host")?;
    let mut pod = pod(&scene.dir, "escape");
    pod["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into();
    let pod_id = scene.run_pod(&pod)?;
    let mut container = sleeper("main", BUSYBOX);
    let context = &mut container["linux"]["security_context"];
    context["namespace_options"]["pid"] = PID_POD.into();
    context["capabilities"] = json!({"add_capabilities": ["SYS_PTRACE", "DAC_READ_SEARCH"]});
    let id = scene.start(&pod_id, &pod, &container)?;
    let shell = |script: &str| scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", script]);

    // The capability is really there, so that a refusal is the holder's doing.
    let own = shell("grep CapEff /proc/self/status")?;
    let mask = u64::from_str_radix(own.rsplit('\t').next().unwrap_or_default(), 16)?;
    ensure!(mask & (1 << 19) != 0, "no SYS_PTRACE: {own}");

    let path = canary.display();
    let found = shell(&format!(
        "for p in /proc/[0-9]*; do for l in root cwd fd/*; do cat $p/$l{path} 2>/dev/null; done; done; true"
    ))?;
    ensure!(!found.contains("of the host"), "the canary was read: {found}");
    shell("for l in root cwd; do echo x > /proc/1/$l/var/tmp/hf-escaped; done 2>/dev/null; true")?;
    ensure!(!std::path::Path::new("/var/tmp/hf-escaped").exists(), "a file was written to the host");
    // Whatever can be listed there is the root with the pod's shm and the empty place of the containers' roots.
    let listed = shell("ls -A /proc/1/root/ /proc/1/cwd/ 2>/dev/null; true")?;
    for word in listed.split_whitespace().filter(|word| !word.ends_with(':')) {
        ensure!(["dev", "root"].contains(&word), "{word} behind the holder: {listed}");
    }
    let listed = shell("ls -A /proc/1/root/root /proc/1/root/dev 2>/dev/null; true")?;
    for word in listed.split_whitespace().filter(|word| !word.ends_with(':')) {
        ensure!(word == "shm", "{word} behind the holder: {listed}");
    }
    let descriptors = shell("ls /proc/1/fd 2>/dev/null; true")?;
    ensure!(descriptors.is_empty(), "the holder's descriptors: {descriptors}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// No descriptor of ours comes into a container, at its start or with an exec.
#[test]
fn no_descriptor_leaks() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "descriptors");
    let pod_id = scene.run_pod(&pod)?;
    let script = "ls -l /proc/1/fd; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";
    let main = container("main", BUSYBOX, &["sh", "-c", script]);
    let id = scene.start(&pod_id, &pod, &main)?;
    let listed =
        scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", "ls /proc/1/fd; echo; ls /proc/self/fd"])?;
    let (first, own) = listed.split_once("\n\n").unwrap_or((&listed, ""));
    // The shell keeps a copy of its script's descriptor above 9.
    ensure!(first.lines().all(|fd| fd.parse().is_ok_and(|fd: u32| fd <= 2 || fd == 10)), "{listed}");
    ensure!(own.lines().all(|fd| fd.parse().is_ok_and(|fd: u32| fd <= 3)), "{listed}");
    for directory in 3..12 {
        let mut container = container(&format!("cwd-{directory}"), BUSYBOX, &["pwd"]);
        container["working_dir"] = format!("/proc/self/fd/{directory}").into();
        // Refused by create or by start, or an ordinary folder of the image: never a folder of the host.
        let (file, pod_file) = scene.create_files(&pod, &container)?;
        let output = scene.crictl.call(&["create", &pod_id, &file, &pod_file])?;
        if output.status.success() {
            let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let started = scene.crictl.call(&["start", &id])?;
            ensure!(!started.status.success(), "a container runs in /proc/self/fd/{directory}");
        }
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// The working directory of an exec, which has become a link to a descriptor in the meantime (CVE-2024-21626).
#[test]
fn an_exec_s_directory_that_leads_out() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let volume = scene.dir.join("volume");
    fs::create_dir_all(volume.join("work"))?;
    let pod = pod(&scene.dir, "exec-directory");
    let pod_id = scene.run_pod(&pod)?;
    let mut main = sleeper("main", BUSYBOX);
    main["mounts"] = json!([{"container_path": "/volume", "host_path": volume}]);
    main["working_dir"] = "/volume/work".into();
    let id = scene.start(&pod_id, &pod, &main)?;
    ensure!(scene.shell(&id, "pwd")? == "/volume/work");
    fs::remove_dir(volume.join("work"))?;
    for descriptor in 3..32 {
        symlink(format!("/proc/self/fd/{descriptor}"), volume.join("work"))?;
        let output = scene.crictl.call(&["exec", "-s", &id, "pwd"])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(!output.status.success(), "an exec runs in /proc/self/fd/{descriptor}: {said}");
        fs::remove_file(volume.join("work"))?;
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// /dev, /proc, /sys, the working directory, a volume and mount points that are links to a place on the host. A
/// container is refused, or finds them in its own root.
#[test]
fn images_whose_links_lead_out() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let canary = Canary::put()?;
    let pod = pod(&scene.dir, "links");
    let pod_id = scene.run_pod(&pod)?;
    let data = scene.dir.join("data");
    fs::create_dir(&data)?;
    fs::write(data.join("inside"), "of the data\n")?;
    for (name, refused) in [("dev", false), ("proc", true), ("sys", true), ("paths", false)] {
        let image = scene.registry.image(&format!("escape-{name}:1"));
        scene.crictl.ok(&["pull", &image])?;
        let script = "cat /out/mount/inside; touch here /dev/made /out/made 2>/dev/null; pwd";
        let mut main = container(name, &image, &["sh", "-c", script]);
        main["linux"]["security_context"]["masked_paths"] = json!(["/out/file", "/dev/null", "/proc/keys"]);
        main["linux"]["security_context"]["readonly_paths"] = json!(["/out", "/sys"]);
        if name == "paths" {
            main["mounts"] = json!([
                {"container_path": "/out/mount", "host_path": data},
                {"container_path": "/up/file", "host_path": data.join("inside")},
            ]);
            main["devices"] =
                json!([{"container_path": "/up/node", "host_path": "/dev/null", "permissions": "rw"}]);
        }
        let (file, pod_file) = scene.create_files(&pod, &main)?;
        let output = scene.crictl.call(&["create", &pod_id, &file, &pod_file])?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success() != refused, "{name}: {text}");
        if refused {
            ensure!(text.contains(&format!("/{name}")) && text.contains("symlink"), "{name}: {text}");
        } else {
            let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            scene.crictl.ok(&["start", &id])?;
            scene.exited(&id)?;
            let log = scene.crictl.ok(&["logs", &id])?;
            ensure!(name != "paths" || log.starts_with("of the data\n"), "{name}: {log}");
        }
        canary.untouched().context(name)?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(!mounts.contains(&canary.path().display().to_string()), "{name}: {mounts}");
    }
    scene.remove_pod(&pod_id)?;
    for name in ["dev", "proc", "sys", "paths"] {
        scene.crictl.ok(&["rmi", &scene.registry.image(&format!("escape-{name}:1"))])?;
    }
    oracle.nothing_left()
}

/// A command that is our own program by /proc, itself and as the interpreter of a script, while another process of the
/// pod writes to it (CVE-2019-5736).
#[test]
fn our_programs_are_not_to_be_written_to() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let programs = ["holdfast", "holdfast-pod", "holdfast-shim"].map(|name| place::programs().join(name));
    let sums = || process::stdout("sha256sum", &programs);
    let before = sums()?;
    let volume = scene.dir.join("scripts");
    fs::create_dir(&volume)?;
    fs::write(volume.join("script"), "#!/proc/self/exe\n")?;
    fs::set_permissions(volume.join("script"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut pod = pod(&scene.dir, "programs");
    pod["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into();
    let pod_id = scene.run_pod(&pod)?;
    let writing = "while :; do for p in /proc/[0-9]*/exe; do : 2>/dev/null >> $p; done; done";
    let mut writer = container("writer", BUSYBOX, &["sh", "-c", writing]);
    writer["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into();
    writer["linux"]["security_context"]["capabilities"] = json!({"add_capabilities": ["SYS_PTRACE"]});
    let writer = scene.start(&pod_id, &pod, &writer)?;
    for round in 0..5 {
        for command in ["/proc/self/exe", "/scripts/script"] {
            let mut main = container(&format!("main-{round}-{}", command.len()), BUSYBOX, &[command]);
            main["mounts"] = json!([{"container_path": "/scripts", "host_path": volume}]);
            main["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into();
            let id = scene.create(&pod_id, &pod, &main)?;
            if scene.crictl.call(&["start", &id])?.status.success() {
                ensure!(scene.exited(&id)?["exitCode"] != 0, "{command} ran");
            }
            let output = scene.crictl.call(&["exec", "-s", &writer, command])?;
            ensure!(!output.status.success(), "an exec of {command} ran");
        }
    }
    ensure!(sums()? == before, "our programs have changed");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Two containers swap a directory of a shared volume for a link to the host while others with mounts in it start.
#[test]
fn a_race_for_a_mount_point() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let canary = Canary::put()?;
    let (volume, data) = (scene.dir.join("volume"), scene.dir.join("data"));
    fs::create_dir_all(volume.join("target"))?;
    fs::create_dir(&data)?;
    let by_name = canary.path().display().to_string();
    let pod = pod(&scene.dir, "race");
    let pod_id = scene.run_pod(&pod)?;
    for (name, link) in [("first", by_name.clone()), ("second", format!("../../../../../..{by_name}"))] {
        let swap = format!(
            "cd /volume; while :; do mv target {name}; ln -s {link} target; rm -f target; mv {name} target || mkdir target; \
             done 2>/dev/null"
        );
        let mut racer = container(name, BUSYBOX, &["sh", "-c", &swap]);
        racer["mounts"] = json!([{"container_path": "/volume", "host_path": volume}]);
        scene.start(&pod_id, &pod, &racer)?;
    }
    let is_link = || Ok(fs::symlink_metadata(volume.join("target")).is_ok_and(|meta| meta.is_symlink()));
    wait::until_true("the directory to be a link", is_link)?;
    for round in 0..rounds() {
        let mut main = container(&format!("main-{round}"), BUSYBOX, &["true"]);
        main["mounts"] = json!([
            {"container_path": "/volume", "host_path": volume},
            {"container_path": "/volume/target/directory", "host_path": data},
        ]);
        main["working_dir"] = "/volume/target/work".into();
        main["linux"]["security_context"]["masked_paths"] = json!(["/volume/target/file"]);
        let (file, pod_file) = scene.create_files(&pod, &main)?;
        let output = scene.crictl.call(&["create", &pod_id, &file, &pod_file])?;
        if output.status.success() {
            let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            scene.crictl.call(&["start", &id])?;
            scene.exited(&id)?;
            scene.crictl.ok(&["rm", &id])?;
        }
        canary.untouched().with_context(|| format!("round {round}"))?;
    }
    wait::until_true("the directory to be a link still", is_link)?;
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Whole containers take long: 5, or a hundredth of what `HOLDFAST_E2E_ROUNDS` says. The shim's own tests do the rest.
fn rounds() -> u32 {
    let asked = std::env::var("HOLDFAST_E2E_ROUNDS").ok().and_then(|text| text.parse().ok());
    asked.map_or(5, |rounds: u32| (rounds / 100).max(1))
}
