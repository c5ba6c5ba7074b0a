//! Reads TOML section by section and collects *every* problem with its line, instead of stopping at the first as a
//! derived deserializer does. Knows nothing about what the keys mean.

use std::{cell::RefCell, collections::BTreeSet, ops::RangeInclusive, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    amount::{parse_bytes, parse_duration},
    nearest::nearest,
    pem::{Named, Pem},
    problem::{Place, Problem},
};

/// A TOML file that was parsed, and the problems met while reading it.
pub struct Document<'t> {
    file: String,
    text: &'t str,
    table: DeTable<'t>,
    problems: RefCell<Vec<Problem>>,
    pems: RefCell<Vec<Pem>>,
}

impl<'t> Document<'t> {
    /// Parses `text`; syntax errors become problems and what could be read is read on.
    pub fn parse(file: impl Into<String>, text: &'t str) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let (file, table) = (file.into(), table.into_inner());
        let document = Self { file, text, table, problems: RefCell::default(), pems: RefCell::default() };
        for error in errors {
            let line = error.span().map_or(0, |span| document.line(span.start));
            let hint = "write the file as TOML: key = value, text in quotes, [section] headings".to_owned();
            document.push(line, String::new(), error.message().to_owned(), hint);
        }
        document
    }

    /// The top level. Keys that nobody asked for become problems when the section is dropped.
    pub fn root(&self) -> Section<'_> {
        Section { document: self, table: &self.table, path: String::new(), line: 1, asked: RefCell::default() }
    }

    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }

    /// The certificates and keys that were named, to be looked at by whoever can read them.
    pub fn take_pems(&self) -> Vec<Pem> {
        let mut pems = self.pems.take();
        pems.sort_by_key(Pem::line);
        pems
    }

    fn line(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|b| **b == b'\n').count() + 1
    }

    fn push(&self, line: usize, key: String, found: String, hint: String) {
        self.problems.borrow_mut().push(Problem { file: self.file.clone(), line, key, found, hint });
    }
}

