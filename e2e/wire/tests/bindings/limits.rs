//! Where CRI 1.32 ends: what k8s-cri does not know, and what happens to it.

use std::collections::BTreeSet;

use holdfast_cri::v1 as ours;
use holdfast_wire::{
    client,
    fill::{Level, Values, filled},
    level::{NEWER_CALLS, NEWER_FIELDS},
    spoken::{lost, reread},
};
use k8s_cri::{
    v1 as theirs,
    v1alpha2::{self, runtime_service_client::RuntimeServiceClient as AncientClient},
};
use prost::Message;
use tonic::Code;

use crate::{
    calls::{image_calls, runtime_calls},
    exchange::{method, methods},
    fake,
};

/// Fields of a message that do not come through a struct of k8s-cri.
fn lost_in<M: Message + Default>(message: &prost_reflect::MessageDescriptor) -> BTreeSet<String> {
    let whole = filled(message, Values::Plain, Level::Ours);
    let theirs = M::decode(whole.encode_to_vec().as_slice()).unwrap();
    lost(&whole, &reread(&theirs, message))
}

macro_rules! lost_in_calls {
    ($($call:ident $method:ident $request:ident $answer:ident,)*) => {
        [$((
            stringify!($call),
            lost_in::<theirs::$request>(&method(stringify!($call)).input()),
            lost_in::<theirs::$answer>(&method(stringify!($call)).output()),
        )),*]
    };
}

#[test]
fn nothing_else_is_lost_than_what_is_newer() {
    let mut calls = BTreeSet::from(["GetContainerEvents"]);
    let mut fields = lost_in::<theirs::ContainerEventResponse>(&method("GetContainerEvents").output());
    let (runtime, image) = (runtime_calls!(lost_in_calls), image_calls!(lost_in_calls));
    for (call, request, answer) in runtime.into_iter().chain(image) {
        calls.insert(call);
        fields.extend(request.into_iter().chain(answer));
    }
    assert_eq!(fields, NEWER_FIELDS.map(str::to_owned).into());
    let all: Vec<String> = methods().map(|method| method.name().to_owned()).collect();
    let left: BTreeSet<&str> = all.iter().map(String::as_str).filter(|call| !calls.contains(call)).collect();
    assert_eq!((calls.len(), left), (34, NEWER_CALLS.into()));
}

/// An enum's numbers have the same names on both sides.
macro_rules! same_names {
    ($($path:ident)::+, $count:literal) => {
        let names = |number: i32| {
            (
                ours::$($path)::+::try_from(number).map(|value| value.as_str_name()).ok(),
                theirs::$($path)::+::try_from(number).map(|value| value.as_str_name()).ok(),
            )
        };
        for number in 0..=$count {
            let (ours, theirs) = names(number);
            assert_eq!(ours, theirs, "{} = {number}", stringify!($($path)::+));
            assert_eq!(ours.is_some(), number < $count, "{} = {number}", stringify!($($path)::+));
        }
    };
}

#[test]
fn enum_values_have_the_same_names() {
    same_names!(CgroupDriver, 2);
    same_names!(ContainerEventType, 4);
    same_names!(ContainerState, 4);
    same_names!(MetricType, 2);
    same_names!(MountPropagation, 3);
    same_names!(NamespaceMode, 4);
    same_names!(PodSandboxState, 2);
    same_names!(Protocol, 3);
    same_names!(SupplementalGroupsPolicy, 2);
    same_names!(security_profile::ProfileType, 3);
}

/// An environment value of any bytes came with 1.37. An older client reads those that are UTF-8, which is all that
/// it can write itself.
#[test]
fn a_value_that_is_no_utf8_is_beyond_an_older_client() {
    let binary = ours::KeyValue { key: "KEY".into(), value: vec![0xff, 0] }.encode_to_vec();
    assert!(theirs::KeyValue::decode(binary.as_slice()).is_err());
    assert_eq!(ours::KeyValue::decode(binary.as_slice()).unwrap().value, [0xff, 0]);
    let text = theirs::KeyValue { key: "KEY".into(), value: "ü".into() }.encode_to_vec();
    assert_eq!(ours::KeyValue::decode(text.as_slice()).unwrap().value, "ü".as_bytes());
}

/// What a client that still tries the API before v1 must hear to go on.
#[tokio::test]
async fn the_api_before_v1_is_unimplemented() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, _) = fake::serve(dir.path(), Values::Plain);
    let mut client = AncientClient::new(client::connect(&socket).await.unwrap());
    let status = client.version(v1alpha2::VersionRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}
