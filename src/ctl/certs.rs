//! `podbay certs`: a small certificate authority for users without one.
//!
//! Keys are ECDSA P-256. A key file is readable only by its owner from its creation on, and
//! existing files are not overwritten without `--force`.

mod revoke;

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use time::OffsetDateTime;
use x509_parser::pem::parse_x509_pem;

/// Certificates are valid from a little before their creation, because clocks differ.
const BEFORE: Duration = Duration::from_secs(5 * 60);

const DEFAULT_DIR: &str = "/etc/podbay/pki";

/// Create certificates for remote access.
#[derive(Debug, Subcommand)]
pub enum CertsCommand {
    /// Create a certificate authority: ca.crt and ca.key
    Init {
        /// Name of the certificate authority
        #[arg(long, default_value = "podbay")]
        name: String,
        /// Validity period, e.g. 10y
        #[arg(long, default_value = "10y", value_parser = lifetime)]
        lifetime: Duration,
        #[command(flatten)]
        place: Place,
    },
    /// Create a certificate for an agent: agent.crt and agent.key
    Agent {
        /// Host name or IP address that clients use to reach the agent; may be repeated
        #[arg(long = "san", value_name = "NAME", required = true)]
        sans: Vec<String>,
        /// Base name of the files
        #[arg(long, default_value = "agent")]
        name: String,
        /// Validity period, e.g. 1y
        #[arg(long, default_value = "1y", value_parser = lifetime)]
        lifetime: Duration,
        #[command(flatten)]
        place: Place,
    },
    /// Create a certificate for a client: NAME.crt and NAME.key
    Client {
        /// Name of the client (common name), also the base name of the files
        name: String,
        /// URI to include, e.g. spiffe://example/controller; may be repeated
        #[arg(long = "uri", value_name = "URI")]
        uris: Vec<String>,
        /// DNS name to include; may be repeated
        #[arg(long = "dns", value_name = "NAME")]
        dns: Vec<String>,
        /// Email address to include; may be repeated
        #[arg(long = "email", value_name = "ADDRESS")]
        emails: Vec<String>,
        /// Validity period, e.g. 90d
        #[arg(long, default_value = "90d", value_parser = lifetime)]
        lifetime: Duration,
        #[command(flatten)]
        place: Place,
    },
    /// Revoke certificates: create or extend ca.crl
    ///
    /// The list keeps all certificates revoked so far. Agents reload it (remote.crl) when the file
    /// changes: they refuse clients with these certificates and close their connections.
    Revoke {
        /// Certificate file, or the name it was created with; none to write an empty list
        #[arg(value_name = "NAME|FILE")]
        certs: Vec<String>,
        /// Serial number in hex, for a certificate whose file is lost; may be repeated
        #[arg(long = "serial", value_name = "HEX", value_parser = revoke::serial)]
        serials: Vec<revoke::Serial>,
        /// Time until the next list is due; agents also accept an overdue list
        #[arg(long, default_value = "1y", value_parser = lifetime)]
        lifetime: Duration,
        /// Directory of the certificate authority
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
        dir: PathBuf,
    },
}

/// Where files are written.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Directory for the files
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    pub dir: PathBuf,
    /// Overwrite existing files
    #[arg(long)]
    pub force: bool,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let (least, most) = (Duration::from_secs(60), Duration::from_secs(100 * 366 * 24 * 3600));
    let fits = (least..=most).contains(&time);
    fits.then_some(time).ok_or_else(|| "must be one minute to a hundred years".to_owned())
}

