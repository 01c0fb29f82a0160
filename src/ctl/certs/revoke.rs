//! The certificate revocation list, ca.crl: read, extended, signed and replaced.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use time::OffsetDateTime;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{BEFORE, Place};

/// File of the list.
const LIST: &str = "ca.crl";

/// Bytes of a serial number without leading zeros.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Serial(Vec<u8>);

impl Serial {
    fn new(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes[zeros..].to_vec())
    }
}

/// A serial number as openssl prints it: `0a1b` or `0A:1B`.
pub(super) fn serial(text: &str) -> Result<Serial, String> {
    let digits: String = text.chars().filter(|digit| *digit != ':').collect();
    let even = if digits.len().is_multiple_of(2) { digits } else { format!("0{digits}") };
    let bytes = hex::decode(even).map_err(|error| error.to_string())?;
    let serial = Serial::new(&bytes);
    let fits = (1..=20).contains(&serial.0.len());
    fits.then_some(serial).ok_or_else(|| "must have 1 to 20 bytes".to_owned())
}

/// The contents of the list: serial numbers and revocation times.
#[derive(Default)]
struct List {
    number: u64,
    revoked: BTreeMap<Serial, OffsetDateTime>,
}

pub(super) fn revoke(
    certs: &[String],
    serials: &[Serial],
    lifetime: Duration,
    place: &Place,
) -> anyhow::Result<String> {
    let now = OffsetDateTime::now_utc();
    let authority = place.authority(now)?;
    let issuer = subject(&place.dir.join("ca.crt"))?;
    let mut list = List::read(&place.dir.join(LIST), &issuer)?;
    let mut added = Vec::new();
    for cert in certs {
        added.push(serial_of(&file(cert, &place.dir), &issuer)?);
    }
    added.extend(serials.iter().cloned());
    for serial in added {
        list.revoked.entry(serial).or_insert(now - BEFORE);
    }
    let end = time::Duration::try_from(lifetime).ok().and_then(|time| now.checked_add(time));
    let params = CertificateRevocationListParams {
        this_update: now - BEFORE,
        next_update: end.context("--lifetime is too long")?,
        crl_number: SerialNumber::from(list.number + 1),
        issuing_distribution_point: None,
        revoked_certs: list.revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let text = params.signed_by(&authority).context("sign the list")?.pem()?;
    let path = place.write(LIST, 0o644, &text)?;
    let count = list.revoked.len();
    Ok(format!(
        "{path}  list of revoked certificates, {count} entries\n\
         \n\
         Copy it to every agent, replacing the old one: the agent reloads it. If there was none\n\
         before, add it to /etc/podbay/config.toml there and restart the agent:\n\
         \n\
         [remote]\n\
         crl = [{shown:?}]\n",
        path = path.display(),
        shown = path.display().to_string(),
    ))
}

fn entry((serial, at): (&Serial, &OffsetDateTime)) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from_slice(&serial.0),
        revocation_time: *at,
        reason_code: None,
        invalidity_date: None,
    }
}

/// A name refers to a file in the authority's directory, unless it is a path.
fn file(cert: &str, dir: &Path) -> PathBuf {
    let is_path = cert.contains('/') || Path::new(cert).is_file();
    if is_path { cert.into() } else { dir.join(format!("{cert}.crt")) }
}

/// The subject of a certificate, as bytes.
fn subject(path: &Path) -> anyhow::Result<Vec<u8>> {
    read(path, |cert| Ok(cert.subject().as_raw().to_vec()))
}

fn serial_of(path: &Path, issuer: &[u8]) -> anyhow::Result<Serial> {
    read(path, |cert| {
        ensure!(
            cert.issuer().as_raw() == issuer,
            "{} was not issued by this certificate authority",
            path.display()
        );
        ensure!(
            cert.subject().as_raw() != issuer,
            "{} is the certificate authority itself",
            path.display()
        );
        Ok(Serial::new(cert.raw_serial()))
    })
}

fn read<T>(
    path: &Path,
    look: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let bad = || format!("{} contains no certificate", path.display());
    let (_, pem) = parse_x509_pem(&text).with_context(bad)?;
    look(&pem.parse_x509().with_context(bad)?)
}

impl List {
    /// An empty list if there is none yet.
    fn read(path: &Path, issuer: &[u8]) -> anyhow::Result<Self> {
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            read => read.with_context(|| format!("read {}", path.display()))?,
        };
        let bad = || format!("{} contains no list of revoked certificates", path.display());
        let (_, pem) = parse_x509_pem(&text).with_context(bad)?;
        let (_, parsed) = CertificateRevocationList::from_der(&pem.contents).with_context(bad)?;
        if parsed.issuer().as_raw() != issuer {
            bail!("{} was issued by another certificate authority", path.display());
        }
        let number = parsed.crl_number().and_then(|number| number.try_into().ok());
        let revoked = parsed.iter_revoked_certificates().map(|revoked| {
            (Serial::new(revoked.raw_serial()), revoked.revocation_date.to_datetime())
        });
        Ok(Self { number: number.unwrap_or_default(), revoked: revoked.collect() })
    }
}
