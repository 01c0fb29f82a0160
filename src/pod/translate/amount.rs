//! Quantities as whole numbers: CPU in thousandths, all else in units.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::Quantity as Exact;

/// Amounts by the name of the resource: `cpu` in thousandths, all else in units (bytes).
pub type Totals = BTreeMap<String, i64>;

/// Name of the resource CPU.
pub(super) const CPU: &str = "cpu";
/// Name of the resource memory.
pub(super) const MEMORY: &str = "memory";
/// Name of the resource local disk.
pub(super) const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
/// Prefix of huge page resources; the page size follows.
pub(super) const HUGEPAGES: &str = "hugepages-";

/// A quantity in thousandths, rounded up. Validation has refused invalid quantities.
pub fn milli(quantity: &Quantity) -> i64 {
    parsed(quantity).map_or(0, |quantity| quantity.milli())
}

/// A quantity in units, rounded up.
pub fn value(quantity: &Quantity) -> i64 {
    parsed(quantity).map_or(0, |quantity| quantity.value())
}

fn parsed(quantity: &Quantity) -> Option<Exact> {
    Exact::try_from(quantity).ok()
}

/// A list of resources as whole numbers.
pub(super) fn totals(list: Option<&BTreeMap<String, Quantity>>) -> Totals {
    let amount = |name: &str, quantity| if name == CPU { milli(quantity) } else { value(quantity) };
    list.into_iter().flatten().map(|(name, it)| (name.clone(), amount(name, it))).collect()
}

/// Adds the amounts of each resource.
pub(super) fn add(sums: &mut Totals, more: &Totals) {
    for (name, amount) in more {
        let sum = sums.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

/// Takes the maximum of each resource.
pub(super) fn raise(sums: &mut Totals, others: &Totals) {
    for (name, amount) in others {
        let sum = sums.entry(name.clone()).or_insert(*amount);
        *sum = (*sum).max(*amount);
    }
}

/// Page size in bytes of a huge page resource such as `hugepages-2Mi`; `None` for others.
pub fn page_size(resource: &str) -> Option<u64> {
    let size = Quantity(resource.strip_prefix(HUGEPAGES)?.to_owned());
    u64::try_from(value(&size)).ok().filter(|&size| size > 0)
}

/// A page size as in the kernel's hugetlb file names, e.g. `2MB`.
pub(super) fn page_unit(bytes: u64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB", "PB"];
    let (mut size, mut unit) = (bytes, 0);
    while size >= 1024 && unit + 1 < units.len() {
        size /= 1024;
        unit += 1;
    }
    format!("{size}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_rounded_up() {
        let quantity = |text: &str| Quantity(text.to_owned());
        assert_eq!(milli(&quantity("250m")), 250);
        assert_eq!(milli(&quantity("1.5")), 1500);
        assert_eq!(milli(&quantity("0.1m")), 1);
        assert_eq!(value(&quantity("128Mi")), 128 << 20);
        assert_eq!(value(&quantity("1500m")), 2);
    }

    #[test]
    fn sizes_of_pages() {
        assert_eq!(page_size("hugepages-2Mi"), Some(2 << 20));
        assert_eq!(page_size("hugepages-1Gi"), Some(1 << 30));
        assert_eq!(page_size("memory"), None);
        assert_eq!(page_unit(2 << 20), "2MB");
        assert_eq!(page_unit(1 << 30), "1GB");
        assert_eq!(page_unit(64 << 10), "64KB");
    }
}