/// A table of the file. Ask for each key once; what was not asked for is unknown, and reported when this is dropped.
pub struct Section<'d> {
    document: &'d Document<'d>,
    table: &'d DeTable<'d>,
    path: String,
    line: usize,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'d> Section<'d> {
    /// The line on which this section begins.
    pub fn line(&self) -> usize {
        self.line
    }

    pub fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// Reports a problem with `key` (or with the section, where the key is absent).
    pub fn problem(&self, key: &str, found: impl Into<String>, hint: impl Into<String>) {
        self.document.problems.borrow_mut().push(self.place(key).problem(found, hint));
    }

    /// A certificate and its private key, in the files that these two keys name.
    pub fn pair(&self, certificate: &'static str, key: &'static str) {
        if let (Some(certificate), Some(key)) = (self.named(certificate), self.named(key)) {
            self.document.pems.borrow_mut().push(Pem::Pair { certificate, key });
        }
    }

    /// Certificates of authorities, in the file that this key names.
    pub fn authorities(&self, key: &'static str) {
        self.document.pems.borrow_mut().extend(self.named(key).map(Pem::Authorities));
    }

    fn named(&self, key: &'static str) -> Option<Named> {
        Some(Named { place: self.place(key), path: self.get(key)?.get_ref().as_str()?.into() })
    }

    fn place(&self, key: &str) -> Place {
        let line = self.table.get(key).map_or(self.line, |value| self.document.line(value.span().start));
        Place { file: self.document.file.clone(), line, key: self.dotted(key) }
    }

    pub fn text(&self, key: &'static str) -> Option<String> {
        let value = self.get(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(text.to_owned()),
            None => self.wrong(key, value, "a text in quotes"),
        }
    }

    /// A text that `parse` understands; its error is shown as what was found.
    pub fn parsed<T>(&self, key: &'static str, hint: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(key)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.problem(key, format!("{text:?}: {why}"), hint);
                None
            }
        }
    }

    pub fn required_text(&self, key: &'static str, hint: &str) -> Option<String> {
        if !self.has(key) {
            self.problem(key, "is missing", hint);
        }
        self.text(key)
    }

    pub fn bool(&self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        value.get_ref().as_bool().or_else(|| self.wrong(key, value, "true or false"))
    }

    pub fn integer(&self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let value = self.get(key)?;
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let parsed = value.get_ref().as_integer().and_then(|i| i64::from_str_radix(i.as_str(), i.radix()).ok());
        match parsed {
            Some(number) if range.contains(&number) => Some(number),
            _ => self.wrong(key, value, &expected),
        }
    }

    /// A whole number or a float; finite.
    pub fn number(&self, key: &'static str) -> Option<f64> {
        let value = self.get(key)?;
        let parsed = match value.get_ref() {
            DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix()).ok().map(|i| i as f64),
            DeValue::Float(f) => f.as_str().parse::<f64>().ok().filter(|f| f.is_finite()),
            _ => None,
        };
        parsed.or_else(|| self.wrong(key, value, "a number"))
    }

    /// A time span: `"500ms"`, `"2s"`, `"5m"`, `"1h30m"`, `"7d"`.
    pub fn duration(&self, key: &'static str) -> Option<Duration> {
        self.parsed(key, "write a time span such as \"500ms\", \"2s\", \"5m\", \"1h30m\" or \"7d\"", parse_duration)
    }

    /// An amount of data: `"64KiB"`, `"512MiB"`, `"2GiB"`, `"1MB"`, or a plain number of bytes.
    pub fn bytes(&self, key: &'static str) -> Option<u64> {
        let value = self.get(key)?;
        if value.get_ref().is_integer() {
            return self.integer(key, 0..=i64::MAX).map(i64::unsigned_abs);
        }
        self.parsed(key, "write an amount such as \"64KiB\", \"512MiB\", \"2GiB\" or a number of bytes", parse_bytes)
    }

    /// One word of a list.
    pub fn choice<T: Clone>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Some(value.clone()),
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                let hint = match nearest(&text, words.iter().copied()) {
                    Some(near) => format!("did you mean {near:?}? One of: {}", words.join(", ")),
                    None => format!("one of: {}", words.join(", ")),
                };
                self.problem(key, format!("{text:?} is not known here"), hint);
                None
            }
        }
    }

    /// A list of texts; empty where the key is absent.
    pub fn texts(&self, key: &'static str) -> Vec<String> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong::<()>(key, value, "a list of texts: [\"a\", \"b\"]");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push(text.to_owned()),
                None => drop(self.wrong::<()>(key, item, "a text in quotes")),
            }
        }
        texts
    }

    /// A list of whole numbers; empty where the key is absent.
    pub fn integers(&self, key: &'static str, range: RangeInclusive<i64>) -> Vec<i64> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let Some(items) = value.get_ref().as_array() else {
            self.wrong::<()>(key, value, "a list of whole numbers: [1, 2]");
            return Vec::new();
        };
        let mut numbers = Vec::new();
        for item in items.iter() {
            let parsed = item.get_ref().as_integer().and_then(|i| i64::from_str_radix(i.as_str(), i.radix()).ok());
            match parsed {
                Some(number) if range.contains(&number) => numbers.push(number),
                _ => drop(self.wrong::<()>(key, item, &expected)),
            }
        }
        numbers
    }

    /// A sub-table: `[broker.tls]`, or an inline table.
    pub fn section(&self, key: &'static str) -> Option<Section<'d>> {
        let value = self.get(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(self.below(self.dotted(key), table, value)),
            None => self.wrong(key, value, "a section"),
        }
    }

    /// A list of tables: `[[device]]`.
    pub fn sections(&self, key: &'static str) -> Vec<Section<'d>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong::<()>(key, value, &format!("a list of sections: [[{key}]]"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match item.get_ref().as_table() {
                Some(table) => sections.push(self.below(format!("{}[{index}]", self.dotted(key)), table, item)),
                None => drop(self.wrong::<()>(key, item, "a section")),
            }
        }
        sections
    }

    /// A sub-table whose keys are names the user chose: `[profile.enum]` and the like, with the values as JSON.
    pub fn entries(&self, key: &'static str) -> Vec<(String, serde_json::Value)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong::<()>(key, value, "a section");
            return Vec::new();
        };
        table.iter().map(|(name, value)| (name.get_ref().to_string(), to_json(value.get_ref()))).collect()
    }

    fn get(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        debug_assert!(!key.contains('-'), "keys of this project are snake_case: {key}");
        self.asked.borrow_mut().insert(key);
        self.table.get(key)
    }

    fn below(&self, path: String, table: &'d DeTable<'d>, value: &Spanned<DeValue<'_>>) -> Section<'d> {
        let line = self.document.line(value.span().start);
        Section { document: self.document, table, path, line, asked: RefCell::default() }
    }

    fn wrong<T>(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) -> Option<T> {
        let span = value.span();
        let mut found: String = self.document.text.get(span.clone()).unwrap_or("").chars().take(40).collect();
        if found.is_empty() {
            found = value.get_ref().type_str().to_owned();
        }
        let line = self.document.line(span.start);
        self.document.push(line, self.dotted(key), format!("found {found}"), format!("expected {expected}"));
        None
    }

    fn dotted(&self, key: &str) -> String {
        match (self.path.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (false, true) => self.path.clone(),
            (false, false) => format!("{}.{key}", self.path),
        }
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let asked = self.asked.borrow();
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if asked.contains(name) {
                continue;
            }
            let hint = match nearest(name, asked.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("known here: {}", asked.iter().copied().collect::<Vec<_>>().join(", ")),
            };
            let line = self.document.line(key.span().start);
            self.document.push(line, self.dotted(name), "is not a known key".to_owned(), hint);
        }
    }
}

