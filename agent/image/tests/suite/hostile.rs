//! Registries that lie, stall or flood: a typed error in time, and nothing of it in the store.

use std::time::{Duration, Instant};

use holdfast_image::{Error, ErrorKind};
use holdfast_model::Credentials;
use serde_json::json;

use crate::bed::{Bed, PROGRESS_TIMEOUT};
use crate::images::{Entry, Layer, OCI_INDEX, TestImage, archive, config, digest, files, noise, small};
use crate::needs_root;
use crate::registry::{Act, Registry};

const SECRET: &str = "hunter2-and-more";

fn credentials() -> Credentials {
    Credentials { username: "user".into(), password: SECRET.into(), ..Credentials::default() }
}

/// The error of a pull with credentials. It comes in time, does not show them, and nothing is left.
async fn refused(registry: &Registry, bed: &Bed, name: &str) -> Error {
    let begin = Instant::now();
    let error = bed.store.pull(name, Some(credentials()), None).await.expect_err(name);
    assert!(begin.elapsed() < Duration::from_secs(20), "{error} after {:?}", begin.elapsed());
    let mut shown = vec![format!("{error:?} {error}")];
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        shown.push(format!("{cause:?} {cause}"));
        source = cause.source();
    }
    let shown = shown.join(" ");
    assert!(!shown.contains(SECRET) && !shown.contains("dXNlcjpodW50"), "{shown}");
    assert!(shown.len() < 4096, "{} bytes of message", shown.len());
    bed.assert_empty().await;
    // And the store is none the worse for it.
    registry.be_good();
    let good = small("good");
    registry.add("good", "v1", &good);
    bed.pull(&registry.name("good", "v1")).await.unwrap();
    bed.store.remove(&good.id()).await.unwrap();
    bed.assert_empty().await;
    error
}

/// An image of some size, so that its layer does not fit into one packet.
fn image() -> TestImage {
    TestImage::new("x", vec![Layer::gzip(files(&[("f", &noise(200_000, 5))]))])
}

/// A pull of [`image`] from a registry that answers requests for its layer like this.
async fn layer(act: Act) -> Error {
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    registry.add("app", "v1", &image());
    registry.always(image().layers[0].digest(), act);
    refused(&registry, &bed, &registry.name("app", "v1")).await
}

async fn manifest(act: Act) -> Error {
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    registry.add("app", "v1", &image());
    registry.always("/manifests/", act);
    refused(&registry, &bed, &registry.name("app", "v1")).await
}

async fn configuration(act: Act) -> Error {
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    registry.add("app", "v1", &image());
    registry.always(image().id(), act);
    refused(&registry, &bed, &registry.name("app", "v1")).await
}

