//! Description, for an error, of the answer that a host sent instead of what was asked for: mirrors with a
//! wrong path answer with their web page and status 200, others with the page of a login, or with an error in
//! JSON.

use reqwest::Response;
use reqwest::header::CONTENT_TYPE;

use super::http;
use crate::error::brief;

/// Bytes of a text that an error quotes.
const QUOTED: usize = 80;

/// Origin and media type of an answer.
pub(super) struct Sent {
    /// Its media type, without parameters; empty: none was told.
    kind: String,
    host: String,
}

impl Sent {
    pub(super) fn of(response: &Response) -> Self {
        let kind =
            response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        Self { kind, host: response.url().host_str().unwrap_or_default().to_owned() }
    }

    /// Reason for which this body is no manifest; `reason`: the parser's message.
    pub(super) fn blame(&self, reason: &str, body: &[u8]) -> String {
        let said = http::message(body);
        if !said.is_empty() {
            return format!("not a manifest but an error with a status of success: {said}");
        }
        if body.is_empty() {
            return "nothing was sent, with a status of success".to_owned();
        }
        let kind = if self.kind.is_empty() { "no media type".to_owned() } else { brief(&self.kind) };
        let text = String::from_utf8_lossy(&body[..body.len().min(QUOTED)]);
        let page = if self.is_page() || text.trim_start().starts_with('<') { "a web page, " } else { "" };
        format!("{reason}; {} sent {page}{kind}, that begins with \"{}\"", self.host, brief(text.trim()))
    }

    /// Of a blob, whose media type says nothing, only what is worth a remark.
    pub(super) fn hint(&self) -> &'static str {
        if self.is_page() { " (which sent a web page)" } else { "" }
    }

    fn is_page(&self) -> bool {
        matches!(self.kind.as_str(), "text/html" | "application/xhtml+xml")
    }
}
