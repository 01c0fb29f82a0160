//! A field being validated: its path, and the reporting of faults.

use std::cell::RefCell;
use std::fmt::{Debug, Display};

use crate::pod::FieldError;

/// The faults of one object.
#[derive(Default)]
pub(super) struct Faults(RefCell<Vec<FieldError>>);

impl Faults {
    /// The object itself.
    pub fn root(&self) -> At<'_> {
        At { path: String::new(), faults: self }
    }

    pub fn into_list(self) -> Vec<FieldError> {
        self.0.into_inner()
    }
}

/// One field.
#[derive(Clone)]
pub(super) struct At<'a> {
    path: String,
    faults: &'a Faults,
}

impl At<'_> {
    pub fn field(&self, name: &str) -> Self {
        let joint = if self.path.is_empty() { "" } else { "." };
        Self { path: format!("{}{joint}{name}", self.path), faults: self.faults }
    }

    pub fn item(&self, index: usize) -> Self {
        self.key(index)
    }

    pub fn key(&self, key: impl Display) -> Self {
        Self { path: format!("{}[{key}]", self.path), faults: self.faults }
    }

    fn say(&self, message: String) {
        self.faults.0.borrow_mut().push(FieldError { path: self.path.clone(), message });
    }

    pub fn invalid(&self, value: impl Debug, why: impl Display) {
        self.say(format!("Invalid value: {value:?}: {why}"));
    }

    /// Reports a fault without repeating the value.
    pub fn wrong(&self, why: impl Display) {
        self.say(format!("Invalid value: {why}"));
    }

    pub fn required(&self, why: &str) {
        self.say(if why.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {why}")
        });
    }

    pub fn forbidden(&self, why: impl Display) {
        self.say(format!("Forbidden: {why}"));
    }

    pub fn duplicate(&self, value: impl Debug) {
        self.say(format!("Duplicate value: {value:?}"));
    }

    pub fn not_found(&self, value: &str) {
        self.say(format!("Not found: {value:?}"));
    }

    pub fn too_long(&self, most: usize) {
        self.say(format!("Too long: may not be more than {most} bytes"));
    }

    pub fn too_many(&self, count: usize, most: usize) {
        self.say(format!("Too many: {count}: must have at most {most} items"));
    }

    /// Requires one of these values.
    pub fn one_of(&self, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            let list = supported.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>();
            let list = list.join(", ");
            self.say(format!("Unsupported value: {value:?}: supported values: {list}"));
        }
    }

    /// Like [`At::one_of`], but only if the field is set.
    pub fn one_of_if_set(&self, value: &Option<String>, supported: &[&str]) {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            self.one_of(value, supported);
        }
    }

    /// Reports every complaint about a value.
    pub fn all(&self, value: &str, complaints: Vec<String>) {
        for complaint in complaints {
            self.invalid(value, complaint);
        }
    }

    /// Requires a value, and reports every complaint about it.
    pub fn named(&self, value: &str, complaints: impl FnOnce(&str) -> Vec<String>) {
        if value.is_empty() {
            self.required("");
        } else {
            self.all(value, complaints(value));
        }
    }

    pub fn not_negative(&self, value: impl Into<i64>) {
        let value = value.into();
        if value < 0 {
            self.invalid(value, "must be greater than or equal to 0");
        }
    }

    pub fn between(&self, value: impl Into<i64>, least: i64, most: i64) {
        let value = value.into();
        if !(least..=most).contains(&value) {
            self.invalid(value, format!("must be between {least} and {most}, inclusive"));
        }
    }
}
