//! The policy file: maps names to roles.
//!
//! ```toml
//! [[allow]]
//! names = ["cn:controller", "uri:spiffe://example/controller"]
//! role = "operate"
//! namespaces = ["team-a"]   # all namespaces if omitted
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::names::{self, Names};
use super::{Grant, Role};
use crate::telemetry::escape;

/// Permissions by name. Names that are not listed have none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    allow: BTreeMap<String, Vec<Grant>>,
}

/// All faults of a policy file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFaults {
    path: PathBuf,
    /// Line number, from 1, and problem.
    faults: Vec<(usize, String)>,
}

impl fmt::Display for PolicyFaults {
    /// Writes one fault per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = escape(&self.path.display().to_string());
        for (index, (line, problem)) in self.faults.iter().enumerate() {
            let feed = if index == 0 { "" } else { "\n" };
            write!(f, "{feed}{path}:{line}: {}", escape(problem))?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyFaults {}

impl Policy {
    /// Parses a policy; `path` is used in messages.
    ///
    /// # Errors
    /// All faults together.
    pub fn parse(path: &Path, text: &str) -> Result<Self, PolicyFaults> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut reader = Reader { text, faults: Vec::new(), policy: Self::default() };
        for error in errors {
            reader.fault(error.span().unwrap_or_default(), error.message());
        }
        reader.root(table.get_ref());
        if reader.faults.is_empty() {
            return Ok(reader.policy);
        }
        let mut faults = reader.faults;
        faults.sort();
        Err(PolicyFaults { path: path.to_owned(), faults })
    }

    /// What a caller with these names may access with a call that requires `role`; `None` for
    /// nothing.
    pub(super) fn grant(&self, names: &Names, role: Role) -> Option<Grant> {
        let grants = names.iter().filter_map(|name| self.allow.get(name)).flatten();
        let mut fitting = grants.filter(|grant| grant.role >= role).peekable();
        fitting.peek()?;
        let mut all = BTreeSet::new();
        for grant in fitting {
            match &grant.namespaces {
                None => return Some(Grant { role, namespaces: None }),
                Some(some) => all.extend(some.iter().cloned()),
            }
        }
        Some(Grant { role, namespaces: Some(Arc::new(all)) })
    }
}

/// Collects valid rules and faults.
struct Reader<'a> {
    text: &'a str,
    faults: Vec<(usize, String)>,
    policy: Policy,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    fn fault(&mut self, at: Range<usize>, problem: impl Into<String>) {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        self.faults.push((line, problem.into()));
    }

    fn root(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("allow", DeValue::Array(rules)) => {
                    for rule in rules.iter() {
                        match rule.get_ref() {
                            DeValue::Table(fields) => self.rule(rule.span(), fields),
                            _ => self.fault(rule.span(), "allow: must be tables, [[allow]]"),
                        }
                    }
                }
                ("allow", _) => self.fault(key.span(), "allow: must be tables, [[allow]]"),
                (other, _) => self.fault(key.span(), format!("{other}: unknown key")),
            }
        }
    }

    fn rule(&mut self, span: Range<usize>, fields: &DeTable<'_>) {
        let (mut names, mut role, mut namespaces) = (None, None, None);
        for (key, value) in fields {
            match key.get_ref().as_ref() {
                "names" => names = Some(self.texts("names", value, &names::checked)),
                "role" => role = Some(self.role(value)),
                "namespaces" => namespaces = Some(self.texts("namespaces", value, &namespace)),
                other => self.fault(key.span(), format!("{other}: unknown key")),
            }
        }
        if names.is_none() {
            self.fault(span.clone(), "names: is missing");
        }
        if role.is_none() {
            self.fault(span, "role: is missing");
        }
        if let (Some(names), Some(Some(role))) = (names, role) {
            let grant = Grant { role, namespaces: namespaces.map(Arc::new) };
            for name in names {
                self.policy.allow.entry(name).or_default().push(grant.clone());
            }
        }
    }

    fn role(&mut self, value: &Value<'_>) -> Option<Role> {
        let text = value.get_ref().as_str().unwrap_or_default();
        let found = Role::ALL.into_iter().find(|role| role.as_str() == text);
        if found.is_none() {
            self.fault(value.span(), "role: must be \"view\", \"operate\" or \"admin\"");
        }
        found
    }

    /// A non-empty list of texts: an empty one could be misread as "all".
    fn texts(
        &mut self,
        key: &str,
        value: &Value<'_>,
        check: &dyn Fn(&str) -> Result<String, String>,
    ) -> BTreeSet<String> {
        let items = match value.get_ref() {
            DeValue::Array(items) if !items.is_empty() => items,
            _ => {
                self.fault(value.span(), format!("{key}: must be a list of texts, not empty"));
                return BTreeSet::new();
            }
        };
        let mut texts = BTreeSet::new();
        for item in items.iter() {
            match item.get_ref().as_str().map(check) {
                Some(Ok(text)) => drop(texts.insert(text)),
                Some(Err(problem)) => self.fault(item.span(), format!("{key}: {problem}")),
                None => self.fault(item.span(), format!("{key}: must be texts")),
            }
        }
        texts
    }
}

