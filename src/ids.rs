//! Identifiers of pods and containers: checked once at the edge, always valid inside.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An identifier that is not 64 lower-case hexadecimal characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a 64-character lower-case hexadecimal id")]
pub struct InvalidId(pub String);

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A fresh id: 32 random bytes in lower-case hexadecimal, the form that cAdvisor
            /// expects as the last element of a cgroup path.
            pub fn random() -> Self {
                Self(hex::encode(rand::random::<[u8; 32]>()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() == 64 && text.bytes().all(hex) {
                    Ok(Self(text))
                } else {
                    Err(InvalidId(text))
                }
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidId;
            fn try_from(text: &str) -> Result<Self, InvalidId> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        /// So that ids can be found by a prefix.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id_type!(
    /// The id of a pod sandbox; also the id of its pause container in containerd.
    PodId
);
id_type!(
    /// The id of a container inside a pod.
    ContainerId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_are_valid_and_differ() {
        let (a, b) = (PodId::random(), PodId::random());
        assert_ne!(a, b);
        assert_eq!(PodId::try_from(a.as_str()), Ok(a.clone()));
    }

    #[test]
    fn refuses_what_could_reach_a_path() {
        for bad in ["", "../../etc", "ABC", &"g".repeat(64), &"a".repeat(63)] {
            assert!(ContainerId::try_from(bad).is_err(), "{bad}");
        }
    }
}
