//! Images as builders, registries and caches write them in practice, mirrors that answer something else, and how a
//! container's status calls its image.

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    registry::digest_of,
    shelf::{Shelf, decompressed, test_image},
    specs::{pod, sleeper},
};
use serde_json::{Value, json};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// A test image with gzip layers and a shell, and one with zstd layers.
const GZIP: &str = "holdfast.test/layers:1";
const ZSTD: &str = "holdfast.test/zstd:1";

#[test]
fn layers_of_every_media_type() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let shelf = Shelf::open()?;
    // The media type, the test image, and whether its layers are decompressed.
    let cases = [
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", ZSTD, false),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", ZSTD, false),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar", GZIP, true),
        ("application/vnd.docker.image.rootfs.diff.tar", GZIP, false),
        ("application/vnd.oci.image.layer.v1.tar+gzip", GZIP, true),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", GZIP, false),
    ];
    for (at, (kind, name, plain)) in cases.into_iter().enumerate() {
        let (mut manifest, _) = test_image(name)?;
        if kind.contains("docker") {
            manifest["mediaType"] = DOCKER_MANIFEST.into();
            manifest["config"]["mediaType"] = DOCKER_CONFIG.into();
        }
        for layer in manifest["layers"].as_array_mut().context("no layers")? {
            if plain {
                *layer = shelf.blob(&decompressed(layer["digest"].as_str().unwrap_or_default())?)?;
            }
            layer["mediaType"] = kind.into();
        }
        let tag = format!("layers-{at}");
        shelf.manifest(&tag, manifest["mediaType"].as_str().unwrap_or_default(), &manifest)?;
        runs(&scene, &shelf.image(&tag)).with_context(|| format!("{kind} of {name}"))?;
    }
    Ok(())
}

/// The configuration of old images has any media type; a cache calls a manifest by Docker's name.
#[test]
fn manifests_and_configurations_under_other_names() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let shelf = Shelf::open()?;
    let (oci, _) = test_image(GZIP)?;
    let mut docker = oci.clone();
    docker["mediaType"] = DOCKER_MANIFEST.into();
    for layer in docker["layers"].as_array_mut().context("no layers")? {
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip".into();
    }
    for (at, kind) in ["application/octet-stream", "text/html"].into_iter().enumerate() {
        docker["config"]["mediaType"] = kind.into();
        let tag = format!("config-{at}");
        shelf.manifest(&tag, DOCKER_MANIFEST, &docker)?;
        runs(&scene, &shelf.image(&tag)).with_context(|| format!("configuration of type {kind}"))?;
    }
    let with_charset = format!("{OCI_MANIFEST}; charset=utf-8");
    for (at, kind) in [DOCKER_MANIFEST, &with_charset].into_iter().enumerate() {
        let tag = format!("manifest-{at}");
        shelf.manifest(&tag, kind, &oci)?;
        runs(&scene, &shelf.image(&tag)).with_context(|| format!("manifest as {kind}"))?;
    }
    Ok(())
}

/// Containerd believes these names, and then fails.
#[test]
fn manifests_under_any_name() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let shelf = Shelf::open()?;
    let (manifest, _) = test_image(GZIP)?;
    let kinds = ["application/json", "text/plain; charset=utf-8", "application/octet-stream", OCI_INDEX, ""];
    for (at, kind) in kinds.into_iter().enumerate() {
        let tag = format!("any-{at}");
        shelf.manifest(&tag, kind, &manifest)?;
        scene.crictl.ok(&["pull", &shelf.image(&tag)]).with_context(|| format!("manifest as {kind:?}"))?;
    }
    Ok(())
}

/// An index decides over a configuration that names another machine; spellings of a platform do not count, nor do
/// attestations and artifacts beside the image.
#[test]
fn platforms_in_every_spelling() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let shelf = Shelf::open()?;
    let (manifest, config) = test_image(GZIP)?;
    let here = config["architecture"].as_str().context("no architecture")?.to_owned();
    let with = |tag: &str, os: &str, architecture: &str| -> Result<Value> {
        let mut config = config.clone();
        (config["os"], config["architecture"]) = (os.into(), architecture.into());
        let mut manifest = manifest.clone();
        manifest["config"] = shelf.blob(config.to_string().as_bytes())?;
        manifest["config"]["mediaType"] = OCI_CONFIG.into();
        shelf.manifest(tag, OCI_MANIFEST, &manifest)
    };
    with("spelt", "Linux", &here.to_uppercase())?;
    runs(&scene, &shelf.image("spelt")).context("Linux in upper case")?;
    let synonym = if here == "amd64" { "x86_64" } else { "aarch64" };
    with("synonym", "linux", synonym)?;
    runs(&scene, &shelf.image("synonym")).context(synonym)?;

    let mut entry = with("foreign", "linux", "s390x")?;
    entry["platform"] = json!({ "os": "linux", "architecture": synonym });
    let attestation = json!({
        "mediaType": OCI_MANIFEST, "digest": digest_of(ZSTD)?, "size": 1,
        "platform": { "os": "unknown", "architecture": "unknown" },
        "annotations": { "vnd.docker.reference.type": "attestation-manifest" },
    });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [attestation, entry] });
    shelf.manifest("index", OCI_INDEX, &index)?;
    runs(&scene, &shelf.image("index")).context("an index over another configuration")
}

