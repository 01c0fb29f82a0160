//! Manifests, on the way of Apply and of static files.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use podbay::pod::manifest::{self, ParseOptions};
use podbay::pod::{Error, Objects, Source};

use super::{fuzz, words};

/// A pod that is given has what the other rooms rely on; an error says what is wrong.
#[test]
fn given_pods() {
    let now = Time(Timestamp::UNIX_EPOCH);
    fuzz("manifest", |bytes| {
        let lenient = bytes.len().is_multiple_of(2);
        let options = ParseOptions { lenient, ..ParseOptions::default() };
        let source = if bytes.len().is_multiple_of(3) { Source::File } else { Source::Api };
        let mut uid = |_: &Pod| "6f1d2c3b".to_owned();
        let none = |_: &str, _: &str| Objects::default();
        let given = manifest::parse(bytes, &options)
            .and_then(|parsed| manifest::given(parsed, source, &now, &mut uid, none));
        match given {
            Ok(pods) => {
                for given in &pods {
                    let key = given.key();
                    assert!(!key.namespace.is_empty() && !key.name.is_empty(), "{key}");
                    assert!(!given.spec().containers.is_empty(), "{key} has nothing to run");
                }
                format!("{} pods", pods.len().min(9))
            }
            Err(Error::Invalid { kind, faults, .. }) => {
                let first = faults.first().expect("a fault");
                let told = format!("{kind} {} {}", words(&first.path), words(&first.message));
                told.chars().take(80).collect()
            }
            Err(error) => words(&error.to_string()).chars().take(80).collect(),
        }
    });
}