/// Runs the command; the text says what was created and where to put it.
///
/// # Errors
/// What is wrong; then no file was written, or only a key without a certificate.
pub fn run(command: &CertsCommand) -> anyhow::Result<String> {
    match command {
        CertsCommand::Init { name, lifetime, place } => init(name, *lifetime, place),
        CertsCommand::Agent { sans, name, lifetime, place } => agent(sans, name, *lifetime, place),
        CertsCommand::Client { name, uris, dns, emails, lifetime, place } => {
            let mut names = Vec::new();
            for uri in uris {
                let bad = || format!("--uri {uri:?} is not a valid URI");
                ensure!(uri.contains(':'), bad());
                names.push(SanType::URI(uri.as_str().try_into().with_context(bad)?));
            }
            for name in dns {
                names.push(dns_name(name).with_context(|| format!("--dns {name:?}"))?);
            }
            for email in emails {
                let bad = || format!("--email {email:?} is not a valid email address");
                ensure!(email.contains('@'), bad());
                names.push(SanType::Rfc822Name(email.as_str().try_into().with_context(bad)?));
            }
            client(name, names, *lifetime, place)
        }
        CertsCommand::Revoke { certs, serials, lifetime, dir } => {
            let place = Place { dir: dir.clone(), force: true };
            revoke::revoke(certs, serials, *lifetime, &place)
        }
    }
}

fn init(name: &str, lifetime: Duration, place: &Place) -> anyhow::Result<String> {
    ensure!(!name.is_empty() && name.len() <= 64, "--name must have 1 to 64 bytes");
    place.check(&["ca.key", "ca.crt"])?;
    let mut params = dated(CertificateParams::default(), lifetime)?;
    params.distinguished_name.push(DnType::CommonName, name);
    // It signs client and agent certificates, but no intermediate authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = place.write("ca.key", 0o600, &authority.key().serialize_pem())?;
    let cert = place.write("ca.crt", 0o644, &authority.pem())?;
    Ok(format!(
        "{cert}  certificate authority: copy it to every agent (remote.client_ca) and client\n\
         {key}  private key: keep it on this host, preferably not one that runs pods\n\
         \n\
         Next: podbay certs agent --san HOST, podbay certs client NAME\n",
        cert = cert.display(),
        key = key.display(),
    ))
}

fn agent(sans: &[String], name: &str, lifetime: Duration, place: &Place) -> anyhow::Result<String> {
    let (key_name, cert_name) = file_names(name)?;
    place.check(&[&key_name, &cert_name])?;
    let mut params = dated(CertificateParams::default(), lifetime)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for san in sans {
        params.subject_alt_names.push(match san.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => dns_name(san).with_context(|| format!("--san {san:?}"))?,
        });
    }
    let (key, cert) = place.signed(params, &key_name, &cert_name)?;
    let reached = sans.join(", ");
    Ok(format!(
        "{cert}  certificate of the agent at {reached}\n\
         {key}  private key\n\
         \n\
         Copy both and ca.crt to the agent's host, and add to /etc/podbay/config.toml there:\n\
         \n\
         [remote]\n\
         address = \"0.0.0.0:10350\"\n\
         cert = {cert:?}\n\
         key = {key:?}\n\
         client_ca = {ca:?}\n\
         policy = \"/etc/podbay/policy.toml\"\n",
        cert = cert.display().to_string(),
        key = key.display().to_string(),
        ca = place.dir.join("ca.crt").display().to_string(),
    ))
}

fn client(
    name: &str,
    names: Vec<SanType>,
    lifetime: Duration,
    place: &Place,
) -> anyhow::Result<String> {
    let (key_name, cert_name) = file_names(name)?;
    place.check(&[&key_name, &cert_name])?;
    let mut params = dated(CertificateParams::default(), lifetime)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = names;
    let (key, cert) = place.signed(params, &key_name, &cert_name)?;
    Ok(format!(
        "{cert}  certificate of {name}\n\
         {key}  private key\n\
         \n\
         Copy both and ca.crt to the host of {name}. On each agent, set in\n\
         /etc/podbay/policy.toml what {name} may do (view, operate or admin):\n\
         \n\
         [[allow]]\n\
         names = [\"cn:{name}\"]\n\
         role = \"operate\"\n",
        cert = cert.display(),
        key = key.display(),
    ))
}

