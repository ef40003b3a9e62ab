//! One call of one kind of values, seen from both of its ends.

use std::sync::LazyLock;

use holdfast_cri::DESCRIPTORS;
use holdfast_wire::{
    fill::{Level, Values, filled},
    spoken::{as_struct, reread},
};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use serde::Serialize;

use crate::fake::Seen;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).unwrap());

/// All calls that our services have.
pub fn methods() -> impl Iterator<Item = MethodDescriptor> {
    POOL.services().collect::<Vec<_>>().into_iter().flat_map(|service| service.methods().collect::<Vec<_>>())
}

/// The call of this name.
pub fn method(call: &str) -> MethodDescriptor {
    methods().find(|method| method.name() == call).unwrap_or_else(|| panic!("we have no call {call}"))
}

/// A struct of k8s-cri that holds what this message says, in every way that we can tell.
pub fn check(theirs: &(impl Message + Serialize), expected: &DynamicMessage, descriptor: &MessageDescriptor) {
    let call = descriptor.name();
    assert_eq!(&reread(theirs, descriptor), expected, "{call}: what k8s-cri writes");
    assert_eq!(serde_json::to_value(theirs).unwrap(), as_struct(expected), "{call}: what k8s-cri has");
}

/// What is sent and answered in all calls of a connection.
pub struct Exchange {
    /// What the fields hold.
    pub values: Values,
    /// What the server saw.
    pub seen: Seen,
}

impl Exchange {
    /// The request that k8s-cri shall send.
    pub fn request<R: Message + Default + Serialize>(&self, call: &str) -> R {
        let input = method(call).input();
        let message = filled(&input, self.values, Level::Older);
        let request = R::decode(message.encode_to_vec().as_slice()).unwrap();
        check(&request, &message, &input);
        request
    }

    /// Whether that request has arrived, and k8s-cri has the answer.
    pub fn done<A: Message + Serialize>(&self, call: &str, answer: &A) {
        self.arrived(call);
        let output = method(call).output();
        check(answer, &filled(&output, self.values, Level::Older), &output);
    }

    /// Whether that request has arrived.
    pub fn arrived(&self, call: &str) {
        let (seen, bytes) = self.seen.lock().unwrap().pop().unwrap();
        assert_eq!(seen, call);
        let input = method(call).input();
        let arrived = DynamicMessage::decode(input.clone(), bytes.as_slice()).unwrap();
        assert_eq!(arrived, filled(&input, self.values, Level::Older), "{call}: what our server got");
    }
}
