//! The image service of our own. A command line and an agent of two versions talk over it: lines may be added here,
//! none may change.

use holdfast_cri::{OWN_DESCRIPTORS, holdfast::images_server};
use protox::prost_reflect::DescriptorPool;

use crate::facts::Facts;

const LINES: &str = "\
holdfast.v1.Credentials.password = 2: string secret
holdfast.v1.Credentials.username = 1: string
holdfast.v1.Image.id = 1: string
holdfast.v1.Image.repo_digests = 3: repeated string
holdfast.v1.Image.repo_tags = 2: repeated string
holdfast.v1.Image.size_bytes = 4: uint64
holdfast.v1.ImportRequest.chunk = 2: bytes
holdfast.v1.ImportRequest.end = 3: bool
holdfast.v1.ImportRequest.name = 1: string
holdfast.v1.ImportResponse.images = 1: repeated holdfast.v1.Image
holdfast.v1.Progress.bytes = 4: uint64
holdfast.v1.Progress.layers = 3: uint64
holdfast.v1.Progress.layers_done = 2: uint64
holdfast.v1.Progress.reference = 1: string
holdfast.v1.Progress.total_bytes = 5: uint64
holdfast.v1.PullRequest.credentials = 2: holdfast.v1.Credentials with presence
holdfast.v1.PullRequest.reference = 1: string
holdfast.v1.PullResponse.image = 2: holdfast.v1.Image with presence
holdfast.v1.PullResponse.progress = 1: holdfast.v1.Progress with presence
holdfast.v1.TagRequest.image = 1: string
holdfast.v1.TagRequest.reference = 2: string
holdfast.v1.TagResponse.image = 1: holdfast.v1.Image with presence
message holdfast.v1.Credentials
message holdfast.v1.Image
message holdfast.v1.ImportRequest
message holdfast.v1.ImportResponse
message holdfast.v1.Progress
message holdfast.v1.PullRequest
message holdfast.v1.PullResponse
message holdfast.v1.TagRequest
message holdfast.v1.TagResponse
package holdfast.v1: proto3
rpc holdfast.v1.Images.Import: stream holdfast.v1.ImportRequest -> holdfast.v1.ImportResponse
rpc holdfast.v1.Images.Pull: holdfast.v1.PullRequest -> stream holdfast.v1.PullResponse
rpc holdfast.v1.Images.Tag: holdfast.v1.TagRequest -> holdfast.v1.TagResponse
service holdfast.v1.Images";

#[test]
fn what_was_said_once_stays() {
    let facts = Facts::of(&DescriptorPool::decode(OWN_DESCRIPTORS).unwrap(), "holdfast.v1");
    let now: Vec<&str> = facts.lines.iter().map(String::as_str).collect();
    assert_eq!(now.join("\n"), LINES);
    assert_eq!((facts.fields, facts.values, facts.methods), (22, 0, 3));
    assert_eq!(images_server::SERVICE_NAME, "holdfast.v1.Images");
}
