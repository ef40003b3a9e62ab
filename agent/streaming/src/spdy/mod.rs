//! SPDY/3.1 as Kubernetes speaks it, the server's side.
