//! What is taken for a manifest or a configuration, and what is not.

use oci_client::manifest as media;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::platform::architecture;
use super::*;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn digest(of: &str) -> String {
    Digest::of(of.as_bytes()).to_string()
}

fn image() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_IMAGE_MEDIA_TYPE,
        "config": { "mediaType": media::IMAGE_CONFIG_MEDIA_TYPE, "digest": digest("config"), "size": 10 },
        "layers": [{ "mediaType": LAYER, "digest": digest("layer"), "size": 20 }],
    })
}

fn changed(change: impl Fn(&mut Value)) -> Value {
    let mut manifest = image();
    change(&mut manifest);
    manifest
}

fn index(manifests: &Value) -> Value {
    json!({ "schemaVersion": 2, "mediaType": media::OCI_IMAGE_INDEX_MEDIA_TYPE, "manifests": manifests })
}

fn entry(mark: &str, platform: &Value) -> Value {
    let mut entry = json!({ "mediaType": media::OCI_IMAGE_MEDIA_TYPE, "digest": digest(mark), "size": 1 });
    if !platform.is_null() {
        entry["platform"] = platform.clone();
    }
    entry
}

fn here() -> Value {
    json!({ "os": "linux", "architecture": architecture() })
}

fn parse(manifest: &Value) -> Result<Manifest, Error> {
    Manifest::parse("m", manifest.to_string().as_bytes())
}

fn start(document: &Value) -> Result<(Search, Step), Error> {
    let body = document.to_string().into_bytes();
    Search::start("x", &Digest::of(&body), body)
}

/// The digest of the manifest that the search of an index asks for first.
fn chosen(manifests: &Value) -> Result<String, Error> {
    match start(&index(manifests))? {
        (_, Step::Manifest(entry)) => Ok(entry.digest.to_string()),
        (_, other) => panic!("{other:?}"),
    }
}

#[test]
fn images() {
    let docker = json!({
        "schemaVersion": 2,
        "mediaType": media::IMAGE_MANIFEST_MEDIA_TYPE,
        "config": { "mediaType": media::IMAGE_DOCKER_CONFIG_MEDIA_TYPE, "digest": digest("config"), "size": 10 },
        "layers": [
            { "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": digest("layer"), "size": 20 }
        ],
    });
    let bare = changed(|m| drop(m.as_object_mut().unwrap().remove("mediaType")));
    let empty = changed(|m| m["mediaType"] = json!(""));
    for manifest in [&image(), &docker, &bare, &empty] {
        let Manifest::Image(ImageManifest { config, layers, .. }) = parse(manifest).unwrap() else {
            panic!("{manifest}")
        };
        assert_eq!((config.digest.to_string(), config.size), (digest("config"), 10));
        assert_eq!((layers[0].digest.to_string(), layers[0].size), (digest("layer"), 20));
    }
}

/// Docker's and OCI's names, foreign layers, and each compression in both spellings; the bytes decide how to read them.
#[test]
fn every_media_type_of_a_layer() {
    for base in [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ] {
        for compression in ["", "+gzip", ".gzip", "+zstd", ".zstd"] {
            let kind = format!("{base}{compression}");
            parse(&changed(|m| m["layers"][0]["mediaType"] = json!(kind))).unwrap();
        }
    }
    parse(&changed(|m| drop(m["layers"][0].as_object_mut().unwrap().remove("mediaType")))).unwrap();
    for kind in [
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.oci.image.layer.v1.tarball",
        "application/vnd.docker.image.rootfs.diff.tar.xz",
        "application/vnd.in-toto+json",
        "application/octet-stream",
    ] {
        let manifest = changed(|m| m["layers"][0]["mediaType"] = json!(kind));
        let error = parse(&manifest).unwrap_err().to_string();
        assert!(error.contains(kind) && error.contains("are supported"), "{error}");
    }
}

