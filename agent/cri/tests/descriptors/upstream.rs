//! Our `runtime.v1` is that of the Go module k8s.io/cri-api v0.37.2: every message, field, enum, value, service and
//! method of each is in the other.
//!
//! HOLDFAST_CRI_API_PROTO names the module's api.proto; `cargo x test` downloads it. By hand:
//! `go mod download -json k8s.io/cri-api@v0.37.2`, then pkg/apis/runtime/v1/api.proto below the "Dir" that it prints.

use std::{env, fs};

use holdfast_cri::DESCRIPTORS;
use protox::{
    Compiler, Error,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver},
    prost_reflect::DescriptorPool,
};

use crate::facts::Facts;

const PACKAGE: &str = "runtime.v1";

/// What v0.37.2 has, so that two empty files are not the same. A map counts as one field.
const FIELDS: usize = 478;
const VALUES: usize = 95;
const METHODS: usize = 43;

/// One source text under a name of its own.
struct Text(String);

impl FileResolver for Text {
    fn open_file(&self, name: &str) -> Result<File, Error> {
        if name == "api.proto" { File::from_source(name, &self.0) } else { Err(Error::file_not_found(name)) }
    }
}

fn ours() -> Facts {
    Facts::of(&DescriptorPool::decode(DESCRIPTORS).unwrap(), PACKAGE)
}

/// v0.37.2 imports nothing; another may import what belongs to the compiler.
fn of_source(text: &str) -> Facts {
    let mut resolver = ChainFileResolver::new();
    resolver.add(GoogleFileResolver::new());
    resolver.add(Text(text.to_owned()));
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file("api.proto").unwrap();
    Facts::of(&compiler.descriptor_pool(), PACKAGE)
}

#[test]
fn nothing_is_missing_from_ours() {
    let ours = ours();
    assert_eq!((ours.fields, ours.values, ours.methods), (FIELDS, VALUES, METHODS));
    assert_eq!(FIELDS + VALUES, 573);
}

#[test]
fn ours_is_the_api_of_kubelets() {
    let Some(path) = env::var_os("HOLDFAST_CRI_API_PROTO") else {
        println!(
            "SKIP: HOLDFAST_CRI_API_PROTO does not name the api.proto of k8s.io/cri-api: run cargo x test"
        );
        return;
    };
    let (ours, theirs) = (ours(), of_source(&fs::read_to_string(path).unwrap()));
    let (missing, strange) = (theirs.without(&ours), ours.without(&theirs));
    assert!(
        missing.is_empty() && strange.is_empty(),
        "only in theirs: {missing:#?}\nonly in ours: {strange:#?}"
    );
    assert_eq!((theirs.fields, theirs.values, theirs.methods), (FIELDS, VALUES, METHODS));
}

/// The comparison itself: each change is one line that is gone and one that is new.
#[test]
fn a_difference_of_any_kind_is_seen() {
    let text = include_str!("../../proto/api.proto");
    let whole = of_source(text);
    assert!(whole.without(&ours()).is_empty() && ours().without(&whole).is_empty());
    let changes = [
        ("bytes value = 2;", "string value = 2;"),
        ("string user_specified_image = 18;", "string user_specified_image = 3;"),
        ("string user_specified_image = 18;", "string user_image = 18;"),
        ("repeated string mount_options = 11;", "string mount_options = 11;"),
        ("map<string, string> sysctls = 3;", "map<string, bytes> sysctls = 3;"),
        ("string image_sub_path = 10;", "optional string image_sub_path = 10;"),
        ("string image_sub_path = 10;", "oneof where { string image_sub_path = 10; }"),
        ("repeated int32 port = 2;", "repeated int32 port = 2 [packed = false];"),
        ("string password = 2 [debug_redact = true];", "string password = 2;"),
        ("SCTP = 2;", "SCTP = 3;"),
        ("returns (stream ContainerEventResponse)", "returns (ContainerEventResponse)"),
        ("rpc ExecSync(ExecSyncRequest)", "rpc ExecSync(ExecRequest)"),
    ];
    for (from, to) in changes {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        let changed = of_source(&text.replace(from, to));
        assert_eq!((changed.without(&whole).len(), whole.without(&changed).len()), (1, 1), "{from} -> {to}");
    }
    let shorter = of_source(&text.replace("SCTP = 2;", ""));
    assert_eq!((shorter.without(&whole).len(), whole.without(&shorter).len()), (0, 1));
}
