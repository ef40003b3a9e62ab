//! What a container asks for and may have at most.

use super::{quantity::Quantity, reader::Item, types::Resources};

/// Which of the two lists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Limits,
    Requests,
}

/// Reads `resources`.
pub fn read(item: &Item<'_>) -> Resources {
    let mut resources = Resources::default();
    let Some(fields) = item.fields() else { return resources };
    for (name, list) in [("limits", List::Limits), ("requests", List::Requests)] {
        let entries = fields.take(name).map(|item| item.entries()).unwrap_or_default();
        for (name, item) in entries {
            one(&mut resources, list, &name, &item);
        }
    }
    // As the API server fills it in.
    resources.cpu_request_m = resources.cpu_request_m.or(resources.cpu_limit_m);
    resources.memory_request_bytes = resources.memory_request_bytes.or(resources.memory_limit_bytes);
    check_order(item, "cpu", resources.cpu_request_m, resources.cpu_limit_m);
    check_order(item, "memory", resources.memory_request_bytes, resources.memory_limit_bytes);
    resources
}

fn one(resources: &mut Resources, list: List, name: &str, item: &Item<'_>) {
    let Some(quantity) = item.loose().and_then(|text| quantity(item, text)) else { return };
    match (name, list) {
        ("cpu", List::Limits) => resources.cpu_limit_m = thousandths(item, quantity),
        ("cpu", List::Requests) => resources.cpu_request_m = thousandths(item, quantity),
        ("memory", List::Limits) => resources.memory_limit_bytes = bytes(item, quantity),
        ("memory", List::Requests) => resources.memory_request_bytes = bytes(item, quantity),
        _ => match name.strip_prefix("hugepages-") {
            Some(size) => hugepages(resources, list, size, quantity, item),
            None => item.refuse("holdfast run acts on cpu, memory and hugepages-* only: take it out"),
        },
    }
}

/// A quantity; its error is told.
pub fn quantity(item: &Item<'_>, text: &str) -> Option<Quantity> {
    Quantity::parse(text).map_err(|error| item.refuse(format!("{text:?}: {error}"))).ok()
}

/// Whole bytes. `400m` of memory is a slip that gives a container no memory at all.
pub fn bytes(item: &Item<'_>, quantity: Quantity) -> Option<u64> {
    let text = item.loose().unwrap_or_default();
    if text.ends_with(['m', 'u', 'n']) {
        item.refuse(format!("{text:?} is a part of a byte: did you mean M or Mi?"));
        return None;
    }
    quantity.units().map_err(|error| item.refuse(format!("{text:?}: {error}"))).ok()
}

fn thousandths(item: &Item<'_>, quantity: Quantity) -> Option<u64> {
    quantity.thousandths().map_err(|error| item.refuse(error.to_string())).ok()
}

/// Requests and limits of huge pages are one: either is taken, and they must agree.
fn hugepages(resources: &mut Resources, list: List, size: &str, quantity: Quantity, item: &Item<'_>) {
    let page =
        Quantity::parse(size).ok().and_then(|size| size.units().ok()).filter(|size| size.is_power_of_two());
    let Some(page) = page else {
        item.refuse(format!("{size:?} is not the size of a huge page: write hugepages-2Mi or hugepages-1Gi"));
        return;
    };
    let Some(amount) = bytes(item, quantity) else { return };
    if !amount.is_multiple_of(page) {
        item.refuse(format!("it is not a multiple of {size}"));
    }
    let before = resources.hugepages.insert(page, amount);
    if list == List::Requests && before.is_some_and(|limit| limit != amount) {
        item.refuse("it differs from the limit: huge pages are not shared out, write one number");
    }
}

fn check_order(item: &Item<'_>, name: &str, request: Option<u64>, limit: Option<u64>) {
    if let (Some(request), Some(limit)) = (request, limit)
        && request > limit
    {
        item.refuse(format!(
            "the request of {name} is above its limit: raise the limit or lower the request"
        ));
    }
}