#[test]
fn what_is_refused() {
    let cases = [
        ("schema version 1", changed(|m| m["schemaVersion"] = json!(1))),
        ("schema version 1", changed(|m| m["fsLayers"] = json!([]))),
        ("both an image and an index", changed(|m| m["manifests"] = json!([]))),
        (
            "both an image and an index",
            changed(|m| {
                m["manifests"] = json!([entry("x", &here())]);
                m.as_object_mut().unwrap().remove("config");
            }),
        ),
        ("lists no manifests", changed(|m| m["mediaType"] = json!(media::OCI_IMAGE_INDEX_MEDIA_TYPE))),
        ("says that it is an image", {
            let mut index = index(&json!([entry("a", &here())]));
            index["mediaType"] = json!(media::IMAGE_MANIFEST_MEDIA_TYPE);
            index
        }),
        (
            "is not an image",
            changed(|m| m["mediaType"] = json!("application/vnd.oci.artifact.manifest.v1+json")),
        ),
        ("no config or no layers", changed(|m| drop(m.as_object_mut().unwrap().remove("config")))),
        ("no config or no layers", changed(|m| drop(m.as_object_mut().unwrap().remove("layers")))),
        ("no config or no layers", json!({ "errors": [] })),
        (
            "not a container image",
            changed(|m| {
                m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
                m["layers"][0]["mediaType"] = json!("application/vnd.cncf.helm.chart.content.v1.tar+gzip");
            }),
        ),
        ("only sha256", changed(|m| m["layers"][0]["digest"] = json!(format!("sha512:{}", "0".repeat(128))))),
        ("64", changed(|m| m["layers"][0]["digest"] = json!("sha256:../../etc/passwd"))),
        (
            "lower-case",
            changed(|m| m["layers"][0]["digest"] = json!(digest("x").to_uppercase().replace("SHA", "sha"))),
        ),
        ("the size of", changed(|m| m["layers"][0]["size"] = json!(-1))),
        ("larger than", changed(|m| m["layers"][0]["size"] = json!(1_u64 << 40))),
        ("larger than", changed(|m| m["config"]["size"] = json!(LARGEST_CONFIG + 1))),
        ("not a manifest", changed(|m| m["layers"][0]["size"] = json!(1.5))),
        ("not a manifest", changed(|m| m["layers"][0]["size"] = json!("20"))),
        (
            "larger than",
            changed(|m| m["layers"] = Value::from(vec![m["layers"][0].clone(); MOST_LAYERS + 1])),
        ),
        ("not a manifest", json!([])),
        ("not a manifest", json!("x".repeat(100_000))),
        ("only for", index(&json!([entry("a", &json!({ "os": "windows", "architecture": "amd64" }))]))),
        ("only for", index(&json!([]))),
    ];
    for (want, manifest) in cases {
        let error = start(&manifest).unwrap_err().to_string();
        assert!(error.contains(want) && error.len() < 1000, "{want}: {error}");
    }
    // The same name twice is one thing to one reader and another to the next.
    let twice = image().to_string().replacen('{', "{\"layers\": [],", 1);
    Manifest::parse("m", twice.as_bytes()).unwrap_err();
}

#[test]
fn the_best_platform_is_chosen() {
    let other = json!({ "os": "linux", "architecture": "sparc64" });
    let windows = json!({ "os": "windows", "architecture": architecture() });
    let unknown = json!({ "os": "unknown", "architecture": "unknown" });
    let higher = json!({ "os": "linux", "architecture": architecture(), "variant": "v9" });
    let erofs = json!({ "os": "linux", "architecture": architecture(), "os.features": ["erofs"] });
    let shouted = json!({ "os": "Linux", "architecture": architecture().to_uppercase() });
    let mut cases = vec![
        (json!([entry("other", &other), entry("here", &here())]), "here"),
        (json!([entry("windows", &windows), entry("here", &here()), entry("again", &here())]), "here"),
        (json!([entry("higher", &higher), entry("here", &here())]), "here"),
        (json!([entry("erofs", &erofs), entry("here", &here())]), "here"),
        (json!([entry("bare", &Value::Null), entry("here", &here())]), "here"),
        (json!([entry("other", &other), entry("shouted", &shouted)]), "shouted"),
        (json!([entry("unknown", &unknown), entry("bare", &Value::Null)]), "bare"),
        (json!([entry("empty", &json!({})), entry("bare", &Value::Null)]), "empty"),
    ];
    if architecture() == "amd64" {
        let older = json!({ "os": "linux", "architecture": "i386" });
        cases.push((json!([entry("older", &older), entry("here", &here())]), "here"));
        cases.push((json!([entry("bare", &Value::Null), entry("older", &older)]), "older"));
    }
    for (manifests, want) in cases {
        assert_eq!(chosen(&manifests).unwrap(), digest(want), "{manifests}");
    }
    // Names of platforms are a stranger's text.
    let strange = json!({ "os": "\u{1b}[31m".repeat(1000), "architecture": "x" });
    let error = chosen(&json!([entry("a", &strange)])).unwrap_err().to_string();
    assert!(!error.contains('\u{1b}') && error.len() < 4000, "{error}");
}

