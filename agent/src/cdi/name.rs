//! Names of CDI devices: `vendor.com/class=name`.

use std::{collections::HashSet, fmt};

use holdfast_model::Map;

use super::CdiError;

/// What annotations begin with that name devices, as device plugins gave them before CRI had a field for it.
const ANNOTATION: &str = "cdi.k8s.io/";
/// Longest name of a device in bytes.
const LONGEST: usize = 1024;

/// The name of a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// `vendor.com/class`.
    pub kind: String,
    /// The device.
    pub device: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

/// The devices of a request, those of its own field first; what is named twice counts once.
pub fn of_request(devices: &[String], annotations: &Map) -> Result<Vec<Name>, CdiError> {
    let fields =
        devices.iter().enumerate().map(|(index, name)| (format!("CDI_devices[{index}].name"), name.as_str()));
    let annotated = annotations
        .iter()
        .filter(|(key, _)| key.starts_with(ANNOTATION))
        .flat_map(|(key, value)| value.split(',').map(move |name| (format!("annotations[{key}]"), name)));
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for (field, text) in fields.chain(annotated) {
        let name = parse(text).map_err(|problem| CdiError::Name {
            field,
            name: text.chars().take(LONGEST).collect(),
            problem,
        })?;
        if seen.insert(name.clone()) {
            names.push(name);
        }
    }
    Ok(names)
}

fn parse(text: &str) -> Result<Name, &'static str> {
    if text.len() > LONGEST {
        return Err("it is too long");
    }
    let (kind, device) = text.split_once('=').ok_or("it has no =")?;
    check_kind(kind)?;
    check_device(device)?;
    Ok(Name { kind: kind.to_owned(), device: device.to_owned() })
}

/// `vendor.com/class`.
pub fn check_kind(kind: &str) -> Result<(), &'static str> {
    let (vendor, class) = kind.split_once('/').ok_or("the vendor has no / behind it")?;
    let good = |name: &str| name.starts_with(|c: char| c.is_ascii_alphabetic()) && is_plain(name, "_-.");
    if !good(vendor) {
        return Err("a vendor is made of letters, digits, dots, dashes and underscores, a letter first");
    }
    if !good(class) {
        return Err("a class is made of letters, digits, dots, dashes and underscores, a letter first");
    }
    Ok(())
}

/// The part behind the `=`.
pub fn check_device(device: &str) -> Result<(), &'static str> {
    if is_plain(device, "_-.:") {
        return Ok(());
    }
    Err("the name of a device is made of letters, digits, dots, dashes, underscores and colons, \
         a letter or digit first and last")
}

/// Letters, digits and what else is said, but no such else at either end.
fn is_plain(name: &str, else_too: &str) -> bool {
    let at_ends = |c: char| c.is_ascii_alphanumeric();
    name.starts_with(at_ends)
        && name.ends_with(at_ends)
        && name.chars().all(|c| at_ends(c) || else_too.contains(c))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["vendor.com/gpu=0", "v/c=d", "nvidia.com/gpu=GPU-1:2", "a-b_c.d/e.f=all", "v/c=0"] {
            assert_eq!(parse(good).unwrap().to_string(), good);
        }
        for (bad, part) in [
            ("", "no ="),
            ("/dev/null", "no ="),
            ("gpu=0", "no / behind it"),
            ("/gpu=0", "vendor"),
            ("vendor.com/=0", "class"),
            ("vendor.com/gpu=", "device"),
            ("1vendor/gpu=0", "vendor"),
            ("vendor./gpu=0", "vendor"),
            ("vendor.com/gpu/x=0", "class"),
            ("vendor.com/gpu=a b", "device"),
            ("vendor.com/gpu=-a", "device"),
            ("vendor.com/gpu=a=b", "device"),
            ("vendör.com/gpu=a", "vendor"),
            (&"x".repeat(2000), "too long"),
        ] {
            assert!(parse(bad).unwrap_err().contains(part), "{bad}");
        }
    }

    #[test]
    fn those_of_annotations_come_after_and_none_twice() {
        let annotations =
            [("cdi.k8s.io/b_1", "v/c=2,v/c=1"), ("cdi.k8s.io/a_1", "v/c=3"), ("other/x", "no device")];
        let annotations: Map = annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let devices = ["v/c=1", "v/c=1"].map(str::to_owned);
        let found = of_request(&devices, &annotations).unwrap();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["v/c=1", "v/c=3", "v/c=2"]);
    }

    #[test]
    fn a_bad_one_is_named_with_its_place() {
        let error = of_request(&["v/c=1".into(), "x".into()], &Map::new()).unwrap_err().to_string();
        assert!(error.starts_with("CDI_devices[1].name: \"x\" is no CDI device"), "{error}");
        let annotations: Map = [("cdi.k8s.io/x".to_owned(), "v/c=1,".to_owned())].into();
        let error = of_request(&[], &annotations).unwrap_err().to_string();
        assert!(error.starts_with("annotations[cdi.k8s.io/x]: \"\" is no CDI device"), "{error}");
    }
}
