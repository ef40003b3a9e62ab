//! What is taken for a manifest or a configuration, and what is not.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn digest(of: &str) -> String {
    Digest::of(of.as_bytes()).to_string()
}

fn image() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_IMAGE_MEDIA_TYPE,
        "config": { "mediaType": media::IMAGE_CONFIG_MEDIA_TYPE, "digest": digest("config"), "size": 10 },
        "layers": [{ "mediaType": LAYER_TYPES[1], "digest": digest("layer"), "size": 20 }],
    })
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

fn parse(manifest: &Value, content_type: Option<&str>) -> Result<Manifest, Error> {
    Manifest::parse("m", manifest.to_string().as_bytes(), content_type)
}

#[test]
fn images() {
    let docker = json!({
        "schemaVersion": 2,
        "mediaType": media::IMAGE_MANIFEST_MEDIA_TYPE,
        "config": { "mediaType": media::IMAGE_DOCKER_CONFIG_MEDIA_TYPE, "digest": digest("config"), "size": 10 },
        "layers": [{ "mediaType": LAYER_TYPES[7], "digest": digest("layer"), "size": 20 }],
    });
    let mut bare = image();
    bare.as_object_mut().unwrap().remove("mediaType");
    for (manifest, content_type) in [
        (&image(), None),
        (&image(), Some(media::OCI_IMAGE_MEDIA_TYPE)),
        (&image(), Some("text/plain")),
        (&docker, Some(media::IMAGE_MANIFEST_MEDIA_TYPE)),
        (&bare, None),
        (&bare, Some("application/octet-stream")),
    ] {
        let Manifest::Image { config, layers } = parse(manifest, content_type).unwrap() else {
            panic!("{manifest}")
        };
        assert_eq!((config.digest.to_string(), config.size), (digest("config"), 10));
        assert_eq!((layers[0].digest.to_string(), layers[0].size), (digest("layer"), 20));
    }
}

