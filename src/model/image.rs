//! Plain types for images.

use serde::{Deserialize, Serialize};

use super::StringMap;

/// A content digest, `sha256:` and 64 lower-case hexadecimal characters; nothing else is
/// accepted, so it is safe in paths, labels and URLs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text that is not a supported digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a sha256 digest")]
pub struct InvalidDigest(pub String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes))))
    }

    /// The complete text, including the algorithm.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hexadecimal part.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        let good = text.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        });
        if good { Ok(Self(text)) } else { Err(InvalidDigest(text)) }
    }
}

impl TryFrom<&str> for Digest {
    type Error = InvalidDigest;
    fn try_from(text: &str) -> Result<Self, InvalidDigest> {
        Self::try_from(text.to_owned())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An OCI content descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type.
    pub media_type: String,
    /// Digest.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Annotations, passed on to snapshotters.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub annotations: StringMap,
}

/// The chain id of an unpacked stack of layers: the name of its committed snapshot. `None`
/// stands for an image without layers.
pub type ChainId = Digest;

/// An image: all names that share one configuration digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of the configuration of this host's platform: the CRI image id.
    pub id: Digest,
    /// Descriptor of the index or manifest that the names refer to.
    pub target: Descriptor,
    /// Names with a tag, sorted.
    pub repo_tags: Vec<String>,
    /// Names with a digest, sorted.
    pub repo_digests: Vec<String>,
    /// Compressed size in bytes of all that a pull fetches.
    pub size: u64,
    /// Never garbage-collected.
    pub pinned: bool,
    /// Top snapshot, or `None` for an image without layers.
    pub chain_id: Option<ChainId>,
    /// The parts of the configuration that a container inherits.
    pub config: ImageConfig,
}

/// The parts of an OCI image configuration that a container inherits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `user[:group]`, names or numbers, unresolved.
    pub user: String,
    /// `KEY=value` entries.
    pub env: Vec<String>,
    /// Entrypoint.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// Anonymous volumes: container paths, unchecked.
    pub volumes: Vec<String>,
    /// Stop signal, unparsed.
    pub stop_signal: String,
    /// Labels.
    pub labels: StringMap,
}
