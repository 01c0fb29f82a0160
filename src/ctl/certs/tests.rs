use std::os::unix::fs::{MetadataExt as _, symlink};

use clap::Parser as _;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::*;
use crate::ctl::{Cli, Command};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With an authority.
    fn with_ca() -> Self {
        let folder = Self::new();
        folder.run(&["init"]).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("pki").join(name)
    }

    fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let dir = self.path("");
        let line = ["podbay", "certs"].iter().chain(words);
        let line = line.copied().chain(["--dir", dir.to_str().unwrap()]);
        match Cli::try_parse_from(line)?.command {
            Command::Certs(command) => run(&command),
            _ => panic!("not certs"),
        }
    }

    fn fault(&self, words: &[&str]) -> String {
        format!("{:#}", self.run(words).unwrap_err())
    }

    fn pem(&self, name: &str) -> x509_parser::pem::Pem {
        parse_x509_pem(&std::fs::read(self.path(name)).unwrap()).unwrap().1
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn an_authority_signs_agents_and_callers() {
    let folder = Folder::new();
    assert!(folder.run(&["init"]).unwrap().contains("remote.client_ca"));
    let agent = ["agent", "--san", "node-1.example", "--san", "10.0.0.1", "--san", "fd00::1"];
    let told = folder.run(&agent).unwrap();
    assert!(told.contains("[remote]") && told.contains(folder.path("agent.key").to_str().unwrap()));
    let uri = "spiffe://example/ctl";
    let client = ["client", "ctl", "--uri", uri, "--dns", "ctl.example", "--email", "ctl@example"];
    assert!(folder.run(&client).unwrap().contains("names = [\"cn:ctl\"]"));

    let [ca, agent, ctl] = ["ca.crt", "agent.crt", "ctl.crt"].map(|name| folder.pem(name));
    let [ca, agent, ctl] = [&ca, &agent, &ctl].map(|pem| pem.parse_x509().unwrap());
    assert!(ca.is_ca() && !agent.is_ca() && !ctl.is_ca());
    assert_eq!(ca.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
    for cert in [&agent, &ctl] {
        cert.verify_signature(Some(ca.public_key())).unwrap();
        assert_eq!(cert.issuer(), ca.subject());
    }
    let usage = |cert: &x509_parser::certificate::X509Certificate<'_>| {
        let usage = cert.extended_key_usage().unwrap().unwrap().value;
        (usage.server_auth, usage.client_auth)
    };
    assert_eq!((usage(&agent), usage(&ctl)), ((true, false), (false, true)));
    let names = |cert: &x509_parser::certificate::X509Certificate<'_>| {
        let names = cert.subject_alternative_name().unwrap().unwrap().value;
        names.general_names.iter().map(GeneralName::to_string).collect::<Vec<_>>().join(" ")
    };
    let of_agent = names(&agent);
    assert!(of_agent.contains("node-1.example") && of_agent.matches("IPAddress").count() == 2);
    let of_ctl = names(&ctl);
    assert!(
        [uri, "ctl.example", "ctl@example"].iter().all(|name| of_ctl.contains(name)),
        "{of_ctl}"
    );
    let days = |cert: &x509_parser::certificate::X509Certificate<'_>| {
        cert.validity().time_to_expiration().unwrap().whole_days()
    };
    assert_eq!(days(&ctl), 89, "90 days less a moment");
}

#[test]
fn keys_are_for_their_owner_alone() {
    let folder = Folder::with_ca();
    folder.run(&["agent", "--san", "a"]).unwrap();
    folder.run(&["client", "c"]).unwrap();
    assert_eq!(
        folder.files(),
        ["agent.crt", "agent.key", "c.crt", "c.key", "ca.crt", "ca.key"],
        "and no drafts"
    );
    for (name, mode) in [("ca.key", 0o600), ("agent.key", 0o600), ("c.key", 0o600), ("", 0o700)] {
        let meta = std::fs::metadata(folder.path(name)).unwrap();
        assert_eq!(meta.mode() & 0o777, mode, "{name}");
    }
}

#[test]
fn nothing_is_overwritten_without_force() {
    let folder = Folder::with_ca();
    folder.run(&["client", "c"]).unwrap();
    let before = std::fs::read(folder.path("c.key")).unwrap();
    for words in [&["init"][..], &["client", "c"]] {
        assert!(folder.fault(words).contains("--force overwrites it"));
    }
    // An existing certificate prevents the creation of the key too; a link counts as a file.
    std::fs::remove_file(folder.path("c.key")).unwrap();
    symlink("/nowhere", folder.path("d.key")).unwrap();
    assert!(folder.fault(&["client", "c"]).contains("c.crt exists"));
    assert!(folder.fault(&["client", "d"]).contains("d.key exists"));
    assert!(!folder.path("c.key").exists());
    folder.run(&["client", "c", "--force"]).unwrap();
    folder.run(&["client", "d", "--force"]).unwrap();
    assert_ne!(std::fs::read(folder.path("c.key")).unwrap(), before);
    assert!(folder.path("d.key").symlink_metadata().unwrap().is_file());
}

