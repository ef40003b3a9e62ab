//! Pulls that go well, and what comes out of them.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::{Arc, Mutex};

use holdfast_image::Progress;
use serde_json::json;

use crate::bed::{Bed, seen};
use crate::images::{
    DOCKER_LIST, DOCKER_MANIFEST, Entry, Layer, OCI_INDEX, TestImage, architecture, archive, config, digest,
    files, noise, small,
};
use crate::needs_root;
use crate::registry::{Act, Registry};

#[tokio::test(flavor = "multi_thread")]
async fn by_tag() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let layers = vec![
        Layer::gzip(files(&[("etc/a", b"one"), ("etc/b", b"one")])),
        Layer::zstd(files(&[("etc/b", b"two")])),
        Layer::plain(files(&[("etc/c", b"three")])),
    ];
    let image = TestImage::new("x", layers);
    registry.add("team/app", "v1", &image);
    let name = registry.name("team/app", "v1");
    let pulled = bed.pull(&name).await.unwrap();
    assert_eq!(pulled.id, image.id());
    assert_eq!(pulled.repo_tags, [&*name]);
    assert_eq!(pulled.repo_digests, [format!("{}/team/app@{}", registry.host(), image.digest())]);
    assert_eq!(pulled.config.env, ["MARK=x"]);
    assert_eq!(
        (pulled.config.user.as_str(), &pulled.config.volumes[..]),
        ("1000:1000", &["/data".to_owned()][..])
    );
    assert_eq!(pulled.layers.len(), 3);
    assert!(pulled.layers.iter().all(|layer| layer.is_absolute()));
    let read = |path| seen(&pulled, path);
    assert_eq!((read("etc/a"), read("etc/b")), (Some("one".into()), Some("two".into())));
    assert_eq!(read("etc/c").as_deref(), Some("three"));
    // Four files and, in each layer, the root and etc.
    let blobs = (image.config.len() + image.manifest.len()) as u64;
    assert_eq!(pulled.size_bytes, (4 + 6) * 4096 + blobs);
    let usage = bed.store.usage().await.unwrap();
    assert_eq!((usage.bytes, usage.inodes), ((4 + 6) * 4096 + 2 * 4096, 4 + 6 + 2));
    for by in [name.as_str(), &pulled.id, &pulled.id[7..], &pulled.id[7..20], &pulled.repo_digests[0]] {
        assert_eq!(bed.store.get(by).unwrap().unwrap(), pulled, "{by}");
    }
    assert_eq!(bed.store.get(&registry.name("team/app", "v2")).unwrap(), None);
    assert_eq!(bed.store.list(), [pulled]);
    bed.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_digest() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let image = small("x");
    registry.add("app", "v1", &image);
    // With both given the digest decides, whatever the tag is.
    let name = format!("{}/app:other@{}", registry.host(), image.digest());
    let pulled = bed.pull(&name).await.unwrap();
    assert!(pulled.repo_tags.is_empty());
    assert_eq!(pulled.repo_digests, [format!("{}/app@{}", registry.host(), image.digest())]);
    assert_eq!(bed.store.get(&name).unwrap().unwrap(), pulled);
    // A pull by tag adds that.
    let tagged = bed.pull(&registry.name("app", "v1")).await.unwrap();
    assert_eq!(tagged.repo_tags, [registry.name("app", "v1")]);
    assert_eq!(tagged.repo_digests, pulled.repo_digests);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_leads_to_this_machine() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    for (repository, kind) in [("oci", OCI_INDEX), ("docker", DOCKER_LIST)] {
        let image = small(repository);
        registry.add(repository, "only", &image);
        let mut ours = image.descriptor();
        ours["platform"] = json!({ "os": "linux", "architecture": architecture() });
        let mut other = small("other").descriptor();
        other["platform"] = json!({ "os": "linux", "architecture": "s390x" });
        let mut attestation = small("attestation").descriptor();
        attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
        let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": [other, attestation, ours] })
            .to_string();
        registry.manifest(repository, "v1", kind, index.as_bytes());
        registry.manifest(repository, &digest(index.as_bytes()), kind, index.as_bytes());
        let pulled = bed.pull(&registry.name(repository, "v1")).await.unwrap();
        assert_eq!(pulled.id, image.id());
        // The digest is the index's, as with containerd.
        let digest = format!("{}/{repository}@{}", registry.host(), digest(index.as_bytes()));
        assert_eq!(pulled.repo_digests, [&*digest]);
        assert_eq!(bed.pull(&digest).await.unwrap(), pulled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_manifests() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let layers = vec![Layer::gzip(files(&[("a", b"a")]))];
    let image = TestImage::with(DOCKER_MANIFEST, &config("x", &layers), layers);
    registry.add("app", "latest", &image);
    // Without a tag it is latest.
    let pulled = bed.pull(&format!("{}/app", registry.host())).await.unwrap();
    assert_eq!(pulled.id, image.id());
    assert_eq!(pulled.repo_tags, [registry.name("app", "latest")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors() {
    needs_root!();
    let (registry, lacking, bed) = (Registry::start().await, Registry::start().await, Bed::new().await);
    let image = small("x");
    registry.add("library/busybox", "latest", &image);
    bed.hosts(
        "docker.io",
        &format!(
            "server = \"http://127.0.0.1:9\"\n[host.\"http://{}\"]\n[host.\"http://{}\"]",
            lacking.host(),
            registry.host()
        ),
    );
    let pulled = bed.pull("busybox").await.unwrap();
    assert_eq!(pulled.repo_tags, ["docker.io/library/busybox:latest"]);
    assert_eq!(bed.store.get("docker.io/busybox").unwrap().unwrap(), pulled);
    assert!(lacking.count("/v2/library/busybox/manifests/latest") > 0);
    assert!(registry.requests().iter().all(|request| request.query == "ns=docker.io"));
    // A mirror that delivers rubbish is passed over as well.
    let other = small("other");
    for mirror in [&registry, &lacking] {
        mirror.add("library/other", "latest", &other);
    }
    lacking.always("/blobs/", Act::Garble);
    assert_eq!(bed.pull("other").await.unwrap().id, other.id());
    assert!(lacking.count("/blobs/") > 0);
    bed.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_not_downloaded_again() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let base = Layer::gzip(files(&[("base", b"base")]));
    let one = TestImage::new("one", vec![base.clone(), Layer::gzip(files(&[("one", b"1")]))]);
    // The same files in another blob are the same layer.
    let two =
        TestImage::new("two", vec![Layer::zstd(base.tar.clone()), Layer::gzip(files(&[("two", b"2")]))]);
    registry.add("one", "v1", &one);
    registry.add("two", "v1", &two);
    let first = bed.pull(&registry.name("one", "v1")).await.unwrap();
    registry.forget_requests();
    assert_eq!(bed.pull(&registry.name("one", "v1")).await.unwrap(), first);
    assert_eq!(registry.count(""), 1, "the manifest is asked for, nothing else");
    let second = bed.pull(&registry.name("two", "v1")).await.unwrap();
    assert_eq!(registry.count(&two.layers[0].digest()), 0);
    assert_eq!(registry.count(&two.layers[1].digest()), 1);
    assert_eq!(first.layers[0], second.layers[0]);
    bed.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_moves() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let (old, new) = (small("old"), small("new"));
    let name = registry.name("app", "v1");
    registry.add("app", "v1", &old);
    bed.pull(&name).await.unwrap();
    registry.add("app", "v1", &new);
    let pulled = bed.pull(&name).await.unwrap();
    assert_eq!((pulled.id.clone(), &pulled.repo_tags), (new.id(), &vec![name.clone()]));
    let left = bed.store.get(&old.id()).unwrap().unwrap();
    assert!(left.repo_tags.is_empty());
    assert_eq!(left.repo_digests, [format!("{}/app@{}", registry.host(), old.digest())]);
    assert_eq!(bed.store.get(&name).unwrap().unwrap().id, new.id());
    // And back, by a tag of our own.
    let tagged = bed.store.tag(&old.id(), &name).await.unwrap();
    assert_eq!(tagged.repo_tags, [&*name]);
    assert_eq!(bed.store.get(&name).unwrap().unwrap().id, old.id());
    let by_digest = format!("{}/app@{}", registry.host(), new.digest());
    bed.store.tag(&old.id(), &by_digest).await.unwrap_err();
    bed.store.tag(&small("none").id(), &name).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_layer_twice() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let a = Layer::gzip(files(&[("f", b"a")]));
    let b = Layer::gzip(files(&[("f", b"b"), ("g", b"b")]));
    let image = TestImage::new("x", vec![a.clone(), b, a]);
    registry.add("app", "v1", &image);
    let pulled = bed.pull(&registry.name("app", "v1")).await.unwrap();
    assert_eq!(pulled.layers.len(), 2);
    assert_eq!((seen(&pulled, "f").as_deref(), seen(&pulled, "g").as_deref()), (Some("a"), Some("b")));
    bed.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_layers() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    registry.add("app", "v1", &TestImage::new("x", Vec::new()));
    let pulled = bed.pull(&registry.name("app", "v1")).await.unwrap();
    let [root] = &pulled.layers[..] else { panic!("{pulled:?}") };
    assert_eq!(std::fs::read_dir(root).unwrap().count(), 0);
    assert_eq!(std::fs::metadata(root).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_layers() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    registry.add(
        "app",
        "v1",
        &TestImage::new("x", vec![Layer::gzip(archive(&[])), Layer::gzip(files(&[("a", b"")]))]),
    );
    let pulled = bed.pull(&registry.name("app", "v1")).await.unwrap();
    assert_eq!(pulled.layers.len(), 2);
    let bed = bed.reopen(|_| ()).await;
    assert_eq!(bed.store.list(), [pulled]);
}

/// `tmp` of the base is 1777; an upper layer has a file in it and no entry for `tmp`.
#[tokio::test(flavor = "multi_thread")]
async fn directories_that_a_layer_only_implies() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let base = Layer::gzip(archive(&[Entry::Directory("./", 0o755), Entry::Directory("tmp/", 0o1777)]));
    let image = TestImage::new("x", vec![base, Layer::gzip(files(&[("tmp/x", b"x")]))]);
    registry.add("app", "v1", &image);
    let pulled = bed.pull(&registry.name("app", "v1")).await.unwrap();
    assert_eq!(pulled.layers.len(), 3);
    let top = pulled.layers[2].join("tmp");
    let metadata = std::fs::metadata(&top).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o1777, 1_000_000));
    assert_eq!(seen(&pulled, "tmp/x").as_deref(), Some("x"));
    bed.assert_consistent().await;
    // It is kept, not made again; and goes with its image.
    let bed = bed.reopen(|_| ()).await;
    assert_eq!(bed.store.list(), [Arc::clone(&pulled)]);
    bed.assert_consistent().await;
    bed.store.remove(&pulled.id).await.unwrap();
    bed.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_connections_are_resumed() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let big = noise(3 << 20, 7);
    for (repository, ranges) in [("with", true), ("without", false)] {
        let layer = Layer::gzip(files(&[("big", &big), (repository, b"")]));
        let image = TestImage::new(repository, vec![layer]);
        registry.add(repository, "v1", &image);
        let path = image.layers[0].digest();
        registry.rule(move |request| {
            if !request.path.ends_with(&path) {
                return None;
            }
            match (request.earlier, ranges) {
                (0, _) | (1, true) => Some(Act::Cut(1 << 20)),
                (_, true) => None,
                (_, false) => Some(Act::Whole),
            }
        });
        let pulled = bed.pull(&registry.name(repository, "v1")).await.unwrap();
        let unpacked = std::fs::read(pulled.layers[0].join("big")).unwrap();
        assert!(unpacked == big);
        let ranges_asked: Vec<_> = registry
            .requests()
            .into_iter()
            .filter(|request| request.path.ends_with(&image.layers[0].digest()))
            .map(|request| request.header("range").map(str::to_owned))
            .collect();
        assert_eq!(ranges_asked[0], None);
        assert!(ranges_asked[1].as_ref().unwrap().starts_with("bytes="), "{ranges_asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_that_passes() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    registry.add("app", "v1", &small("x"));
    registry.rule(|request| match request.earlier {
        0 if request.is_manifest() => Some(Act::Answer(503, Vec::new(), Vec::new())),
        0 => Some(Act::HangUp),
        1 if request.is_blob() => Some(Act::Answer(429, Vec::new(), Vec::new())),
        _ => None,
    });
    bed.pull(&registry.name("app", "v1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn progress() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let shared = Layer::gzip(files(&[("s", b"s")]));
    registry.add("base", "v1", &TestImage::new("base", vec![shared.clone()]));
    bed.pull(&registry.name("base", "v1")).await.unwrap();
    let layers = vec![
        shared,
        Layer::gzip(files(&[("a", &noise(200_000, 1))])),
        Layer::gzip(files(&[("b", &noise(300_000, 2))])),
    ];
    let total: usize = layers[1..].iter().map(|layer| layer.blob.len()).sum();
    registry.add("app", "v1", &TestImage::new("x", layers));
    let told: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let tell = {
        let told = Arc::clone(&told);
        Arc::new(move |progress| told.lock().unwrap().push(progress))
    };
    bed.store.pull(&registry.name("app", "v1"), None, Some(tell)).await.unwrap();
    let told = told.lock().unwrap();
    assert!(told.iter().all(|state| state.layers == 3 && state.total_bytes == total as u64));
    assert!(told.is_sorted_by_key(|state| state.bytes) && told.is_sorted_by_key(|state| state.layers_done));
    assert_eq!(told.first().unwrap().layers_done, 1);
    let last = told.last().unwrap();
    assert_eq!((last.layers_done, last.bytes), (3, total as u64));
    assert_eq!(last.reference, registry.name("app", "v1"));
}
