//! Selects the agent: contexts in a file, the environment, flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use url::Url;

use super::error::Error;
use crate::config::Inputs;

/// Default address of an agent on this machine.
const DEFAULT_SOCKET: &str = "/run/podbay/podbay.sock";

/// Which agent to ask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ContextArgs {
    /// Context to use [env: PODBAY_CONTEXT]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Agent")]
    pub context: Option<String>,
    /// Address of the agent: a path, unix:///path or https://host:port [env: PODBAY_ADDRESS]
    #[arg(long, global = true, value_name = "ADDRESS", help_heading = "Agent")]
    pub address: Option<String>,
    /// Contexts file [env: PODBAY_CLIENT_CONFIG] [default: ~/.config/podbay/config.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Agent")]
    pub client_config: Option<PathBuf>,
}

/// The contexts file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Contexts {
    /// The default context.
    pub current: Option<String>,
    /// The agents by name.
    pub contexts: BTreeMap<String, Context>,
}

/// The settings for one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Context {
    /// Its address, as in `--address`.
    pub address: Option<String>,
    /// Certificate authority of the agent; PEM. Paths are relative to the file.
    pub ca: Option<PathBuf>,
    /// Certificate of the caller; PEM.
    pub cert: Option<PathBuf>,
    /// Its key; PEM.
    pub key: Option<PathBuf>,
    /// Name in the agent's certificate; by default the host of the address.
    pub server_name: Option<String>,
    /// Default namespace; `default` if omitted.
    pub namespace: Option<String>,
}

/// The address of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// TCP with mutual TLS.
    Tls {
        /// Host name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
        /// TLS files.
        files: TlsFiles,
    },
}

/// Files of a TLS client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate authority of the agent.
    pub ca: PathBuf,
    /// The caller's certificate.
    pub cert: PathBuf,
    /// The caller's key.
    pub key: PathBuf,
    /// Expected name in the agent's certificate.
    pub server_name: String,
}

/// The selected agent and its defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meant {
    /// Its address.
    pub address: Address,
    /// The address as given, for messages.
    pub shown: String,
    /// Default namespace.
    pub namespace: Option<String>,
}

impl ContextArgs {
    /// Whether any flag was given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The contexts file and its path; the default file need not exist.
    pub fn load(&self, inputs: &dyn Inputs) -> Result<(PathBuf, Contexts), Error> {
        let named = self.client_config.clone();
        let named = named.or_else(|| variable(inputs, "PODBAY_CLIENT_CONFIG").map(PathBuf::from));
        let optional = named.is_none();
        let path = match named.or_else(|| default_file(inputs)) {
            Some(path) => path,
            None => return Ok((PathBuf::new(), Contexts::default())),
        };
        let text = match inputs.read(&path) {
            Ok(text) => text,
            Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(Error::Misuse(format!("read {}: {error}", path.display())));
            }
        };
        let contexts = toml::from_str(&text).map_err(|error| {
            let line = text[..error.span().map_or(0, |span| span.start)].matches('\n').count() + 1;
            Error::Misuse(format!("{}:{line}: {}", path.display(), error.message()))
        })?;
        Ok((path, contexts))
    }

    /// The selected agent. Flags take precedence over the environment, and that over the file; a
    /// context in a flag takes precedence over an address in the environment.
    pub fn resolve(&self, inputs: &dyn Inputs) -> Result<Meant, Error> {
        let (path, contexts) = self.load(inputs)?;
        let typed = self.address.clone();
        let address = match (&typed, &self.context) {
            (None, None) => variable(inputs, "PODBAY_ADDRESS"),
            _ => typed,
        };
        let named = self.context.clone().or_else(|| variable(inputs, "PODBAY_CONTEXT"));
        let named = named.or_else(|| contexts.current.clone());
        let context = match &named {
            Some(name) => contexts.contexts.get(name).cloned().ok_or_else(|| {
                Error::Misuse(format!("there is no context {name:?} in {}", path.display()))
            })?,
            None => Context::default(),
        };
        let shown = address.or_else(|| context.address.clone());
        let shown = shown.unwrap_or_else(|| DEFAULT_SOCKET.to_owned());
        let folder = path.parent().unwrap_or(Path::new(""));
        context.agent(shown, folder)
    }
}

impl Context {
    /// The agent at this address, with these settings. Paths are relative to `folder`.
    ///
    /// # Errors
    /// [`Error::Misuse`] for an invalid address, or one of TCP without the files that it needs.
    pub fn agent(self, shown: String, folder: &Path) -> Result<Meant, Error> {
        let address = parse(&shown, &self, folder)?;
        Ok(Meant { address, shown, namespace: self.namespace })
    }
}

fn variable(inputs: &dyn Inputs, name: &str) -> Option<String> {
    let found = inputs.variables().into_iter().find(|(key, _)| key == name);
    found.and_then(|(_, value)| value.into_string().ok()).filter(|value| !value.is_empty())
}

fn default_file(inputs: &dyn Inputs) -> Option<PathBuf> {
    let folder = variable(inputs, "XDG_CONFIG_HOME").map(PathBuf::from);
    let folder = folder.filter(|path| path.is_absolute());
    let home = || variable(inputs, "HOME").map(|home| Path::new(&home).join(".config"));
    folder.or_else(home).map(|folder| folder.join("podbay/config.toml"))
}

fn parse(text: &str, context: &Context, folder: &Path) -> Result<Address, Error> {
    if let Some(path) = text.strip_prefix("unix://").or(text.starts_with('/').then_some(text)) {
        return match Path::new(path) {
            path if path.is_absolute() => Ok(Address::Unix(path.to_owned())),
            _ => Err(Error::Misuse(format!("address {text:?}: the path must be absolute"))),
        };
    }
    let fault = || {
        Error::Misuse(format!(
            "address {text:?}: must be a path, unix:///path or https://host:port"
        ))
    };
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url = Url::parse(&whole).map_err(|_| fault())?;
    let bare =
        ["", "/"].contains(&url.path()) && url.query().is_none() && url.username().is_empty();
    let (Some(host), true, "https") = (url.host(), bare, url.scheme()) else {
        return Err(fault());
    };
    // The default https port is omitted in a parsed URL, but must have been given.
    let port = url.port().or(whole.trim_end_matches('/').ends_with(":443").then_some(443));
    let host = match host {
        url::Host::Domain(name) => name.to_owned(),
        url::Host::Ipv4(address) => address.to_string(),
        url::Host::Ipv6(address) => address.to_string(),
    };
    let file = |path: &Option<PathBuf>, key: &str| {
        let path = path.as_ref().ok_or_else(|| {
            Error::Misuse(format!("address {text:?} needs a context with {key:?}, a PEM file"))
        });
        path.map(|path| folder.join(path))
    };
    let files = TlsFiles {
        ca: file(&context.ca, "ca")?,
        cert: file(&context.cert, "cert")?,
        key: file(&context.key, "key")?,
        server_name: context.server_name.clone().unwrap_or_else(|| host.clone()),
    };
    Ok(Address::Tls { host, port: port.ok_or_else(fault)?, files })
}

#[cfg(test)]
mod tests;