fn answer(status: u16) -> Act {
    Act::Answer(status, Vec::new(), Vec::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes() {
    needs_root!();
    for error in [layer(Act::Garble).await, configuration(Act::Garble).await] {
        assert!(matches!(root(&error), Error::DigestMismatch { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_lengths() {
    needs_root!();
    let size = image().layers[0].blob.len() as u64;
    for act in [
        Act::Length(size + 1),
        Act::Length(size - 1),
        Act::Length(u64::MAX / 2),
        Act::Length(0),
        Act::Endless,
    ] {
        let error = layer(act.clone()).await;
        assert!(matches!(root(&error), Error::SizeMismatch { .. }), "{act:?}: {error}");
        let error = configuration(act.clone()).await;
        assert!(
            matches!(root(&error), Error::SizeMismatch { .. } | Error::DigestMismatch { .. }),
            "{act:?}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_trickle() {
    needs_root!();
    for (act, stage) in [(Act::Silence, "the answer"), (Act::Stall(100_000), "data"), (Act::Trickle, "data")]
    {
        let begin = Instant::now();
        let error = layer(act.clone()).await;
        let Error::Stalled { stage: told, timeout, .. } = root(&error) else { panic!("{act:?}: {error}") };
        assert_eq!((told.as_str(), *timeout), (stage, PROGRESS_TIMEOUT));
        assert!(begin.elapsed() < PROGRESS_TIMEOUT * 4, "{act:?}");
    }
    for error in
        [manifest(Act::Silence).await, manifest(Act::Stall(10)).await, configuration(Act::Silence).await]
    {
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_connections() {
    needs_root!();
    let cases = [Act::HangUp, Act::Cut(100), Act::Noise].map(|act| {
        tokio::spawn(async move {
            let (a, b, c) =
                tokio::join!(layer(act.clone()), manifest(act.clone()), configuration(act.clone()));
            for error in [a, b, c] {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{act:?}: {error}");
                assert!(error.to_string().starts_with("RegistryUnavailable"), "{error}");
            }
        })
    });
    for case in cases {
        case.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listens() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let error = refused(&registry, &bed, "127.0.0.1:1/app:v1").await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses() {
    needs_root!();
    let cases = [
        (401, ErrorKind::Unauthenticated),
        (403, ErrorKind::Denied),
        (404, ErrorKind::NotFound),
        (410, ErrorKind::Unavailable),
        (429, ErrorKind::Unavailable),
        (500, ErrorKind::Unavailable),
        (503, ErrorKind::Unavailable),
    ];
    let cases = cases.map(|(status, kind)| {
        tokio::spawn(async move {
            let (a, b) = tokio::join!(manifest(answer(status)), layer(answer(status)));
            for error in [a, b] {
                assert_eq!(error.kind(), kind, "{status}: {error}");
            }
        })
    });
    for case in cases {
        case.await.unwrap();
    }
    // The registry's own words are told, up to a point and without control characters.
    let said = json!({ "errors": [{ "code": "TOOMANYREQUESTS", "message": format!("slow\ndown{}", "!".repeat(100_000)) }] });
    let error = manifest(Act::Answer(403, Vec::new(), said.to_string().into_bytes())).await.to_string();
    assert!(!error.contains('\n') && error.len() < 1000, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn challenges_that_lead_nowhere() {
    needs_root!();
    let challenge = |text: &str| Act::Answer(401, vec![("www-authenticate", text.to_owned())], Vec::new());
    let cases = [
        challenge("Basic realm=\"x\""),
        challenge("Digest realm=\"x\""),
        challenge("Bearer realm=\"not a url\""),
        challenge("Bearer realm=\"file:///etc/passwd\""),
        challenge("Bearer service=\"no realm\""),
        challenge(&format!("Bearer realm=\"{}\"", "x".repeat(20_000))),
    ];
    for act in cases {
        let error = manifest(act.clone()).await;
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{act:?}: {error}");
    }
    // The token server itself misbehaves.
    let tokens = [
        (answer(401), ErrorKind::Unauthenticated),
        (answer(500), ErrorKind::Unavailable),
        (Act::Answer(200, Vec::new(), b"{}".to_vec()), ErrorKind::Unauthenticated),
        (Act::Answer(200, Vec::new(), b"{\"token\": \"no\\nheader\"}".to_vec()), ErrorKind::Unauthenticated),
        (Act::Answer(200, Vec::new(), b"<html>".to_vec()), ErrorKind::Unauthenticated),
        (Act::Silence, ErrorKind::DeadlineExceeded),
        (Act::HangUp, ErrorKind::Unavailable),
    ];
    for (act, kind) in tokens {
        let (registry, bed) = (Registry::start().await, Bed::new().await);
        registry.always("/token", act.clone());
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", registry.host());
        registry.always("/v2/", challenge(&realm));
        let error = refused(&registry, &bed, &registry.name("app", "v1")).await;
        assert_eq!(error.kind(), kind, "{act:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_token() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let realm = format!("Bearer realm=\"http://{}/v2/t/manifests/t\"", registry.host());
    registry.manifest("t", "t", "application/json", b"x");
    registry.always("/v2/t/", Act::Endless);
    registry.always("/v2/", Act::Answer(401, vec![("www-authenticate", realm)], Vec::new()));
    let error = refused(&registry, &bed, &registry.name("app", "v1")).await;
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

/// A registry with tokens works, and each party sees only what is for it.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_where_they_belong() {
    needs_root!();
    let (registry, elsewhere, bed) = (Registry::start().await, Registry::start().await, Bed::new().await);
    let image = image();
    registry.add("app", "v1", &image);
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"s\",scope=\"repository:app:pull\"",
        registry.host()
    );
    registry.always("/token", Act::Answer(200, Vec::new(), b"{\"token\":\"tok\"}".to_vec()));
    registry.rule(move |request| {
        (request.header("authorization") != Some("Bearer tok"))
            .then(|| Act::Answer(401, vec![("www-authenticate", realm.clone())], Vec::new()))
    });
    // The layer lies on another host; an address of the same machine by another name is one.
    let blob = format!("/v2/app/blobs/{}", image.layers[0].digest());
    elsewhere.blob("app", &image.layers[0].digest(), &image.layers[0].blob);
    let location = format!("http://localhost:{}{blob}", elsewhere.host().rsplit_once(':').unwrap().1);
    registry.always(image.layers[0].digest(), Act::Answer(307, vec![("location", location)], Vec::new()));
    let pulled = bed.store.pull(&registry.name("app", "v1"), Some(credentials()), None).await.unwrap();
    assert_eq!(pulled.id, image.id());
    let (tokens, others): (Vec<_>, Vec<_>) =
        registry.requests().into_iter().partition(|request| request.path == "/token");
    assert_eq!(tokens.len(), 1);
    assert!(tokens[0].header("authorization").unwrap().starts_with("Basic "));
    assert!(
        tokens[0].query.contains("service=s") && tokens[0].query.contains("scope=repository%3Aapp%3Apull")
    );
    assert!(
        others
            .iter()
            .all(|request| request.header("authorization").is_none_or(|value| value == "Bearer tok"))
    );
    assert_eq!(elsewhere.requests().len(), 1);
    assert_eq!(elsewhere.requests()[0].header("authorization"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_that_lead_nowhere() {
    needs_root!();
    let round = format!("/v2/app/blobs/{}", image().layers[0].digest());
    let cases =
        [round.as_str(), "file:///etc/passwd", "http://", "//", "gopher://127.0.0.1/"].map(|location| {
            let act = Act::Answer(302, vec![("location", location.to_owned())], Vec::new());
            tokio::spawn(async move {
                let error = layer(act.clone()).await;
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{act:?}: {error}");
            })
        });
    for case in cases {
        case.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_manifests() {
    needs_root!();
    for act in [Act::Endless, Act::Length(1 << 40), Act::Answer(200, Vec::new(), vec![b' '; 5 << 20])] {
        let error = manifest(act.clone()).await;
        assert!(matches!(error, Error::TooLarge { .. }), "{act:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_under_a_wrong_digest() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let (image, other) = (image(), small("other"));
    registry.add("app", "v1", &other);
    registry.manifest("app", &image.digest(), &other.kind, &other.manifest);
    let name = format!("{}/app@{}", registry.host(), image.digest());
    let error = refused(&registry, &bed, &name).await;
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    // By tag the header is what lies.
    let headers = vec![("docker-content-digest", image.digest()), ("content-type", other.kind.clone())];
    registry.always("/manifests/v1", Act::Answer(200, headers, other.manifest.clone()));
    let error = refused(&registry, &bed, &registry.name("app", "v1")).await;
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    // And the child of an index.
    let index =
        json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [image.descriptor()] }).to_string();
    registry.manifest("app", "index", OCI_INDEX, index.as_bytes());
    let error = refused(&registry, &bed, &registry.name("app", "index")).await;
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_leads_in_a_circle() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    // A real circle needs a broken hash; a long chain has to do.
    let mut next = small("x").descriptor();
    for _ in 0..10 {
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [next] }).to_string();
        registry.manifest("app", &digest(index.as_bytes()), OCI_INDEX, index.as_bytes());
        registry.manifest("app", "v1", OCI_INDEX, index.as_bytes());
        next = json!({ "mediaType": OCI_INDEX, "digest": digest(index.as_bytes()), "size": index.len() });
    }
    let error = refused(&registry, &bed, &registry.name("app", "v1")).await;
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(registry.count("/v2/app/") < 8);
}

/// The configuration promises other files than the layer holds.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_diff_ids() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let real = Layer::gzip(files(&[("f", b"evil")]));
    let promised = Layer::gzip(files(&[("f", b"good")]));
    let image = TestImage::with(
        crate::images::OCI_MANIFEST,
        &config("x", std::slice::from_ref(&promised)),
        vec![real],
    );
    registry.add("app", "v1", &image);
    let error = refused(&registry, &bed, &registry.name("app", "v1")).await;
    let Error::DigestMismatch { expected, .. } = root(&error) else { panic!("{error}") };
    assert_eq!(*expected, promised.diff_id());
    // Too few and too many of them.
    for layers in [Vec::new(), vec![promised.clone(), promised.clone()]] {
        let layer = Layer::gzip(files(&[("f", b"good")]));
        let image = TestImage::with(crate::images::OCI_MANIFEST, &config("x", &layers), vec![layer]);
        registry.add("app", "v1", &image);
        let error = refused(&registry, &bed, &registry.name("app", "v1")).await;
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }
}

/// Good digests of bad content.
#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_none() {
    needs_root!();
    let mut cut = Layer::gzip(files(&[("f", &noise(50_000, 1))]));
    cut.blob.truncate(20_000);
    let mut rubbish = Layer::plain(vec![0xaa; 4096]);
    rubbish.kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let cases = [
        cut,
        rubbish,
        Layer::gzip(archive(&[Entry::File("../escape", b"x")])),
        Layer::gzip(archive(&[Entry::Symlink("l", "/"), Entry::HardLink("h", "l/etc/passwd")])),
        Layer::gzip(archive(&[Entry::File(".wh...", b"")])),
    ];
    for layer in cases {
        let (registry, bed) = (Registry::start().await, Bed::new().await);
        registry.add("app", "v1", &TestImage::new("x", vec![layer]));
        let error = refused(&registry, &bed, &registry.name("app", "v1")).await;
        assert!(matches!(root(&error), Error::Corrupt { .. }), "{error}");
    }
}

/// The registry of one image cannot make the pull of another one fail, or wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_registry_does_not_hold_up_a_good_one() {
    needs_root!();
    let (good, bad, bed) = (Registry::start().await, Registry::start().await, Bed::new().await);
    let image = image();
    good.add("app", "v1", &image);
    bad.add("app", "v1", &image);
    bad.always(image.layers[0].digest(), Act::Stall(100));
    let slow = {
        let (store, name) = (bed.store.clone(), bad.name("app", "v1"));
        tokio::spawn(async move { store.pull(&name, None, None).await })
    };
    crate::bed::eventually("the bad one is at the layer", || bad.count(&image.layers[0].digest()) > 0).await;
    bed.pull(&good.name("app", "v1")).await.unwrap();
    assert_eq!(slow.await.unwrap().unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    bed.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_configuration_that_cannot_be_read() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    bed.hosts("r.example", "[host");
    let error = refused(&registry, &bed, "r.example/app:v1").await;
    assert!(matches!(error, Error::Config { .. }), "{error}");
    let error = refused(&registry, &bed, "https://r.example/app").await;
    assert!(matches!(error, Error::InvalidReference { .. }), "{error}");
}

/// Behind a failure that several pulls may share.
fn root(error: &Error) -> &Error {
    match error {
        Error::Shared(shared) => root(shared),
        Error::Hosts { worst, .. } => root(worst),
        other => other,
    }
}