#[test]
fn wrong_words_are_refused_and_make_nothing() {
    let folder = Folder::with_ca();
    for (words, why) in [
        (&["agent"][..], "--san"),
        (&["agent", "--san", "a b"], "host name"),
        (&["agent", "--san", ""], "host name"),
        (&["agent", "--san", "*.example"], "host name"),
        (&["client", "../c"], "letters, digits"),
        (&["client", ".c"], "letters, digits"),
        (&["client", ""], "letters, digits"),
        (&["client", "ca"], "authority"),
        (&["client", "c", "--uri", "nothing"], "--uri"),
        (&["client", "c", "--email", "nobody"], "--email"),
        (&["client", "c", "--dns", "-"], "--dns"),
        (&["client", "c", "--lifetime", "1s"], "one minute"),
        (&["client", "c", "--lifetime", "soon"], "--lifetime"),
        (&["client", "c", "--lifetime", "11y"], "shorter --lifetime"),
    ] {
        let fault = folder.fault(words);
        assert!(fault.contains(why), "{words:?}: {fault}");
    }
    assert_eq!(folder.files(), ["ca.crt", "ca.key"]);
}

#[test]
fn an_authority_must_be_there_and_whole() {
    let folder = Folder::new();
    assert!(folder.fault(&["client", "c"]).contains("podbay certs init"));
    folder.run(&["init"]).unwrap();
    let other = Folder::with_ca();
    std::fs::copy(other.path("ca.key"), folder.path("ca.key")).unwrap();
    assert!(folder.fault(&["client", "c"]).contains("do not match"));
    std::fs::write(folder.path("ca.key"), "nothing").unwrap();
    assert!(folder.fault(&["client", "c"]).contains("no private key"));
    std::fs::copy(other.path("ca.key"), folder.path("ca.key")).unwrap();
    std::fs::write(folder.path("ca.crt"), "nothing").unwrap();
    assert!(folder.fault(&["client", "c"]).contains("no certificate"));
}

#[test]
fn certificates_are_revoked_one_after_the_other() {
    let folder = Folder::with_ca();
    let list = |folder: &Folder| {
        let (_, pem) = parse_x509_pem(&std::fs::read(folder.path("ca.crl")).unwrap()).unwrap();
        let (_, list) =
            x509_parser::revocation_list::CertificateRevocationList::from_der(&pem.contents)
                .unwrap();
        let number = list.crl_number().unwrap().to_string();
        let revoked = list.iter_revoked_certificates().map(|it| it.raw_serial().to_vec());
        (number, revoked.collect::<std::collections::BTreeSet<_>>())
    };
    let told = folder.run(&["revoke"]).unwrap();
    assert!(told.contains("0 entries") && told.contains("[remote]\ncrl = ["), "{told}");
    assert_eq!(list(&folder), ("1".to_owned(), Default::default()));
    for name in ["a", "b"] {
        folder.run(&["client", name]).unwrap();
    }
    let serial = |name: &str| folder.pem(name).parse_x509().unwrap().raw_serial().to_vec();
    let (a, b) = (serial("a.crt"), serial("b.crt"));
    folder.run(&["revoke", "a"]).unwrap();
    assert_eq!(list(&folder), ("2".to_owned(), [a.clone()].into()));
    // By its file, twice, and one whose file is lost.
    let file = folder.path("b.crt");
    folder.run(&["revoke", file.to_str().unwrap(), "b", "--serial", "0A:1B"]).unwrap();
    assert_eq!(list(&folder), ("3".to_owned(), [a, b, vec![0x0a, 0x1b]].into()));
}

#[test]
fn what_cannot_be_revoked_is_refused_and_the_list_stays() {
    let folder = Folder::with_ca();
    folder.run(&["client", "a"]).unwrap();
    folder.run(&["revoke", "a"]).unwrap();
    let before = std::fs::read(folder.path("ca.crl")).unwrap();
    let other = Folder::new();
    other.run(&["init", "--name", "other"]).unwrap();
    other.run(&["client", "x"]).unwrap();
    let foreign = other.path("x.crt");
    for (words, said) in [
        (["revoke", "nobody"], "nobody.crt"),
        (["revoke", foreign.to_str().unwrap()], "was not issued by this"),
        (["revoke", "ca"], "is the certificate authority"),
        (["revoke", "--serial=xyz"], "invalid value"),
        (["revoke", "--serial=00"], "must have 1 to 20 bytes"),
    ] {
        let told = folder.fault(&words);
        assert!(told.contains(said), "{words:?}: {told}");
    }
    assert_eq!(std::fs::read(folder.path("ca.crl")).unwrap(), before);
    std::fs::write(folder.path("ca.crl"), "nothing").unwrap();
    assert!(folder.fault(&["revoke"]).contains("contains no list of revoked certificates"));
    assert!(Folder::new().fault(&["revoke"]).contains("podbay certs init"));
}
