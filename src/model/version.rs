//! Firmware versions as makers write them, compared number by number, and conditions on them.

use std::{cmp::Ordering, fmt, str::FromStr, sync::Arc};

/// A version: how it was written, and the numbers in it.
#[derive(Debug, Clone)]
pub struct Version {
    text: Arc<str>,
    /// Without zeros at the end: 2 is 2.0.
    numbers: Vec<u64>,
}

impl Version {
    /// The version in what a device says: `1.10`, `V1.10`, `2.83.03.R`, `SDM630 V2.1`. `None` where there is no number.
    ///
    /// A number with a dot behind it goes before one that stands alone, which may be the name of the device.
    pub fn parse(text: &str) -> Option<Version> {
        let (first, last) =
            numbers_in(text).find(|(from, to)| text[*from..*to].contains('.')).or_else(|| numbers_in(text).next())?;
        let parsed = text[first..last].split('.').map(|digits| digits.parse().unwrap_or(u64::MAX));
        Some(Version { text: text.trim().into(), numbers: trimmed(parsed.collect()) })
    }

    pub fn of(numbers: &[u64]) -> Version {
        let text: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        Version { text: text.join(".").into(), numbers: trimmed(numbers.to_vec()) }
    }

    /// Its parts; those that are not there are 0.
    pub fn number(&self, part: usize) -> u64 {
        self.numbers.get(part).copied().unwrap_or(0)
    }
}

fn trimmed(mut numbers: Vec<u64>) -> Vec<u64> {
    while numbers.last() == Some(&0) {
        numbers.pop();
    }
    numbers
}

/// Where numbers with dots between them begin and end.
fn numbers_in(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut at = 0;
    std::iter::from_fn(move || {
        let from = (at..bytes.len()).find(|at| digit(*at))?;
        at = from;
        while digit(at) || (bytes.get(at) == Some(&b'.') && digit(at + 1)) {
            at += 1;
        }
        Some((from, at))
    })
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.numbers == other.numbers
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers)
    }
}

/// Versions from one on and up to another: `>= 2.0`, `< 1.4`, `>= 1.2, < 2`.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    from: End,
    /// `None`: however new.
    until: Option<End>,
}

/// An end of what a condition allows.
#[derive(Debug, Clone, PartialEq)]
struct End {
    version: Version,
    included: bool,
}

impl Condition {
    /// Holds for no version: in place of one that nobody can read.
    pub fn never() -> Condition {
        let end = |included| End { version: Version::of(&[0]), included };
        Condition { from: end(true), until: Some(end(false)) }
    }

    pub fn holds(&self, version: &Version) -> bool {
        let old = (&self.from.version, !self.from.included) <= (version, false);
        old && self.until.as_ref().is_none_or(|end| (version, false) < (&end.version, end.included))
    }

    /// What holds for both; `None` where no version does.
    pub fn both(&self, other: &Condition) -> Option<Condition> {
        let later = |a: &End, b: &End| (&a.version, !a.included) >= (&b.version, !b.included);
        let from = if later(&self.from, &other.from) { &self.from } else { &other.from };
        let until = match (&self.until, &other.until) {
            (Some(a), Some(b)) if (&a.version, a.included) <= (&b.version, b.included) => Some(a),
            (Some(a), None) => Some(a),
            (_, b) => b.as_ref(),
        };
        let both = Condition { from: from.clone(), until: until.cloned() };
        both.possible().then_some(both)
    }

    /// Whether there is a version it holds for.
    pub fn possible(&self) -> bool {
        let Some(until) = &self.until else { return true };
        let one = self.from.included && until.included && self.from.version == until.version;
        one || self.from.version < until.version
    }

    /// Holds for all versions that are yet to come.
    pub fn is_open(&self) -> bool {
        self.until.is_none()
    }

    /// The oldest version it holds for, or one just behind it.
    pub fn oldest(&self) -> Version {
        let mut numbers = self.from.version.numbers.clone();
        if self.from.included {
            return Version { text: self.from.version.text.clone(), numbers };
        }
        // Nothing lies between a version and the same with many zeros and a 1.
        let depth = self.until.as_ref().map_or(0, |end| end.version.numbers.len());
        numbers.resize(depth.max(numbers.len()), 0);
        numbers.push(1);
        Version::of(&numbers)
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let any = || End { version: Version::of(&[0]), included: true };
        let mut whole = Condition { from: any(), until: None };
        for part in text.split(',').map(str::trim) {
            let rest = part.trim_start_matches(['<', '>', '=']);
            let sign = &part[..part.len() - rest.len()];
            if !part.is_empty() && !["<", "<=", "=", ">=", ">"].contains(&sign) {
                return Err(format!("{part:?} has no sign before the version"));
            }
            let version = written(rest.trim()).ok_or_else(|| format!("{rest:?} is no version"))?;
            let end = |included| End { version: version.clone(), included };
            let (from, until) = match sign {
                ">=" => (end(true), None),
                ">" => (end(false), None),
                "<=" => (any(), Some(end(true))),
                "<" => (any(), Some(end(false))),
                _ => (end(true), Some(end(true))),
            };
            whole = whole.both(&Condition { from, until }).ok_or("no version is like that")?;
        }
        Ok(whole)
    }
}

