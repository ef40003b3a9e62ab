//! All calls, with each kind of values.

use holdfast_wire::{
    client,
    fill::{Level, Values, filled},
};
use k8s_cri::v1::{
    self as theirs, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::transport::Channel;

use crate::{
    calls::{image_calls, runtime_calls},
    exchange::{self, Exchange},
    fake,
};

macro_rules! call_all {
    ($($call:ident $method:ident $request:ident $answer:ident,)*) => {
        /// Makes every call of this list.
        async fn all(mut client: Client<Channel>, exchange: &Exchange) {
            $(
                let request: theirs::$request = exchange.request(stringify!($call));
                // In a box: thirty such futures in one are too large for a stack.
                let answer = Box::pin(client.$method(request)).await.unwrap().into_inner();
                exchange.done::<theirs::$answer>(stringify!($call), &answer);
            )*
        }
    };
}

mod runtime {
    use super::{RuntimeServiceClient as Client, *};
    runtime_calls!(call_all);

    pub async fn calls(channel: Channel, exchange: &Exchange) {
        all(Client::new(channel), exchange).await;
    }
}

mod image {
    use super::{ImageServiceClient as Client, *};
    image_calls!(call_all);

    pub async fn calls(channel: Channel, exchange: &Exchange) {
        all(Client::new(channel), exchange).await;
    }
}

async fn all(values: Values) {
    let dir = tempfile::tempdir().unwrap();
    let (socket, seen) = fake::serve(dir.path(), values);
    let channel = client::connect(&socket).await.unwrap();
    let exchange = Exchange { values, seen };
    runtime::calls(channel.clone(), &exchange).await;
    image::calls(channel.clone(), &exchange).await;
    events(channel, &exchange).await;
}

/// The one call of k8s-cri with a stream: two events, and its end.
async fn events(channel: Channel, exchange: &Exchange) {
    let call = "GetContainerEvents";
    let request: theirs::GetEventsRequest = exchange.request(call);
    let mut events =
        RuntimeServiceClient::new(channel).get_container_events(request).await.unwrap().into_inner();
    exchange.arrived(call);
    let output = exchange::method(call).output();
    for values in [exchange.values, Values::Extreme] {
        let event = events.message().await.unwrap().unwrap();
        exchange::check(&event, &filled(&output, values, Level::Older), &output);
    }
    assert!(events.message().await.unwrap().is_none());
}

#[tokio::test]
async fn every_field_of_every_call_arrives() {
    all(Values::Plain).await;
}

#[tokio::test]
async fn the_ends_of_every_range_arrive() {
    all(Values::Extreme).await;
}

#[tokio::test]
async fn what_is_absent_stays_absent() {
    all(Values::Absent).await;
}
