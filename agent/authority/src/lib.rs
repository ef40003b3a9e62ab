//! The `:authority` of gRPC clients on a unix socket, made one that an HTTP/2 server takes.
//!
//! A request on a unix socket has no host. gRPC's C core (Python, C++, Ruby, PHP, C#) names the socket's path instead,
//! percent-encoded: `run%2Fholdfast%2Fholdfast.sock`. So does the grpc-go of kubelets before 1.31; grpc-java and older
//! versions of grpc-go name the path as it is. h2 takes neither for an authority (RFC 3986, section 3.2): it resets
//! every stream of such a client with PROTOCOL_ERROR, and no option of it or of hyper changes that.
//!
//! A [`Filter`] lies below the HTTP/2 server and sees what the client sends. It follows the frames as far as to find
//! header blocks and these as far as to find the values of `:authority`, in which it puts one character for another
//! of the same length, in place: `%` becomes `.`, `/` becomes `3` (see [`huffman`] for the reason of these two). No
//! length changes and no byte waits, so frames, flow control and the tables of HPACK (RFC 7541) stay as the client
//! has them. Whatever is against the protocol ends the filter's work, not the connection: from there on all passes as
//! it is, and the server answers it.
//!
//! ```text
//!  frames.rs   preface, frame heads, padding; everything but header blocks is skipped by its length
//!  block.rs    representations: which string is a name, which a value, and whose
//!  names.rs    the dynamic table, as far as names go
//!  text.rs     a string: compared with ":authority", changed, or measured
//!  huffman.rs  the ends of codes, and bits that make a character another
//! ```

mod block;
mod frames;
pub mod huffman;
mod names;
mod text;

pub use frames::Filter;
