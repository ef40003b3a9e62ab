//! Stand-ins for the images that critest pulls, under their original names: mirrors bring the pulls here.

use anyhow::{Context, Result};
use serde_json::json;

use super::nginx;
use crate::{
    images::{PATH, busybox, busybox_layer, marker, program_layer, static_c},
    oci::{Image, Layout, Meta, Platform, Tar},
    run::step,
    work::{Work, once},
};

/// Raised when what follows changes: an old layout is then built anew.
const GENERATION: &str = "2";

const KUBERNETES: &str = "registry.k8s.io/e2e-test-images";
const STAGING: &str = "gcr.io/k8s-staging-cri-tools";

/// Builds all into one layout and returns the digest of `test-image-digest`.
pub fn prepare(work: &Work) -> Result<String> {
    let busybox = busybox(work)?;
    let written = work.cache.join("critest-images.digest");
    once(&work.cache.join("critest-images.stamp"), GENERATION, || {
        step("building stand-ins for critest's images", || {
            let mut layout = Layout::create(&work.cache.join("critest-images"))?;
            let shell = busybox_layer(&busybox)?;
            let digest = shells(&mut layout, &shell)?;
            programs(work, &mut layout, &shell)?;
            layout.finish()?;
            std::fs::write(&written, digest).with_context(|| format!("write {}", written.display()))
        })
    })?;
    std::fs::read_to_string(&written).with_context(|| format!("read {}", written.display()))
}

/// All that are busybox and a little more; the digest is that of `test-image-digest`, which must be one manifest and no
/// index: its references are compared with what was pulled.
fn shells(layout: &mut Layout, shell: &Tar) -> Result<String> {
    let image = |config: serde_json::Value, name: &str| {
        let mut config = config;
        config["Cmd"] = json!(["sh"]);
        config["Env"] = json!([PATH]);
        Image::new(config, [shell.clone(), marker(name, name)])
    };
    let plain = |name: &str| image(json!({}), name);
    let staging = |name: &str| format!("{STAGING}/{name}");

    layout.add(&[&format!("{KUBERNETES}/busybox:1.29-2")], &plain("busybox"))?;
    for name in ["test-image-1", "test-image-2", "test-image-3", "test-image-latest"] {
        layout.add(&[&staging(&format!("{name}:latest"))], &plain(name))?;
    }
    let (test, all) = (staging("test-image-tag:test"), staging("test-image-tag:all"));
    layout.add(&[&test, &all], &plain("test-image-tag"))?;
    let tags = ["1", "2", "3"].map(|tag| staging(&format!("test-image-tags:{tag}")));
    layout.add(&tags.each_ref().map(String::as_str), &plain("same-image"))?;
    for (name, user) in [
        ("test-image-user-uid", "1002"),
        ("test-image-user-username", "www-data"),
        ("test-image-user-uid-group", "1003:1004"),
        ("test-image-user-username-group", "www-data:1004"),
        // In busybox's /etc/group this user is in a group of its own and in 50000.
        ("test-image-predefined-group", "1000"),
    ] {
        layout.add(&[&staging(&format!("{name}:latest"))], &image(json!({"User": user}), name))?;
    }
    // What the benchmarks list and pull.
    for tag in ["1", "1-glibc", "1-musl", "1-uclibc", "1.35.0-glibc"] {
        let name = format!("public.ecr.aws/docker/library/busybox:{tag}");
        layout.add(&[&name], &plain(&format!("busybox-{tag}")))?;
    }
    layout.add(&[&staging("test-image-digest:latest")], &plain("test-image-digest"))
}

fn programs(work: &Work, layout: &mut Layout, shell: &Tar) -> Result<()> {
    // Must be like no other image, or a spec that removes it sees the names of both.
    let pause = program_layer(&static_c(work, "pause")?, "pause")?;
    let config = json!({"Entrypoint": ["/pause"], "User": "65535:65535"});
    // k8s.gcr.io, which a spec pulls as well, is the same repository behind another mirror.
    let image = Image::new(config, [pause, marker("version", "3.9")]);
    layout.add(&["registry.k8s.io/pause:3.9"], &image)?;

    let program = static_c(work, "nonewprivs")?;
    let bytes = std::fs::read(&program).with_context(|| format!("read {}", program.display()))?;
    let mut setuid = Tar::default();
    setuid.file("nnp", Meta::root(0o4755), &bytes);
    let image = Image::new(json!({"Entrypoint": ["/nnp"], "Env": [PATH]}), [shell.clone(), setuid]);
    layout.add(&[&format!("{KUBERNETES}/nonewprivs:1.3")], &image)?;

    // Its log must name it, as that of Apache's does.
    let mut page = Tar::default();
    page.dir("srv", Meta::root(0o755)).file(
        "srv/index.html",
        Meta::root(0o644),
        b"<h1>httpd, a stand-in</h1>\n",
    );
    let serve = "echo httpd: ready; exec httpd -f -p 80 -h /srv";
    let config = json!({"Cmd": ["sh", "-c", serve], "Env": [PATH]});
    layout.add(&[&format!("{KUBERNETES}/httpd:2.4.39-4")], &Image::new(config, [shell.clone(), page]))?;

    let server = nginx::layer(work)?;
    let config = json!({"Cmd": ["nginx", "-g", "daemon off;"], "Env": [PATH], "StopSignal": "SIGQUIT"});
    let on = |port| Image::new(config.clone(), [shell.clone(), server.clone(), nginx::listen(port)]);
    layout.add(&[&format!("{KUBERNETES}/nginx:1.14-2")], &on(80))?;
    let name = format!("{STAGING}/hostnet-nginx-{}:latest", Platform::native().0);
    layout.add(&[&name], &on(12003))?;
    Ok(())
}
