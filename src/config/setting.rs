//! The types of settings: parsed from TOML or plain text, printed as TOML.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use toml::Value;
use url::Url;

use super::inputs::Raw;
use super::{CgroupDriver, FileMode, Grace, Rlimit, Secret};
use crate::model::container::Rlimit as Limit;
use crate::telemetry::Format;

/// A type of setting. The text of an error says what the value must be.
pub(super) trait Setting: Sized {
    /// Parses a TOML string, environment variable or flag.
    fn from_text(text: &str) -> Result<Self, String>;

    /// Parses a TOML value; by default only a string is accepted.
    fn from_raw(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) => Self::from_text(text),
            other => Err(format!("must be a string, not {}", name(other))),
        }
    }

    /// Parses a repeatable flag; only a list accepts more than one value.
    fn from_texts(texts: &[String]) -> Result<Self, String> {
        match texts {
            [text] => Self::from_text(text),
            _ => Err("must be given once".to_owned()),
        }
    }

    /// Converts to TOML for printing.
    fn to_toml(&self) -> Value;
}

fn name(raw: &Raw) -> &'static str {
    match raw {
        Raw::Text(_) => "a string",
        Raw::Int(_) => "a number",
        Raw::Bool(_) => "true or false",
        Raw::List(_) => "a list",
        Raw::Other(name) => name,
    }
}

impl Setting for String {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn to_toml(&self) -> Value {
        Value::String(self.clone())
    }
}

impl Setting for Secret {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }

    fn from_raw(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) => Self::from_text(text),
            _ => Err("must be a string".to_owned()),
        }
    }

    fn to_toml(&self) -> Value {
        Value::String(if self.0.is_empty() { String::new() } else { "<redacted>".to_owned() })
    }
}

impl Setting for bool {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("must be true or false, not {text:?}"))
    }

    fn from_raw(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Bool(value) => Ok(*value),
            other => Err(format!("must be true or false, not {}", name(other))),
        }
    }

    fn to_toml(&self) -> Value {
        Value::Boolean(*self)
    }
}

impl Setting for usize {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("must be a whole number, not {text:?}"))
    }

    fn from_raw(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Int(number) => {
                Self::try_from(*number).map_err(|_| format!("must not be negative: {number}"))
            }
            other => Err(format!("must be a whole number, not {}", name(other))),
        }
    }

    fn to_toml(&self) -> Value {
        Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
    }
}

impl Setting for u32 {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("must be a whole number below 2^32, not {text:?}"))
    }

    fn from_raw(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Int(number) => Self::from_text(&number.to_string()),
            other => Err(format!("must be a whole number below 2^32, not {}", name(other))),
        }
    }

    fn to_toml(&self) -> Value {
        Value::Integer(i64::from(*self))
    }
}

impl Setting for FileMode {
    fn from_text(text: &str) -> Result<Self, String> {
        let octal = text.len() <= 5 && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        match u32::from_str_radix(text, 8) {
            Ok(mode) if octal && mode <= 0o777 => Ok(Self(mode)),
            _ => Err(format!("must be an octal mode such as \"0660\", not {text:?}")),
        }
    }

    fn from_raw(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) => Self::from_text(text),
            // 660 in TOML is decimal, so the intended mode would be ambiguous.
            other => {
                Err(format!("must be a string with an octal mode (\"0660\"), not {}", name(other)))
            }
        }
    }

    fn to_toml(&self) -> Value {
        Value::String(format!("{:04o}", self.0))
    }
}

impl Setting for Duration {
    fn from_text(text: &str) -> Result<Self, String> {
        let problem = |why: String| format!("must be a time such as \"10s\" or \"5m\": {why}");
        let time = humantime::parse_duration(text).map_err(|e| problem(e.to_string()))?;
        if time.is_zero() { Err(problem("it is zero".to_owned())) } else { Ok(time) }
    }

    fn to_toml(&self) -> Value {
        Value::String(humantime::format_duration(*self).to_string())
    }
}

/// Zero is allowed.
impl Setting for Grace {
    fn from_text(text: &str) -> Result<Self, String> {
        let time = humantime::parse_duration(text);
        time.map(Self).map_err(|e| format!("must be a time such as \"30s\", or \"0s\": {e}"))
    }

    fn to_toml(&self) -> Value {
        Value::String(humantime::format_duration(self.0).to_string())
    }
}

