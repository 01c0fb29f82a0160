//! Device names, and where requests contain them.

use std::collections::BTreeSet;
use std::fmt;

use super::Error;
use crate::model::StringMap;

/// Prefix of the annotations that list device names, separated by commas.
const ANNOTATION: &str = "cdi.k8s.io/";

/// A fully qualified device name, `vendor.com/class=name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceName {
    /// `vendor.com/class`.
    pub kind: String,
    /// The device.
    pub device: String,
}

impl DeviceName {
    /// Parses a name.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (kind, device) = text.split_once('=').ok_or("it has no \"=\"")?;
        check_kind(kind)?;
        check_device(device)?;
        Ok(Self { kind: kind.to_owned(), device: device.to_owned() })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

/// Checks `vendor/class`: each begins with a letter and ends with a letter or digit.
pub(super) fn check_kind(kind: &str) -> Result<(), &'static str> {
    let (vendor, class) = kind.split_once('/').ok_or("it has no \"/\" between vendor and class")?;
    let good = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && ends_and_holds(text, "_-.")
    };
    match (good(vendor), good(class)) {
        (true, true) => Ok(()),
        (false, _) => Err("the vendor is malformed"),
        (true, false) => Err("the class is malformed"),
    }
}

/// Checks a device name: it begins and ends with a letter or digit.
pub(super) fn check_device(device: &str) -> Result<(), &'static str> {
    let begins = device.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && ends_and_holds(device, "_-.:") {
        return Ok(());
    }
    Err("the device's name is malformed")
}

fn ends_and_holds(text: &str, more: &str) -> bool {
    text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

/// The devices that a container requests, each once: those in the field, then those in its
/// annotations, ordered by key.
///
/// # Errors
/// [`Error::BadName`].
pub fn requested(field: &[String], annotations: &StringMap) -> Result<Vec<DeviceName>, Error> {
    let of_field = field
        .iter()
        .enumerate()
        .map(|(index, name)| (format!("config.CDI_devices[{index}].name"), name.as_str()));
    let of_annotations = annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATION));
    let of_annotations = of_annotations.flat_map(|(key, value)| {
        value.split(',').map(move |name| (format!("config.annotations[{key:?}]"), name))
    });
    let (mut seen, mut names) = (BTreeSet::new(), Vec::new());
    for (field, text) in of_field.chain(of_annotations) {
        let bad = |problem| Error::BadName { field, name: text.to_owned(), problem };
        let name = DeviceName::parse(text).map_err(bad)?;
        if seen.insert(name.clone()) {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &[DeviceName]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_are_checked() {
        for good in ["v.com/c=d", "nvidia.com/gpu=0", "a/b=all", "v-1.com/c_d.e=GPU:1.2_x-y"] {
            assert_eq!(DeviceName::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "", "v/c", "v=c/d", "/c=d", "v/=d", "v/c=", "v/c=d=e", "1v/c=d", "v/1c=d", "v-/c=d",
            "v/c-=d", "v/c=-d", "v/c=d-", "v/c/x=d", "v /c=d", "v/c=d e", "v/c=é", "v/c=../d",
            "v/c=d\n", "v/c=d\0",
        ] {
            assert!(DeviceName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn field_first_then_annotations_each_device_once() {
        let annotations = [
            ("cdi.k8s.io/b", "v/c=3,v/c=1"),
            ("cdi.k8s.io/a", "v/c=2"),
            ("other/cdi.k8s.io/x", "not even a name"),
        ];
        let annotations = annotations.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let field = ["v/c=1", "v/c=1", "v/c=0"].map(str::to_owned);
        let found = requested(&field, &annotations).unwrap();
        assert_eq!(texts(&found), ["v/c=1", "v/c=0", "v/c=2", "v/c=3"]);
        assert!(requested(&[], &StringMap::new()).unwrap().is_empty());
    }

    #[test]
    fn a_bad_name_is_told_with_its_place() {
        let told = |error: Error| error.to_string();
        let bad = requested(&["v/c=1".into(), "gpu".into()], &StringMap::new()).unwrap_err();
        assert!(
            told(bad).starts_with("config.CDI_devices[1].name: \"gpu\" is not a CDI device name")
        );
        let annotations = [("cdi.k8s.io/x".to_owned(), "v/c=1,".to_owned())].into();
        let bad = requested(&[], &annotations).unwrap_err();
        assert!(told(bad).starts_with("config.annotations[\"cdi.k8s.io/x\"]: \"\" is not a CDI"));
    }
}
