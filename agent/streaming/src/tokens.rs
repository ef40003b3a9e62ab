//! One-time tokens: a request waits under one for the client that comes back for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use crate::error::Error;
use crate::session::{AttachRequest, ExecRequest};

/// Bytes of a token before base64: 256 bits, beyond guessing.
const TOKEN_BYTES: usize = 32;

/// Ports of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortForwardRequest {
    pub pod_sandbox_id: String,
    /// What the RPC named; empty is usual, the streams name their ports themselves.
    pub ports: Vec<u16>,
}

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Exec(ExecRequest),
    Attach(AttachRequest),
    PortForward(PortForwardRequest),
}

impl Request {
    /// The first part of the URL's path. A token is valid below its own only.
    pub fn path(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

/// The requests that wait.
pub(crate) struct Tokens {
    ttl: Duration,
    limit: usize,
    waiting: Mutex<HashMap<String, (Request, Instant)>>,
}

impl Tokens {
    pub fn new(ttl: Duration, limit: usize) -> Self {
        Self { ttl, limit, waiting: Mutex::new(HashMap::new()) }
    }

    /// Keeps `request` for the time to live; [`Error::TooMany`] when full.
    pub fn insert(&self, request: Request) -> Result<String, Error> {
        let mut random = [0; TOKEN_BYTES];
        // No more than 256 bytes are never interrupted and never short, getrandom(2).
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(Error::Random)?;
        let token = URL_SAFE_NO_PAD.encode(random);
        let now = Instant::now();
        let mut waiting = self.lock();
        waiting.retain(|_, (_, expires)| *expires > now);
        if waiting.len() >= self.limit {
            return Err(Error::TooMany { limit: self.limit });
        }
        waiting.insert(token.clone(), (request, now + self.ttl));
        Ok(token)
    }

    /// Takes the request of `/{path}/{token}`; a second time there is none. One of another path stays where it is.
    pub fn take(&self, path: &str, token: &str) -> Option<Request> {
        let mut waiting = self.lock();
        if waiting.get(token)?.0.path() != path {
            return None;
        }
        let (request, expires) = waiting.remove(token)?;
        (expires > Instant::now()).then_some(request)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Request, Instant)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn request() -> Request {
        Request::PortForward(PortForwardRequest { pod_sandbox_id: "p".into(), ports: vec![] })
    }

    #[test]
    fn a_token_works_once_and_below_its_path() {
        let tokens = Tokens::new(Duration::from_mins(1), 2);
        let token = tokens.insert(request()).unwrap();
        assert_eq!(token.len(), 43);
        assert_eq!(tokens.take("exec", &token), None);
        assert_eq!(tokens.take("portforward", "nonsense"), None);
        assert_eq!(tokens.take("portforward", &token), Some(request()));
        assert_eq!(tokens.take("portforward", &token), None);
    }

    #[test]
    fn tokens_are_limited_and_expire() {
        let tokens = Tokens::new(Duration::from_millis(30), 1);
        let token = tokens.insert(request()).unwrap();
        assert!(matches!(tokens.insert(request()), Err(Error::TooMany { limit: 1 })));
        std::thread::sleep(Duration::from_millis(40));
        assert_eq!(tokens.take("portforward", &token), None);
        tokens.insert(request()).unwrap();
        std::thread::sleep(Duration::from_millis(40));
        tokens.insert(request()).unwrap();
    }
}