/// `/` as a hard link to `.`, as kaniko wrote it, and as other things that it is not.
#[test]
fn root_entries_of_every_kind() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let shelf = Shelf::open()?;
    let (mut manifest, mut config) = test_image(GZIP)?;
    let mut tar = Vec::new();
    for name in ["/", ".", "./"] {
        for flag in [b'5', b'1', b'2', b'3'] {
            tar.extend_from_slice(&header(name, flag));
        }
    }
    tar.resize(tar.len() + 1024, 0);
    let mut layer = shelf.blob(&tar)?;
    config["rootfs"]["diff_ids"].as_array_mut().context("no diff_ids")?.push(layer["digest"].clone());
    layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar".into();
    manifest["layers"].as_array_mut().context("no layers")?.push(layer);
    manifest["config"] = shelf.blob(config.to_string().as_bytes())?;
    manifest["config"]["mediaType"] = OCI_CONFIG.into();
    shelf.manifest("roots", OCI_MANIFEST, &manifest)?;
    runs(&scene, &shelf.image("roots"))
}

/// A mirror whose path is wrong answers with its web page: the registry behind it is asked; without one the error names
/// the mirror and what it sent.
#[test]
fn a_mirror_that_sends_its_web_page() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let shelf = Shelf::open()?;
    shelf.put("1", "text/html; charset=utf-8", b"<!DOCTYPE html><html><title>Artifacts</title></html>");
    let hosts = |server: &str| -> Result<()> {
        let dir = scene.dir.join("certs.d/found.test");
        std::fs::create_dir_all(&dir)?;
        let text = format!("server = \"http://{server}\"\n[host.\"http://{}\"]\n", shelf.address());
        Ok(std::fs::write(dir.join("hosts.toml"), text)?)
    };
    hosts(&scene.registry.address)?;
    scene.crictl.ok(&["pull", "found.test/layers:1"])?;
    scene.crictl.ok(&["rmi", "found.test/layers:1"])?;
    hosts("127.0.0.1:9")?;
    let refusal = scene.crictl.refused(&["pull", "found.test/layers:1"])?;
    for named in [shelf.address(), "127.0.0.1:9", "a web page, text/html", "<!DOCTYPE html>"] {
        ensure!(refusal.text.contains(named), "{named} is not in {refusal:?}");
    }
    Ok(())
}

/// The kubelet creates a container by the image's id: its status tells the image by tag and by digest, as users know it,
/// and the id where the id belongs.
#[test]
fn how_a_container_calls_its_image() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let crictl = &scene.crictl;
    let shelf = Shelf::open()?;
    // Nobody else has this one, under other names.
    let (mut manifest, mut config) = test_image(GZIP)?;
    config["config"]["Labels"] = json!({ "of": "this test alone" });
    manifest["config"] = shelf.blob(config.to_string().as_bytes())?;
    manifest["config"]["mediaType"] = OCI_CONFIG.into();
    let digest = shelf.manifest("called", OCI_MANIFEST, &manifest)?["digest"].clone();
    let tag = shelf.image("called");
    let by_digest = format!("{}/found@{}", shelf.address(), digest.as_str().unwrap_or_default());
    let id = |name: &str| -> Result<String> {
        crictl.ok(&["pull", name])?;
        let image = crictl.json(&["inspecti", name])?;
        Ok(image["status"]["id"].as_str().context("no id")?.to_owned())
    };
    // By digest alone there is no tag to tell.
    for (pulled, told) in [(&by_digest, None), (&tag, Some(&tag))] {
        let id = id(pulled)?;
        let pod = pod(&scene.dir, "called");
        let pod_id = scene.run_pod(&pod)?;
        let container = scene.start(&pod_id, &pod, &sleeper("main", &id))?;
        let status = scene.status(&container)?;
        ensure!(status["imageRef"] == by_digest && status["imageId"] == id, "{status}");
        ensure!(status["image"]["image"] == **told.unwrap_or(&id), "{status}");
        let listed = crictl.json(&["ps", "--id", &container, "-o", "json"])?;
        ensure!(listed["containers"][0]["imageId"] == id, "{listed}");
        scene.remove_pod(&pod_id)?;
        crictl.ok(&["rmi", &id])?;
    }
    Ok(())
}

/// Pulls an image with a shell and runs it.
fn runs(scene: &Scene, image: &str) -> Result<()> {
    scene.crictl.ok(&["pull", image])?;
    let pod = pod(&scene.dir, "found");
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &sleeper("main", image))?;
    ensure!(scene.shell(&id, "echo runs")? == "runs", "no shell in {image}");
    scene.remove_pod(&pod_id)?;
    scene.crictl.ok(&["rmi", image])?;
    Ok(())
}

/// A tar header (ustar) of an entry without data; links lead to `.`, devices are whiteouts.
fn header(name: &str, flag: u8) -> [u8; 512] {
    let mut block = [0; 512];
    let mut set = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    set(0, name.as_bytes());
    for (at, number) in [(100, "0000755"), (108, "0000000"), (116, "0000000"), (136, "00000000000")] {
        set(at, number.as_bytes());
    }
    set(124, b"00000000000");
    set(148, b"        ");
    set(156, &[flag]);
    if matches!(flag, b'1' | b'2') {
        set(157, b".");
    }
    set(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}
