//! Variables of a container's environment.

use super::{
    names,
    reader::{Fields, Item},
    types::{EnvValue, EnvVar, PodField},
};

/// Reads `env`.
pub fn read(item: &Item<'_>, host_network: bool) -> Vec<EnvVar> {
    item.items().iter().filter_map(|item| variable(item, host_network)).collect()
}

fn variable(item: &Item<'_>, host_network: bool) -> Option<EnvVar> {
    let fields = item.fields()?;
    let name = fields.need("name").and_then(|item| names::variable(&item));
    let text = fields.take("value").map(|item| value(&item));
    let from = fields.take("valueFrom").map(|item| value_from(&item, host_network));
    let value = match (text, from) {
        (Some(Some(text)), Some(_)) if !text.is_empty() => {
            item.refuse("it has both value and valueFrom: take one out");
            return None;
        }
        (_, Some(from)) => EnvValue::Field(from?),
        (text, None) => EnvValue::Text(text.unwrap_or_else(|| Some(String::new()))?),
    };
    Some(EnvVar { name: name?, value })
}

fn value(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    if text.contains('\0') {
        item.refuse("it holds a zero byte, which ends a string: take it out");
        return None;
    }
    Some(text)
}

fn value_from(item: &Item<'_>, host_network: bool) -> Option<PodField> {
    let fields = item.fields()?;
    let reference = fields.need("fieldRef")?.fields()?;
    check_version(&reference);
    let path = reference.need("fieldPath")?;
    let text = path.text()?;
    let field = pod_field(&text);
    match &field {
        None => path.refuse(format!(
            "{text:?} is not known here: use metadata.name, .namespace, .uid, .labels['...'], .annotations['...'], \
             status.podIP or status.podIPs"
        )),
        Some(PodField::PodIp | PodField::PodIps) if host_network => {
            path.refuse("a pod on the host's network has no address of its own: take it out");
        }
        Some(_) => {}
    }
    field
}

fn check_version(reference: &Fields<'_>) {
    if let Some(item) = reference.take("apiVersion") {
        item.choice(&[("v1", ())]);
    }
}

fn pod_field(path: &str) -> Option<PodField> {
    let key =
        |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']").map(str::to_owned);
    Some(match path {
        "metadata.name" => PodField::Name,
        "metadata.namespace" => PodField::Namespace,
        "metadata.uid" => PodField::Uid,
        "status.podIP" => PodField::PodIp,
        "status.podIPs" => PodField::PodIps,
        _ => match (key("metadata.labels"), key("metadata.annotations")) {
            (Some(key), _) => PodField::Label(key),
            (_, Some(key)) => PodField::Annotation(key),
            _ => return None,
        },
    })
}