/// A version in a condition: nothing else may stand there.
fn written(text: &str) -> Option<Version> {
    let one = numbers_in(text).count() == 1 && !text.contains(['<', '>', '=']);
    Version::parse(text).filter(|_| one)
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let End { version, included } = &self.from;
        let from = match (included, &self.until) {
            (true, Some(end)) if end.included && end.version == *version => return write!(f, "= {version}"),
            (true, Some(_)) if version.numbers.is_empty() => None,
            (true, _) => Some(format!(">= {version}")),
            (false, _) => Some(format!("> {version}")),
        };
        let sign = |end: &End| if end.included { "<=" } else { "<" };
        let until = self.until.as_ref().map(|end| format!("{} {}", sign(end), end.version));
        let parts: Vec<String> = [from, until].into_iter().flatten().collect();
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap_or_else(|| panic!("{text} is a version"))
    }

    fn condition(text: &str) -> Condition {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn makers_write_versions_in_many_ways() {
        let ways = [
            ("1.10", &[1, 10][..]),
            ("V1.10", &[1, 10]),
            ("  v 2.3 ", &[2, 3]),
            ("2.83.03.R", &[2, 83, 3]),
            ("B1.23.0", &[1, 23]),
            ("SDM630 V2.1", &[2, 1]),
            ("Rev 7", &[7]),
            ("1.4-rc2", &[1, 4]),
            ("3.", &[3]),
            ("99999999999999999999.1", &[u64::MAX, 1]),
        ];
        for (text, numbers) in ways {
            assert_eq!(version(text).numbers, numbers, "{text}");
        }
        assert!(Version::parse("").is_none() && Version::parse("beta").is_none() && Version::parse("ü.").is_none());
        assert!(
            version("1.10") > version("1.9") && version("2") == version("2.0.0") && version("1.4") < version("1.4.1")
        );
    }

    #[test]
    fn a_condition_is_read_and_shown() {
        for (text, shown) in [
            (">= 2.0", ">= 2.0"),
            (">=V2.0", ">= V2.0"),
            ("< 1.4", "< 1.4"),
            (" >1.2 ,<= 2 ", "> 1.2, <= 2"),
            ("= 1.4", "= 1.4"),
            (">= 1, >= 2, < 9", ">= 2, < 9"),
        ] {
            assert_eq!(condition(text).to_string(), shown, "{text}");
        }
        for (text, why) in [
            ("2.0", "no sign"),
            ("", "no version"),
            (">= new", "no version"),
            (">= 1.0 < 2", "no version"),
            ("~> 1.0", "no sign"),
            (">= 2, < 1.4", "no version is like that"),
            ("> 1.4, <= 1.4", "no version is like that"),
            ("< 0", "no version is like that"),
        ] {
            let said = text.parse::<Condition>().expect_err(text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    fn any_version() -> impl Strategy<Value = Version> {
        prop::collection::vec(0u64..4, 0..4).prop_map(|numbers| Version::of(&numbers))
    }

    fn any_condition() -> impl Strategy<Value = Condition> {
        let end = (prop::sample::select(vec![">=", ">", "<=", "<", "="]), any_version());
        let text = |ends: Vec<(&str, Version)>| {
            let ends: Vec<String> = ends.iter().map(|(sign, v)| format!("{sign} 0{v}")).collect();
            ends.join(",").parse().ok()
        };
        prop::collection::vec(end, 1..4).prop_filter_map("possible", text)
    }

    proptest! {
        #[test]
        fn both_is_what_holds_for_both(a in any_condition(), b in any_condition(), version in any_version()) {
            let both = a.both(&b);
            prop_assert_eq!(both.as_ref().is_some_and(|both| both.holds(&version)), a.holds(&version) && b.holds(&version));
            // Never said to overlap without a version to show for it.
            prop_assert!(both.as_ref().is_none_or(|both| both.holds(&both.oldest())));
            prop_assert_eq!(b.both(&a), both);
        }

        #[test]
        fn what_is_shown_is_read_the_same(condition in any_condition(), version in any_version()) {
            let again: Condition = condition.to_string().parse().expect("a condition");
            prop_assert_eq!(again.holds(&version), condition.holds(&version));
        }

        #[test]
        fn no_text_of_a_device_is_too_much(text in "\\PC{0,40}") {
            if let Some(version) = Version::parse(&text) {
                prop_assert!(version == version.clone());
            }
            let _ = text.parse::<Condition>();
        }
    }
}