/// Attestations, signatures and other artifacts that an index lists beside its image.
#[test]
fn what_is_no_image_is_passed_over() {
    let with = |key: &str, value: Value| {
        let mut entry = entry("artifact", &Value::Null);
        entry[key] = value;
        entry
    };
    let artifacts = [
        with("artifactType", json!("application/vnd.dev.cosign.artifact.sig.v1+json")),
        with("annotations", json!({ "vnd.docker.reference.type": "attestation-manifest" })),
        with("mediaType", json!("application/vnd.oci.artifact.manifest.v1+json")),
        with("platform", json!({ "os": "unknown", "architecture": "unknown" })),
    ];
    for artifact in artifacts {
        assert_eq!(chosen(&json!([artifact, entry("image", &Value::Null)])).unwrap(), digest("image"));
        chosen(&json!([artifact])).unwrap_err();
    }
    // The referrers of registries name the type of an image's configuration.
    let named = with("artifactType", json!(media::IMAGE_CONFIG_MEDIA_TYPE));
    assert_eq!(chosen(&json!([named])).unwrap(), digest("artifact"));
}

fn manifest_for(config: &Value) -> Vec<u8> {
    let body = config.to_string();
    let mut manifest = image();
    manifest["config"] = json!({ "digest": digest(&body), "size": body.len() });
    manifest.to_string().into_bytes()
}

fn config_for(architecture: &str) -> Value {
    json!({
        "os": "linux", "architecture": architecture, "rootfs": { "type": "layers", "diff_ids": [digest("a")] }
    })
}

/// Runs a search over bodies by their digests.
fn search(document: &Value, bodies: &[Vec<u8>]) -> Result<Found, Error> {
    let (mut search, mut step) = start(document)?;
    loop {
        let wanted = match step {
            Step::Found(found) => return Ok(*found),
            Step::Manifest(wanted) | Step::Config(wanted) => wanted,
        };
        let body = bodies.iter().find(|body| Digest::of(body) == wanted.digest).unwrap();
        step = search.feed(body.clone())?;
    }
}

#[test]
fn the_index_decides_over_the_configuration() {
    let config = config_for("s390x");
    let manifest = manifest_for(&config);
    let listed = |platform: Value| {
        let mut entry = entry("", &platform);
        entry["digest"] = json!(Digest::of(&manifest).to_string());
        index(&json!([entry]))
    };
    let bodies = [manifest.clone(), config.to_string().into_bytes()];
    let found = search(&listed(here()), &bodies).unwrap();
    assert_eq!((found.manifest, found.config_body), (bodies[0].clone(), bodies[1].clone()));
    // Where it says nothing, and where there is none, the configuration counts.
    for document in [listed(Value::Null), serde_json::from_slice(&manifest).unwrap()] {
        let error = search(&document, &bodies).unwrap_err().to_string();
        assert!(error.contains("for linux/s390x, this machine is linux/"), "{error}");
    }
}

/// Entries without a platform are tried in their order, until one is an image for here.
#[test]
fn entries_that_do_not_say_for_what_they_are() {
    let configs = [config_for("s390x"), json!({}), config_for(architecture()), config_for(architecture())];
    let mut bodies: Vec<Vec<u8>> = configs.iter().map(manifest_for).collect();
    let listed = |body: &Vec<u8>| json!({ "digest": Digest::of(body).to_string(), "size": body.len() });
    let document = index(&Value::from(bodies.iter().map(listed).collect::<Vec<_>>()));
    bodies.extend(configs.iter().map(|config| config.to_string().into_bytes()));
    let found = search(&document, &bodies).unwrap();
    assert_eq!(found.id.to_string(), digest(&configs[2].to_string()));
    // If none is, the first failure is told; and an index does not make us ask for ever.
    let document = index(&Value::from(vec![listed(&bodies[0]); 1000]));
    let error = search(&document, &bodies).unwrap_err().to_string();
    assert!(error.contains("for linux/s390x"), "{error}");
}

#[test]
fn layouts_list_what_may_fit() {
    let mut named = entry("here", &here());
    named["annotations"] = json!({ "io.containerd.image.name": "x:1" });
    let mut signature = entry("signature", &Value::Null);
    signature["mediaType"] = json!("application/vnd.example.signature");
    let s390x = json!({ "os": "linux", "architecture": "s390x" });
    let manifests = json!([named, entry("s390x", &s390x), entry("bare", &Value::Null), signature]);
    let listed = list("i", index(&manifests).to_string().as_bytes()).unwrap();
    assert_eq!(listed.iter().map(|entry| entry.fits).collect::<Vec<_>>(), [Some(true), Some(false), None]);
    assert_eq!(listed[0].annotations["io.containerd.image.name"], "x:1");
    assert!(list("i", image().to_string().as_bytes()).is_err());
}

