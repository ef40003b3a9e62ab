//! Images as builders, registries and caches write them in practice, and mirrors that answer something else.

use holdfast_image::ErrorKind;
use serde_json::{Value, json};

use crate::bed::{Bed, seen};
use crate::images::{
    DOCKER_MANIFEST, Entry, Layer, OCI_INDEX, OCI_MANIFEST, TestImage, architecture, archive, config, digest,
    files, small,
};
use crate::needs_root;
use crate::registry::{Act, Registry};

/// An image whose manifest is changed.
fn changed(image: &TestImage, change: impl Fn(&mut Value)) -> TestImage {
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    change(&mut manifest);
    TestImage { manifest: manifest.to_string().into_bytes(), ..image.clone() }
}

/// A page, as a host sends it that knows no such path.
fn page() -> Act {
    let headers = vec![("content-type", "text/html; charset=utf-8".to_owned())];
    Act::Answer(200, headers, b"<!DOCTYPE html><html><title>Artifacts</title></html>".to_vec())
}

/// A layer with a file of this text.
type Made = fn(&str) -> Layer;

fn tar(mark: &str) -> Vec<u8> {
    files(&[("mark", mark.as_bytes())])
}

fn plain(mark: &str) -> Layer {
    Layer::plain(tar(mark))
}

fn gzip(mark: &str) -> Layer {
    Layer::gzip(tar(mark))
}

fn zstd(mark: &str) -> Layer {
    Layer::zstd(tar(mark))
}

/// As zstd:chunked, whose last frames a decoder skips.
fn chunked(mark: &str) -> Layer {
    let mut layer = zstd(mark);
    layer.blob.extend_from_slice(&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    layer
}

/// Whatever the media type says of the compression, the bytes decide.
#[tokio::test(flavor = "multi_thread")]
async fn layers_of_every_media_type() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let cases: [(&str, Made); 11] = [
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", zstd),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar", plain),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", gzip),
        ("application/vnd.docker.image.rootfs.diff.tar", gzip),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", zstd),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", plain),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", zstd),
        ("application/vnd.oci.image.layer.v1.tar+gzip", zstd),
        ("application/vnd.oci.image.layer.v1.tar+zstd", chunked),
        ("application/vnd.oci.image.layer.v1.tar+gzip", plain),
        ("application/vnd.oci.image.layer.v1.tar", gzip),
    ];
    for (at, (kind, make)) in cases.into_iter().enumerate() {
        let docker = kind.contains("docker");
        let layers = vec![make(&at.to_string())];
        let manifest = if docker { DOCKER_MANIFEST } else { OCI_MANIFEST };
        let image = TestImage::with(manifest, &config("x", &layers), layers);
        let image = changed(&image, |manifest| manifest["layers"][0]["mediaType"] = json!(kind));
        registry.add("app", "v1", &image);
        let pulled = bed.pull(&registry.name("app", "v1")).await.expect(kind);
        assert_eq!(seen(&pulled, "mark").unwrap(), at.to_string(), "{kind}");
    }
    bed.assert_consistent().await;
}

/// A manifest is what its body says; registries and caches call it anything.
#[tokio::test(flavor = "multi_thread")]
async fn manifests_of_every_content_type() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let image = small("x");
    let bare = changed(&image, |manifest| drop(manifest.as_object_mut().unwrap().remove("mediaType")));
    let mut entry = image.descriptor();
    entry["platform"] = json!({ "os": "linux", "architecture": architecture() });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] }).to_string();
    let kinds = [
        None,
        Some(""),
        Some("application/json"),
        Some("application/json; charset=utf-8"),
        Some("text/plain"),
        Some("text/html"),
        Some("application/octet-stream"),
        Some(DOCKER_MANIFEST),
        Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
        Some(OCI_INDEX),
    ];
    registry.add("app", "v1", &image);
    for body in [&image.manifest[..], &bare.manifest, index.as_bytes()] {
        for kind in kinds {
            let headers: Vec<_> = kind.map(|kind| ("content-type", kind.to_owned())).into_iter().collect();
            registry.be_good();
            registry.always("/manifests/v1", Act::Answer(200, headers, body.to_vec()));
            let pulled = bed.pull(&registry.name("app", "v1")).await;
            let pulled = pulled.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            assert_eq!(pulled.id, image.id());
            assert_eq!(pulled.repo_digests, [format!("{}/app@{}", registry.host(), digest(body))]);
            bed.store.remove(&pulled.id).await.unwrap();
        }
    }
    bed.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations_of_every_media_type() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let image = TestImage { kind: DOCKER_MANIFEST.into(), ..small("x") };
    for kind in ["application/octet-stream", "text/html"] {
        let image = changed(&image, |manifest| {
            manifest["mediaType"] = json!(DOCKER_MANIFEST);
            manifest["config"]["mediaType"] = json!(kind);
        });
        registry.add("app", "v1", &image);
        assert_eq!(bed.pull(&registry.name("app", "v1")).await.expect(kind).config.env, ["MARK=x"]);
    }
}

