//! A server of our bindings that writes down what it is asked and answers with every field of CRI 1.37 set.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use holdfast_cri::v1::{
    self,
    image_service_server::{ImageService, ImageServiceServer},
    runtime_service_server::{RuntimeService, RuntimeServiceServer},
};
use holdfast_wire::fill::{Level, Values, filled};
use prost::Message;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, codegen::BoxStream, transport::Server};

use crate::{
    calls::{image_calls, runtime_calls},
    exchange,
};

/// Calls in the order of their arrival, each with the request that our bindings read, written again.
pub type Seen = Arc<Mutex<Vec<(&'static str, Vec<u8>)>>>;

#[derive(Debug, Clone)]
struct Fake {
    values: Values,
    seen: Seen,
}

impl Fake {
    fn answer<A: Message + Default>(&self, call: &'static str, request: &impl Message) -> Response<A> {
        self.seen.lock().unwrap().push((call, request.encode_to_vec()));
        Response::new(answer(call, self.values))
    }
}

fn answer<A: Message + Default>(call: &str, values: Values) -> A {
    let answer = filled(&exchange::method(call).output(), values, Level::Ours);
    A::decode(answer.encode_to_vec().as_slice()).unwrap()
}

macro_rules! runtime_service {
    ($($call:ident $method:ident $request:ident $answer:ident,)*) => {
        #[tonic::async_trait]
        impl RuntimeService for Fake {
            $(async fn $method(&self, request: Request<v1::$request>) -> Result<Response<v1::$answer>, Status> {
                Ok(self.answer(stringify!($call), request.get_ref()))
            })*

            async fn get_container_events(
                &self,
                request: Request<v1::GetEventsRequest>,
            ) -> Result<Response<BoxStream<v1::ContainerEventResponse>>, Status> {
                let first = self.answer("GetContainerEvents", request.get_ref()).into_inner();
                let events = [Ok(first), Ok(answer("GetContainerEvents", Values::Extreme))];
                Ok(Response::new(Box::pin(tokio_stream::iter(events))))
            }
        }
    };
}

macro_rules! image_service {
    ($($call:ident $method:ident $request:ident $answer:ident,)*) => {
        #[tonic::async_trait]
        impl ImageService for Fake {
            $(async fn $method(&self, request: Request<v1::$request>) -> Result<Response<v1::$answer>, Status> {
                Ok(self.answer(stringify!($call), request.get_ref()))
            })*
        }
    };
}

runtime_calls!(runtime_service);
image_calls!(image_service);

/// Serves on a socket in `dir` as long as the test's tokio runtime is there.
pub fn serve(dir: &Path, values: Values) -> (PathBuf, Seen) {
    let fake = Fake { values, seen: Seen::default() };
    let (socket, seen) = (dir.join("cri.sock"), fake.seen.clone());
    let listener = UnixListener::bind(&socket).unwrap();
    let server = Server::builder()
        .add_service(RuntimeServiceServer::new(fake.clone()))
        .add_service(ImageServiceServer::new(fake));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    (socket, seen)
}