/// Checks Kubernetes' rule for namespace names.
fn namespace(name: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = !name.starts_with('-') && !name.ends_with('-');
    if (1..=63).contains(&name.len()) && ends && name.bytes().all(good) {
        Ok(name.to_owned())
    } else {
        Err(format!("{name:?} must be small letters, digits and '-', at most 63"))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::super::Caller;
    use super::*;

    fn parse(text: &str) -> Result<Policy, PolicyFaults> {
        Policy::parse(Path::new("/p.toml"), text)
    }

    fn names(dns: &[&str], common: &str) -> Names {
        let dns: Vec<_> = dns.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(dns).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let caller = Caller::new(certificate.der(), ([127, 0, 0, 1], 1).into()).unwrap();
        Names::clone(&caller.names)
    }

    #[test]
    fn what_is_not_allowed_is_denied() {
        for text in ["", "[[allow]]\nnames = [\"cn:alice\"]\nrole = \"admin\""] {
            let policy = parse(text).unwrap();
            for role in Role::ALL {
                assert_eq!(policy.grant(&names(&["alice"], "Alice"), role), None);
                assert_eq!(policy.grant(&Names::default(), role), None);
            }
        }
    }

    #[test]
    fn a_role_includes_the_lesser_ones_and_rules_add_up() {
        let policy = parse(
            r#"
            [[allow]]
            names = ["dns:Ctl.example", "cn:other"]
            role = "operate"
            namespaces = ["a", "b"]
            [[allow]]
            names = ["cn:ctl"]
            role = "admin"
            namespaces = ["c"]
            [[allow]]
            names = ["cn:ctl"]
            role = "view"
            "#,
        )
        .unwrap();
        let caller = names(&["ctl.EXAMPLE"], "ctl");
        let spaces = |role| policy.grant(&caller, role).unwrap().namespaces;
        let some = |names: &[&str]| Some(Arc::new(names.iter().map(|n| (*n).to_owned()).collect()));
        assert_eq!(spaces(Role::View), None, "all");
        assert_eq!(spaces(Role::Operate), some(&["a", "b", "c"]));
        assert_eq!(spaces(Role::Admin), some(&["c"]));
        assert_eq!(policy.grant(&names(&[], "other"), Role::Admin), None);
    }

    #[test]
    fn all_faults_are_told_at_once_with_their_lines() {
        let faults = parse(
            r#"colour = 1
[[allow]]
names = ["alice", 7]
role = "root"
[[allow]]
nmaes = []
namespaces = []
[[allow]]
names = ["cn:a"]
role = "view"
namespaces = ["Kube", "x"]
"#,
        )
        .unwrap_err();
        let text = faults.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "/p.toml:1: colour: unknown key",
                "/p.toml:3: names: \"alice\" must begin with cn:, dns:, uri: or email:",
                "/p.toml:3: names: must be texts",
                "/p.toml:4: role: must be \"view\", \"operate\" or \"admin\"",
                "/p.toml:5: names: is missing",
                "/p.toml:5: role: is missing",
                "/p.toml:6: nmaes: unknown key",
                "/p.toml:7: namespaces: must be a list of texts, not empty",
                "/p.toml:11: namespaces: \"Kube\" must be small letters, digits and '-', at most 63",
            ]
        );
        for bad in ["allow = 1", "allow = [1]", "[allow]\nx = 1", "not toml at all", "[[allow]"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