#[test]
fn configurations() {
    let config = json!({
        "os": "linux", "architecture": architecture(), "created": "2026-01-01T00:00:00Z",
        "config": {
            "User": "1:2", "Env": ["A=b", "NO_EQUALS"], "Entrypoint": ["/e"], "Cmd": null, "WorkingDir": "/w",
            "StopSignal": "SIGINT", "Volumes": { "/v": {}, "/a": null }, "Labels": { "x": "y" }, "ExposedPorts": {}
        },
        "rootfs": { "type": "layers", "diff_ids": [digest("a"), digest("b")] },
        "history": [{}],
    });
    let parse = |config: &Value| {
        let config = Config::parse("c", config.to_string().as_bytes())?;
        config.check_layers("c", 2)?;
        config.check_platform("c")?;
        Ok::<_, Error>(config)
    };
    let parsed = parse(&config).unwrap();
    assert_eq!(parsed.image.volumes, ["/a", "/v"]);
    assert_eq!(
        (parsed.image.env.len(), parsed.image.cmd.len(), parsed.image.working_dir.as_str()),
        (2, 0, "/w")
    );
    assert_eq!(parsed.diff_ids.len(), 2);
    // As little as there may be: what FROM scratch gives.
    let least =
        Config::parse("c", br#"{"rootfs":{"type":"layers","diff_ids":null},"config":null,"os":null}"#)
            .unwrap();
    assert_eq!((least.image.clone(), least.diff_ids.len()), (holdfast_model::ImageConfig::default(), 0));
    least.check_platform("c").unwrap();
    for (key, value) in [
        ("os", json!("Linux")),
        ("architecture", json!(architecture().to_uppercase())),
        ("architecture", json!("")),
        ("variant", json!("v3")),
    ] {
        let mut changed = config.clone();
        changed[key] = value;
        parse(&changed).unwrap();
    }
    for (want, key, value) in [
        ("diff_ids for", "rootfs", json!({ "type": "layers", "diff_ids": [digest("a")] })),
        ("of type", "rootfs", json!({ "type": "windows", "diff_ids": [] })),
        ("diff_ids:", "rootfs", json!({ "diff_ids": ["a", "b"] })),
        ("this machine is", "os", json!("windows")),
        ("this machine is", "architecture", json!("s390x")),
        ("not an image configuration", "config", json!({ "Env": "A=b" })),
        ("not an image configuration", "rootfs", Value::Null),
    ] {
        let mut changed = config.clone();
        changed[key] = value;
        let error = parse(&changed).unwrap_err().to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
}

/// Old registries wrote anything for the media type of a configuration: its content decides.
#[test]
fn configurations_of_any_media_type() {
    for kind in ["application/octet-stream", "text/html", "application/vnd.cncf.helm.config.v1+json", ""] {
        let odd = |config: &Value| {
            let mut manifest: Value = serde_json::from_slice(&manifest_for(config)).unwrap();
            manifest["config"]["mediaType"] = json!(kind);
            manifest
        };
        let config = config_for(architecture());
        search(&odd(&config), &[config.to_string().into_bytes()]).unwrap();
        let chart = json!({ "name": "chart" });
        let error = search(&odd(&chart), &[chart.to_string().into_bytes()]).unwrap_err().to_string();
        let want = if kind.is_empty() { "not an image configuration" } else { "not a container image" };
        assert!(error.contains(kind) && error.contains(want), "{error}");
    }
}

/// A value for any place of a document.
fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(json!(u64::MAX)),
        Just(json!(1e99)),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[]])),
        "[ -~]{0,20}".prop_map(Value::from),
        Just(here()),
        Just(json!([entry("nested", &Value::Null)])),
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Manifest::parse("m", &bytes);
        let _ = Config::parse("c", &bytes);
        let _ = list("i", &bytes);
    }

    /// JSON of about the right shape, with wrong values in any place.
    #[test]
    fn odd_manifests_are_parsed_or_refused(
        at in "(/schemaVersion|/mediaType|/config|/config/size|/config/digest|/config/mediaType|/layers|/layers/0|/layers/0/size|/layers/0/digest|/layers/0/mediaType)",
        value in values(),
    ) {
        let mut manifest = image();
        *manifest.pointer_mut(&at).unwrap() = value;
        let _ = parse(&manifest);
    }

    #[test]
    fn odd_indexes_lead_somewhere_or_are_refused(
        at in "(/manifests|/manifests/0|/manifests/0/digest|/manifests/0/mediaType|/manifests/0/platform|/manifests/0/platform/os|/manifests/0/platform/architecture|/manifests/0/artifactType|/manifests/0/annotations)",
        value in values(),
        answer in values(),
    ) {
        let mut first = entry("a", &here());
        first["artifactType"] = json!("");
        first["annotations"] = json!({});
        let mut document = index(&json!([first, entry("b", &Value::Null)]));
        *document.pointer_mut(&at).unwrap() = value;
        if let Ok((mut search, _)) = start(&document) {
            // Whatever it asks for, it gets this; it ends.
            for _ in 0..100 {
                if search.feed(answer.to_string().into_bytes()).is_err() {
                    break;
                }
            }
        }
    }
}