/// An absolute path: the agent must not depend on its working directory.
impl Setting for PathBuf {
    fn from_text(text: &str) -> Result<Self, String> {
        let path = Path::new(text);
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            return Err(format!("must be an absolute path without \"..\", not {text:?}"));
        }
        if text.contains('\0') {
            return Err("must not contain a NUL".to_owned());
        }
        Ok(path.components().collect())
    }

    fn to_toml(&self) -> Value {
        Value::String(self.display().to_string())
    }
}

/// A path; empty for none.
impl Setting for Option<PathBuf> {
    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { PathBuf::from_text(text).map(Some) }
    }

    fn to_toml(&self) -> Value {
        self.as_ref().map_or_else(|| Value::String(String::new()), Setting::to_toml)
    }
}

impl Setting for IpNet {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.parse::<Self>() {
            Ok(net) if net.addr() == net.network() => Ok(net),
            Ok(net) => Err(format!("{text:?} has host bits set, did you mean {}?", net.trunc())),
            Err(_) => Err(format!("must be a subnet such as \"10.0.0.0/16\", not {text:?}")),
        }
    }

    fn to_toml(&self) -> Value {
        Value::String(self.to_string())
    }
}

impl Setting for SocketAddr {
    fn from_text(text: &str) -> Result<Self, String> {
        let problem =
            |_| format!("must be an IP address and a port (\"127.0.0.1:0\"), not {text:?}");
        text.parse().map_err(problem)
    }

    fn to_toml(&self) -> Value {
        Value::String(self.to_string())
    }
}

/// A socket address; empty for none.
impl Setting for Option<SocketAddr> {
    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { SocketAddr::from_text(text).map(Some) }
    }

    fn to_toml(&self) -> Value {
        Value::String(self.as_ref().map(SocketAddr::to_string).unwrap_or_default())
    }
}

/// A URL; empty for none.
impl Setting for Option<Url> {
    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let plain = |url: &Url| {
            let extra = url.query().is_some() || url.fragment().is_some();
            let login = !url.username().is_empty() || url.password().is_some();
            ["http", "https"].contains(&url.scheme()) && !extra && !login
        };
        let url = Url::parse(text).ok().filter(plain);
        let problem = || format!("must be a URL such as \"https://node:10010\", not {text:?}");
        url.map(Some).ok_or_else(problem)
    }

    fn to_toml(&self) -> Value {
        Value::String(self.as_ref().map(Url::to_string).unwrap_or_default())
    }
}

/// `name=soft:hard`, or `name=both`; `unlimited` is allowed as a number.
impl Setting for Rlimit {
    fn from_text(text: &str) -> Result<Self, String> {
        let parse = || {
            let (name, limits) = text.split_once('=')?;
            let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
            let (soft, hard) = (Limit::figure(soft)?, Limit::figure(hard)?);
            let known = Limit::NAMES.contains(&name) && soft <= hard;
            known.then(|| Self { name: name.to_owned(), soft, hard })
        };
        parse().ok_or_else(|| format!("must be like \"nofile=1024:524288\", not {text:?}"))
    }

    fn to_toml(&self) -> Value {
        Value::String(format!("{}={}:{}", self.name, self.soft, self.hard))
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn from_text(text: &str) -> Result<Self, String> {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(T::from_text).collect()
    }

    fn from_raw(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::List(items) => items.iter().map(T::from_raw).collect(),
            other => Err(format!("must be a list, not {}", name(other))),
        }
    }

    fn from_texts(texts: &[String]) -> Result<Self, String> {
        texts.iter().map(|text| T::from_text(text)).collect()
    }

    fn to_toml(&self) -> Value {
        Value::Array(self.iter().map(Setting::to_toml).collect())
    }
}

/// Implements a setting with a fixed set of words.
macro_rules! words {
    ($type:ty: $($word:literal = $value:expr),+) => {
        impl Setting for $type {
            fn from_text(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($value),)+
                    _ => Err(format!("must be one of {:?}, not {text:?}", [$($word),+])),
                }
            }

            fn to_toml(&self) -> Value {
                $(if *self == $value { return Value::String($word.to_owned()); })+
                Value::String(String::new())
            }
        }
    };
}

words!(CgroupDriver: "auto" = Self::Auto, "cgroupfs" = Self::Cgroupfs, "systemd" = Self::Systemd);
words!(Format: "text" = Self::Text, "json" = Self::Json);
