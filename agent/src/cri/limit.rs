//! Requests over 16 MiB answer ResourceExhausted, as grpc-go does.
//!
//! tonic refuses what is over its limit with OutOfRange. A kubelet takes that for something else, so the answer's
//! code is changed on its way out.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response};
use tower::{Layer, Service};

/// Largest request in bytes: what the kubelet's client takes as an answer, too.
pub const MAX_REQUEST: usize = 16 << 20;

const OUT_OF_RANGE: &str = "11";
const RESOURCE_EXHAUSTED: HeaderValue = HeaderValue::from_static("8");

/// Puts [`TooLarge`] around a service.
#[derive(Debug, Clone, Copy, Default)]
pub struct TooLargeLayer;

impl<S> Layer<S> for TooLargeLayer {
    type Service = TooLarge<S>;

    fn layer(&self, inner: S) -> TooLarge<S> {
        TooLarge { inner }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct TooLarge<S> {
    inner: S,
}

impl<S, In, Out> Service<Request<In>> for TooLarge<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    S::Future: Send + 'static,
{
    type Response = Response<Out>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Out>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            let headers = response.headers_mut();
            // Our own services never answer OutOfRange, so this is tonic's decoder.
            if headers.get("grpc-status").is_some_and(|code| code == OUT_OF_RANGE) {
                headers.insert("grpc-status", RESOURCE_EXHAUSTED);
            }
            Ok(response)
        })
    }
}