fn to_json(value: &DeValue<'_>) -> serde_json::Value {
    use serde_json::Value as Json;
    match value {
        DeValue::String(text) => Json::String(text.to_string()),
        DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix()).map_or(Json::Null, Json::from),
        DeValue::Float(f) => f.as_str().parse::<f64>().map_or(Json::Null, Json::from),
        DeValue::Boolean(b) => Json::Bool(*b),
        DeValue::Datetime(d) => Json::String(d.to_string()),
        DeValue::Array(items) => Json::Array(items.iter().map(|item| to_json(item.get_ref())).collect()),
        DeValue::Table(table) => {
            Json::Object(table.iter().map(|(k, v)| (k.get_ref().to_string(), to_json(v.get_ref()))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_found_at_its_line() {
        let text = "name = 3\nport = 70000\nevery = \"5 parsecs\"\nmode = \"fsat\"\nprot = 1\n[sub]\nx = true\ny = 1\n";
        let document = Document::parse("a.toml", text);
        {
            let root = document.root();
            root.text("name");
            root.integer("port", 1..=65535);
            root.duration("every");
            root.choice("mode", &[("fast", 1), ("slow", 2)]);
            if let Some(sub) = root.section("sub") {
                assert_eq!(sub.bool("x"), Some(true));
            }
        }
        let lines: Vec<String> = document.into_problems().iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 6, "{lines:#?}");
        assert!(lines[0].starts_with("a.toml:1: name: found 3"), "{}", lines[0]);
        assert!(lines[3].contains("did you mean \"fast\"?"), "{}", lines[3]);
        assert!(lines[4].contains("did you mean \"port\"?"), "{}", lines[4]);
        assert!(lines[5].starts_with("a.toml:8: sub.y: is not a known key"), "{}", lines[5]);
    }
}