/// An index that names this machine's platform decides, over a configuration that was made on another one.
#[tokio::test(flavor = "multi_thread")]
async fn platforms_in_every_spelling() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let layers = vec![Layer::gzip(files(&[("mark", b"x")]))];
    let with = |os: &str, architecture: &str| {
        let mut config = config("x", &layers);
        (config["os"], config["architecture"]) = (json!(os), json!(architecture));
        TestImage::with(OCI_MANIFEST, &config, layers.clone())
    };
    let spelt = with("Linux", &architecture().to_uppercase());
    registry.add("app", "spelt", &spelt);
    assert_eq!(bed.pull(&registry.name("app", "spelt")).await.unwrap().id, spelt.id());
    let foreign = with("linux", "s390x");
    registry.add("app", "foreign", &foreign);
    let error = bed.pull(&registry.name("app", "foreign")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("linux/s390x") && text.contains(architecture()), "{text}");
    let mut entry = foreign.descriptor();
    entry["platform"] = json!({ "os": "linux", "architecture": architecture() });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] }).to_string();
    registry.manifest("app", "index", OCI_INDEX, index.as_bytes());
    let pulled = bed.pull(&registry.name("app", "index")).await.unwrap();
    assert_eq!(pulled.id, foreign.id());
    // It is found again without its records as well.
    let bed = bed.reopen(|root| std::fs::remove_dir_all(root.join("images")).unwrap()).await;
    assert!(bed.store.get(&foreign.id()).unwrap().is_some());
}

/// `/`, `.` and `./` as whatever kind: the root is there and stays what it is.
#[tokio::test(flavor = "multi_thread")]
async fn root_entries_of_every_kind() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let mut entries = Vec::new();
    for name in ["/", ".", "./"] {
        entries.push(Entry::Directory(name, 0o755));
        entries.push(Entry::HardLink(name, "."));
        entries.push(Entry::Symlink(name, "/etc"));
        entries.push(Entry::Device(name));
    }
    entries.push(Entry::File("mark", b"x"));
    registry.add("app", "v1", &TestImage::new("x", vec![Layer::gzip(archive(&entries))]));
    let pulled = bed.pull(&registry.name("app", "v1")).await.unwrap();
    assert_eq!(seen(&pulled, "mark").as_deref(), Some("x"));
    assert!(std::fs::symlink_metadata(&pulled.layers[0]).unwrap().is_dir());
}

/// A mirror that answers everything with its web page, an error in JSON, another manifest or the page of a login, all
/// with status 200: the next host is asked; and where none is left, the error says what came from where.
#[tokio::test(flavor = "multi_thread")]
async fn mirrors_that_answer_something_else() {
    needs_root!();
    let (good, lacking, login) = (Registry::start().await, Registry::start().await, Registry::start().await);
    let (image, bed) = (small("x"), Bed::new().await);
    good.add("library/app", "v1", &image);
    login.always("/", page());
    let to_login = vec![("location", format!("http://{}/login?state=secret", login.host()))];
    let json = |body: &str| Act::Answer(200, vec![("content-type", "application/json".into())], body.into());
    let cases = [
        (page(), "a web page, text/html, that begins with \\\"<!DOCTYPE"),
        (json(r#"{"errors":[{"code":"DENIED","message":"not here"}]}"#), "status of success: not here"),
        (json("{}"), "no config or no layers; 127.0.0.1 sent application/json, that begins with"),
        (Act::Answer(200, Vec::new(), Vec::new()), "nothing was sent"),
        (Act::Answer(302, to_login, Vec::new()), "sent a web page"),
        (Act::Answer(404, Vec::new(), Vec::new()), "status 404"),
    ];
    for (act, said) in cases {
        let mirror = Registry::start().await;
        mirror.always("/", act.clone());
        let said = said.replace('\\', "");
        let hosts = |server: &str| {
            let text = format!("server = \"http://{server}\"\n[host.\"http://{}\"]", mirror.host());
            bed.hosts("docker.io", &text);
        };
        for name in ["docker.io/library/app:v1", &format!("docker.io/library/app@{}", image.digest())] {
            hosts(&good.host());
            assert_eq!(bed.pull(name).await.expect(&said).id, image.id());
            assert!(mirror.count("/manifests/") > 0);
            bed.store.remove(&image.id()).await.unwrap();
            // And without a good one behind it.
            hosts(&lacking.host());
            let error = bed.pull(name).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "what the registry itself says counts");
            let error = error.to_string();
            assert!(error.replace('\\', "").contains(&said), "{said}: {error}");
            assert!(error.contains(&mirror.host()) && error.contains(&lacking.host()), "{error}");
            assert!(!error.contains("secret") && error.len() < 2000, "{error}");
        }
    }
    bed.assert_empty().await;
}

/// The manifest comes from a mirror, and where the blobs should be there is its web page.
#[tokio::test(flavor = "multi_thread")]
async fn mirrors_that_answer_something_else_for_blobs() {
    needs_root!();
    let (mirror, good, lacking) = (Registry::start().await, Registry::start().await, Registry::start().await);
    let (image, bed) = (small("x"), Bed::new().await);
    for registry in [&mirror, &good] {
        registry.add("library/app", "v1", &image);
    }
    mirror.always("/blobs/", page());
    let hosts = |server: &str| {
        let text = format!("server = \"http://{server}\"\n[host.\"http://{}\"]", mirror.host());
        bed.hosts("docker.io", &text);
    };
    hosts(&good.host());
    assert_eq!(bed.pull("app:v1").await.unwrap().id, image.id());
    assert!(mirror.count(&image.layers[0].digest()) > 0);
    bed.store.remove(&image.id()).await.unwrap();
    hosts(&lacking.host());
    let error = bed.pull("app:v1").await.unwrap_err().to_string();
    assert!(error.contains("which sent a web page") && error.contains(&lacking.host()), "{error}");
    bed.assert_empty().await;
}