fn dated(mut params: CertificateParams, lifetime: Duration) -> anyhow::Result<CertificateParams> {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BEFORE;
    let end = time::Duration::try_from(lifetime).ok().and_then(|time| now.checked_add(time));
    params.not_after = end.context("--lifetime is too long")?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn dns_name(name: &str) -> anyhow::Result<SanType> {
    let part = |part: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&part.len())
            && part.bytes().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    ensure!(
        name.len() <= 253 && name.split('.').all(part),
        "is neither a host name nor an IP address"
    );
    Ok(SanType::DnsName(name.try_into()?))
}

/// File names of key and certificate; the name becomes part of a path.
fn file_names(name: &str) -> anyhow::Result<(String, String)> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    let fits = (1..=64).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('.');
    ensure!(fits, "{name:?} must be letters, digits, '.', '_', '-' and '@', at most 64");
    ensure!(name != "ca", "\"ca\" is reserved for the certificate authority");
    Ok((format!("{name}.key"), format!("{name}.crt")))
}

impl Place {
    /// Checks that none of these files exists, unless they may be overwritten.
    fn check(&self, names: &[&str]) -> anyhow::Result<()> {
        for name in names {
            let path = self.dir.join(name);
            if !self.force && path.symlink_metadata().is_ok() {
                bail!("{} exists; --force overwrites it", path.display());
            }
        }
        Ok(())
    }

    /// Creates a key and a certificate signed by the authority, and writes both.
    fn signed(
        &self,
        params: CertificateParams,
        key_name: &str,
        cert_name: &str,
    ) -> anyhow::Result<(PathBuf, PathBuf)> {
        let authority = self.authority(params.not_after)?;
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &authority)?;
        let key = self.write(key_name, 0o600, &key.serialize_pem())?;
        Ok((key, self.write(cert_name, 0o644, &cert.pem())?))
    }

    /// The authority in this directory, which must be valid until `end`.
    fn authority(&self, end: OffsetDateTime) -> anyhow::Result<Issuer<'static, KeyPair>> {
        let (cert_path, key_path) = (self.dir.join("ca.crt"), self.dir.join("ca.key"));
        let read = |path: &Path| {
            let what = || format!("read {} (`podbay certs init` creates it)", path.display());
            std::fs::read_to_string(path).with_context(what)
        };
        let (cert, key) = (read(&cert_path)?, read(&key_path)?);
        let bad_key = || format!("{} contains no private key", key_path.display());
        let key = KeyPair::from_pem(&key).with_context(bad_key)?;
        let bad_cert = || format!("{} contains no certificate", cert_path.display());
        let (_, pem) = parse_x509_pem(cert.as_bytes()).with_context(bad_cert)?;
        let parsed = pem.parse_x509().with_context(bad_cert)?;
        let fits = parsed.public_key().subject_public_key.data == key.public_key_raw();
        ensure!(fits, "{} and {} do not match", cert_path.display(), key_path.display());
        let last = parsed.validity().not_after.timestamp();
        let ended = || OffsetDateTime::from_unix_timestamp(last).map(|end| end.to_string());
        if end.unix_timestamp() > last {
            bail!(
                "the certificate authority expires {}: use a shorter --lifetime",
                ended().unwrap_or_default()
            );
        }
        Issuer::from_ca_cert_pem(&cert, key).with_context(bad_cert)
    }

    /// Writes a file atomically.
    fn write(&self, name: &str, mode: u32, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.join(name);
        self.try_write(&path, name, mode, text)
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    fn try_write(&self, path: &Path, name: &str, mode: u32, text: &str) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let draft = self.dir.join(format!(".{name}.{}", std::process::id()));
        let written = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            let flags = if self.force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
            renameat_with(CWD, &draft, CWD, path, flags)?;
            File::open(&self.dir)?.sync_all()
        };
        written().inspect_err(|_| {
            // A leftover draft is a useless key.
            let _ = std::fs::remove_file(&draft);
        })
    }
}

#[cfg(test)]
mod tests;
