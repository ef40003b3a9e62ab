//! What the headers of a port-forward's stream say.

use crate::spdy::NewStream;

/// Which of a pair's streams it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Error,
    Data,
}

/// A stream's place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub half: Half,
    pub port: u16,
    /// What the two of a pair have in common.
    pub request: String,
}

/// A port, digits alone, 1 to 65535.
pub(crate) fn port(text: &str) -> Option<u16> {
    // `parse` alone takes "+80".
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

/// `None` when a header is missing or says nothing that we know.
pub(super) fn place(stream: &NewStream) -> Option<Place> {
    let header = |name| stream.header(name);
    parse(stream.id(), header("streamtype"), header("port"), header("requestid"))
}

fn parse(id: u32, kind: Option<&str>, port_text: Option<&str>, request: Option<&str>) -> Option<Place> {
    let half = match kind? {
        "error" => Half::Error,
        "data" => Half::Data,
        _ => return None,
    };
    let port = port(port_text?)?;
    let request = match request.filter(|request| !request.is_empty()) {
        Some(request) => request.to_owned(),
        // Old clients name no request. They open error and then data, so that the ids are neighbours.
        None => match half {
            Half::Error => id.to_string(),
            Half::Data => id.checked_sub(2)?.to_string(),
        },
    };
    Some(Place { half, port, request })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_strict() {
        for bad in ["", "0", "65536", "+80", "-1", " 80", "80 ", "0x50", "8O", "99999999999999"] {
            assert_eq!(port(bad), None, "{bad}");
        }
        assert_eq!([port("1"), port("65535"), port("080")], [Some(1), Some(65535), Some(80)]);
    }

    #[test]
    fn old_clients_pair_by_id() {
        let request =
            |id, kind, request| parse(id, Some(kind), Some("80"), request).map(|place| place.request);
        assert_eq!(request(5, "error", None), Some("5".into()));
        assert_eq!(request(7, "data", None), Some("5".into()));
        assert_eq!(request(7, "data", Some("")), Some("5".into()));
        assert_eq!(request(1, "data", None), None);
        assert_eq!(request(7, "data", Some("r")), Some("r".into()));
        assert_eq!(request(7, "stdin", Some("r")), None);
        assert_eq!(parse(1, Some("data"), None, Some("r")), None);
    }
}
