//! Choice of an image from an index by platform.

use std::fmt;

/// A platform in Go's terms: `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Operating system.
    pub os: String,
    /// Architecture: `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// Variant, empty when there is none: `v7`.
    pub variant: String,
}

impl Platform {
    /// Normalised: `x86_64` becomes `amd64`; v8 is dropped for arm64; arm defaults to v7.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, implied) = match architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => ("amd64".to_owned(), ""),
            "aarch64" => ("arm64".to_owned(), ""),
            "i386" | "x86" => ("386".to_owned(), ""),
            "armhf" => ("arm".to_owned(), "v7"),
            "armel" => ("arm".to_owned(), "v6"),
            other => (other.to_owned(), ""),
        };
        let variant = variant.to_ascii_lowercase();
        let numbered = variant.bytes().next().is_some_and(|b| b.is_ascii_digit());
        let variant = if numbered { format!("v{variant}") } else { variant };
        let variant = if variant.is_empty() { implied.to_owned() } else { variant };
        let variant = match (architecture.as_str(), variant.as_str()) {
            ("arm64", "v8") | ("amd64", "v1") => String::new(),
            ("arm", "") => "v7".to_owned(),
            _ => variant,
        };
        Self { os: os.to_ascii_lowercase(), architecture, variant }
    }

    /// This host.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new(std::env::consts::OS, architecture, "")
    }

    /// How well an image for `offered` runs here: 0 is best, `None` means not at all. A host runs
    /// older variants of its architecture; amd64 and arm64 also run their 32-bit forms.
    pub fn rank(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os {
            return None;
        }
        if self.architecture == offered.architecture {
            if self.variant == offered.variant {
                return Some(0);
            }
            return level(self)?.checked_sub(level(offered)?);
        }
        match (self.architecture.as_str(), offered.architecture.as_str()) {
            ("arm64", "arm") => Some(100 + 8u32.checked_sub(level(offered)?)?),
            ("amd64", "386") => Some(100),
            _ => None,
        }
    }
}

/// Number of the variant.
fn level(platform: &Platform) -> Option<u32> {
    match (platform.architecture.as_str(), platform.variant.as_str()) {
        ("arm64", "") => Some(8),
        ("amd64", "") => Some(1),
        (_, variant) => variant.strip_prefix('v')?.parse().ok(),
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').chain(["", ""]);
        let mut next = || parts.next().unwrap_or_default();
        Platform::new(next(), next(), next())
    }

    #[test]
    fn normalises() {
        for (given, want) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("Linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
        ] {
            assert_eq!(platform(given).to_string(), want, "{given}");
        }
    }

    #[test]
    fn ranks_what_runs() {
        for (host, offered, want) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/amd64/v2", None),
            ("linux/amd64", "linux/386", Some(100)),
            ("linux/amd64", "windows/amd64", None),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm64", "linux/arm64/v9", None),
            ("linux/arm64", "linux/arm/v7", Some(101)),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/s390x", "linux/s390x", Some(0)),
            ("linux/amd64", "unknown/unknown", None),
        ] {
            assert_eq!(platform(host).rank(&platform(offered)), want, "{host} {offered}");
        }
    }
}