#[test]
fn what_is_refused() {
    let change = |change: &dyn Fn(&mut Value)| {
        let mut manifest = image();
        change(&mut manifest);
        manifest
    };
    let cases = [
        ("schema version 1", change(&|m| m["schemaVersion"] = json!(1))),
        ("schema version 1", change(&|m| m["fsLayers"] = json!([]))),
        ("both an image and an index", change(&|m| m["manifests"] = json!([]))),
        ("lists no manifests", change(&|m| m["mediaType"] = json!(media::OCI_IMAGE_INDEX_MEDIA_TYPE))),
        (
            "is not an image",
            change(&|m| m["mediaType"] = json!("application/vnd.oci.artifact.manifest.v1+json")),
        ),
        ("no config or no layers", change(&|m| drop(m.as_object_mut().unwrap().remove("config")))),
        ("no config or no layers", change(&|m| drop(m.as_object_mut().unwrap().remove("layers")))),
        (
            "not a container image",
            change(&|m| m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")),
        ),
        (
            "are supported",
            change(&|m| {
                m["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
            }),
        ),
        ("only sha256", change(&|m| m["layers"][0]["digest"] = json!(format!("sha512:{}", "0".repeat(128))))),
        ("64", change(&|m| m["layers"][0]["digest"] = json!("sha256:../../etc/passwd"))),
        (
            "lower-case",
            change(&|m| m["layers"][0]["digest"] = json!(digest("x").to_uppercase().replace("SHA", "sha"))),
        ),
        ("the size of", change(&|m| m["layers"][0]["size"] = json!(-1))),
        ("larger than", change(&|m| m["layers"][0]["size"] = json!(1_u64 << 40))),
        ("larger than", change(&|m| m["config"]["size"] = json!(LARGEST_CONFIG + 1))),
        ("not a manifest", change(&|m| m["layers"][0]["size"] = json!(1.5))),
        ("not a manifest", change(&|m| m["layers"][0]["size"] = json!("20"))),
        (
            "larger than",
            change(&|m| m["layers"] = Value::from(vec![m["layers"][0].clone(); MOST_LAYERS + 1])),
        ),
        ("not a manifest", json!([])),
        ("not a manifest", json!("x".repeat(100_000))),
        ("only for", index(&json!([entry("a", &json!({ "os": "windows", "architecture": "amd64" }))]))),
        ("only for", index(&json!([]))),
    ];
    for (want, manifest) in cases {
        let error = parse(&manifest, None).unwrap_err().to_string();
        assert!(error.contains(want) && error.len() < 1000, "{want}: {error}");
    }
    // The same name twice is one thing to one reader and another to the next.
    let twice = image().to_string().replacen('{', "{\"layers\": [],", 1);
    Manifest::parse("m", twice.as_bytes(), None).unwrap_err();
    parse(&image(), Some(media::OCI_IMAGE_INDEX_MEDIA_TYPE)).unwrap_err();
    parse(&index(&json!([])), Some(media::OCI_IMAGE_MEDIA_TYPE)).unwrap_err();
}

#[test]
fn the_best_platform_is_chosen() {
    let here = json!({ "os": "linux", "architecture": architecture() });
    let other = json!({ "os": "linux", "architecture": "sparc64" });
    let windows = json!({ "os": "windows", "architecture": architecture() });
    let unknown = json!({ "os": "unknown", "architecture": "unknown" });
    let higher = json!({ "os": "linux", "architecture": architecture(), "variant": "v9" });
    let cases = [
        (json!([entry("other", &other), entry("here", &here)]), "here"),
        (json!([entry("windows", &windows), entry("here", &here), entry("again", &here)]), "here"),
        (json!([entry("higher", &higher), entry("here", &here)]), "here"),
        (json!([entry("bare", &Value::Null), entry("here", &here)]), "here"),
        (json!([entry("unknown", &unknown), entry("bare", &Value::Null)]), "bare"),
    ];
    for (manifests, want) in cases {
        let Manifest::Index(chosen) = parse(&index(&manifests), None).unwrap() else { panic!("{manifests}") };
        assert_eq!(chosen.digest.to_string(), digest(want), "{manifests}");
    }
    // Names of platforms are a stranger's text.
    let strange = json!({ "os": "\u{1b}[31m".repeat(1000), "architecture": "x" });
    let error = parse(&index(&json!([entry("a", &strange)])), None).unwrap_err().to_string();
    assert!(!error.contains('\u{1b}') && error.len() < 4000, "{error}");
}

#[test]
fn layouts_list_what_fits() {
    let mut named = entry("here", &json!({ "os": "linux", "architecture": architecture() }));
    named["annotations"] = json!({ "io.containerd.image.name": "x:1" });
    let mut signature = entry("signature", &Value::Null);
    signature["mediaType"] = json!("application/vnd.example.signature");
    let manifests =
        json!([named, entry("s390x", &json!({ "os": "linux", "architecture": "s390x" })), signature]);
    let listed = list("i", index(&manifests).to_string().as_bytes()).unwrap();
    assert_eq!(listed.iter().map(|entry| entry.fits).collect::<Vec<_>>(), [true, false]);
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
    let parsed = Config::parse("c", config.to_string().as_bytes(), Some(2)).unwrap();
    assert_eq!(parsed.image.volumes, ["/a", "/v"]);
    assert_eq!(
        (parsed.image.env.len(), parsed.image.cmd.len(), parsed.image.working_dir.as_str()),
        (2, 0, "/w")
    );
    assert_eq!(parsed.diff_ids.len(), 2);
    // As little as there may be: what FROM scratch gives.
    let least = Config::parse("c", br#"{"rootfs":{"type":"layers","diff_ids":null},"config":null}"#, Some(0))
        .unwrap();
    assert_eq!((least.image, least.diff_ids.len()), (holdfast_model::ImageConfig::default(), 0));
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
        let error = Config::parse("c", changed.to_string().as_bytes(), Some(2)).unwrap_err().to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Manifest::parse("m", &bytes, None);
        let _ = Config::parse("c", &bytes, None);
        let _ = list("i", &bytes);
    }

    /// JSON of about the right shape, with wrong values in any place.
    #[test]
    fn odd_manifests_are_parsed_or_refused(
        at in "(/schemaVersion|/mediaType|/config|/config/size|/config/digest|/layers|/layers/0|/layers/0/size|/layers/0/digest)",
        value in "(null|true|-1|1e99|18446744073709551616|\"x\"|\\[\\]|\\{\\}|\\[\\[\\]\\])",
    ) {
        let mut manifest = image();
        *manifest.pointer_mut(&at).unwrap() = serde_json::from_str(&value).unwrap_or(Value::Null);
        let _ = parse(&manifest, None);
    }
}
