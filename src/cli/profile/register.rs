//! One line of a maker's table as a `[[register]]`: place, type, order, scale, limits, titles; guesses are marked.

use std::fmt::Write as _;

use super::{
    columns::{Column, Sheet},
    words::{
        access_of, camel, first_number, low_word_first, number, part_of_unit, range, speaks_of_bits, table_of, titles,
        type_of, unit_of, weight,
    },
};

/// Writes registers into a profile, one line of the table after the other.
pub(super) struct Writer<'s> {
    pub sheet: &'s Sheet,
    /// Names given so far: each once.
    pub names: Vec<String>,
    pub guesses: usize,
}

impl Writer<'_> {
    /// Writes one `[[register]]`.
    pub fn register(&mut self, profile: &mut String, title: &str, line: &[String]) {
        let cell = |column| self.sheet.cell(line, column);
        let text = |text: &str| toml::Value::from(text).to_string();
        let mut own = camel(title);
        for number in 2.. {
            if !self.names.contains(&own) {
                break;
            }
            own = format!("{}{number}", camel(title));
        }
        let mut out: Vec<(&str, String)> = vec![("name", text(&own))];
        self.place(line, &mut out);
        let remark = [Column::About, Column::Range].into_iter().filter_map(cell).collect::<Vec<_>>().join("; ");
        let mut kind = String::new();
        // NIBE writes the type under "Size".
        let (named, length) = match (cell(Column::Type), cell(Column::Length)) {
            (None, Some(size)) if size.starts_with(char::is_alphabetic) => (Some(size), None),
            (named, length) => (named, length.and_then(|length| first_number(length).parse::<usize>().ok())),
        };
        match (named, length) {
            (Some(word), _) => kind = type_of(word, length),
            (None, Some(registers @ (2 | 4))) => {
                kind = format!("u{}", registers * 16);
                self.guesses += 1;
                out.push(("# type", format!("guessed from {registers} registers; it may be signed, or a float")));
            }
            _ => {}
        }
        if !kind.is_empty() {
            out.push(("type", text(&kind)));
        }
        let swapped = low_word_first(&remark) || cell(Column::Type).is_some_and(low_word_first);
        match cell(Column::Order) {
            Some(order) if low_word_first(order) => out.push(("order", text("CDAB"))),
            Some(order) => out.push(("order", text(order))),
            None if swapped => out.push(("order", "\"CDAB\" # as the table remarks: low word first".to_owned())),
            None => {}
        }
        let mut unit = cell(Column::Unit).map(unit_of);
        let scaled = self.scale(line, &remark, &mut out, &mut unit);
        if let Some(number) = cell(Column::Offset).and_then(number) {
            out.push(("offset", number));
        }
        let access = cell(Column::Access).map_or("r", access_of);
        if access != "r" {
            self.limits(line, &mut out);
        }
        out.extend(unit.map(|unit| ("unit", text(&unit))));
        out.extend(cell(Column::Interval).map(|interval| ("interval", text(interval))));
        if cell(Column::Access).is_some() {
            out.push(("access", text(access)));
        }
        let counts = kind.starts_with(['u', 'i']) || kind.is_empty();
        if let Some(titles) = titles(&remark).filter(|_| counts && !scaled) {
            out.push(("titles", titles));
        } else if speaks_of_bits(&remark) && counts {
            self.guesses += 1;
            out.push((
                "# bits",
                "the table speaks of single bits: one [[register]] each, type = \"bool\", bits = \"0:1\"".into(),
            ));
        }
        let remark = (!remark.is_empty()).then_some(&*remark);
        let about: Vec<&str> = (own != title).then_some(title).into_iter().chain(remark).collect();
        if !about.is_empty() {
            let about = about.join("; ").split_whitespace().collect::<Vec<_>>().join(" ");
            out.push(("about", text(&about)));
        }
        self.names.push(own);
        profile.push_str("\n[[register]]\n");
        for (key, value) in out {
            let sign = if key.starts_with('#') { ":" } else { " =" };
            let _ = writeln!(profile, "{key}{sign} {value}");
        }
    }

    /// Where it lies: the address on the wire, or the maker's number.
    fn place(&self, line: &[String], out: &mut Vec<(&str, String)>) {
        let cell = |column| self.sheet.cell(line, column);
        let text = |text: &str| toml::Value::from(text).to_string();
        let table = cell(Column::Table).and_then(table_of).or(cell(Column::Function).and_then(table_of));
        match (cell(Column::Reference), cell(Column::Register), cell(Column::Address)) {
            (Some(number), _, None) => out.push(("reference", first_number(number))),
            (Some(number), _, Some(address)) => {
                // The wire's own address counts more than the number people call it by; that one tells the table.
                let table = table.or(first_number(number).parse().ok().and_then(table_of_reference));
                out.push(("address", first_number(address)));
                out.extend(table.filter(|t| *t != "holding").map(|table| ("table", text(table))));
            }
            (None, _, Some(number)) => out.push(("address", first_number(number))),
            (None, Some(number), None) => {
                let first = first_number(number);
                // 00001 to 09999 are coils where a table writes all five digits.
                let coil = number.starts_with('0') && number.chars().take_while(char::is_ascii_digit).count() >= 5;
                let is_reference = coil || first.parse::<u32>().is_ok_and(|n| table_of_reference(n).is_some());
                out.push((if is_reference && table.is_none() { "reference" } else { "address" }, first));
            }
            (None, None, None) => {}
        }
        if let Some(table) = table.filter(|_| cell(Column::Reference).is_none() || cell(Column::Address).is_none()) {
            out.push(("table", text(table)));
        }
    }

    /// Scale, and whether there is one. Makers' "gain 10" and "factor 10" mean that the device sends ten times the value.
    fn scale(
        &mut self,
        line: &[String],
        remark: &str,
        out: &mut Vec<(&str, String)>,
        unit: &mut Option<String>,
    ) -> bool {
        let sheet = self.sheet;
        if let Some(said) = sheet.cell(line, Column::Scale) {
            let Some(scale) = number(said) else { return false };
            let heading = sheet.heading(Column::Scale).unwrap_or_default();
            let whole = scale.parse::<u32>().ok().filter(|n| *n > 1);
            let divides = !matches!(heading.as_str(), "scale" | "multiplier" | "resolution" | "scaling")
                && !said.starts_with(['x', 'X', '×', '*']);
            match whole.filter(|_| divides) {
                Some(by) => {
                    self.guesses += 1;
                    let by_ten = format!("{by}").trim_end_matches('0') == "1";
                    let scale = if by_ten {
                        format!("1e-{}", by.ilog10()).parse::<f64>().unwrap_or(1.0)
                    } else {
                        1.0 / f64::from(by)
                    };
                    out.push((
                        "scale",
                        format!("{scale} # {heading} {by} of the table taken as raw / {by}; compare with the display"),
                    ));
                }
                None if scale == "1" => return false,
                None => out.push(("scale", scale)),
            }
            return true;
        }
        if let Some((whole, by)) = unit.as_deref().and_then(part_of_unit) {
            out.push(("scale", format!("{by} # as the table's unit says: {}", unit.as_deref().unwrap_or_default())));
            *unit = Some(unit_of(whole));
            return true;
        }
        let Some((by, measure)) = weight(remark) else { return false };
        out.push(("scale", format!("{by} # as the table remarks: {measure}")));
        unit.get_or_insert(measure.split('*').next().map(unit_of).unwrap_or_default());
        true
    }

    /// What may be written: two columns, or a range in one.
    fn limits(&mut self, line: &[String], out: &mut Vec<(&str, String)>) {
        let sheet = self.sheet;
        let ends = (sheet.cell(line, Column::Min).and_then(number), sheet.cell(line, Column::Max).and_then(number));
        let (min, max) = match ends {
            // "0 to 0" says that there are none.
            (Some(min), Some(max)) if min == max => return,
            (None, None) => match sheet.cell(line, Column::Range).and_then(range) {
                Some((min, max)) => (Some(min), Some(max)),
                None => return,
            },
            ends => ends,
        };
        // NIBE's export gives limits as they are sent, before its factor.
        let factor = sheet.cell(line, Column::Scale).and_then(number).and_then(|n| n.parse::<f64>().ok());
        let raw = factor.filter(|factor| *factor > 1.0 && sheet.preamble.contains("ModbusManager"));
        for (key, end) in [("min", min), ("max", max)] {
            let end = end.map(|end| match (raw, end.parse::<f64>()) {
                (Some(factor), Ok(number)) => (number / factor).to_string(),
                _ => end,
            });
            out.extend(end.map(|end| (key, end)));
        }
    }
}

fn table_of_reference(number: u32) -> Option<&'static str> {
    Some(match number {
        10_001..=19_999 | 100_001..=165_536 => "discrete",
        30_001..=39_999 | 300_001..=365_536 => "input",
        40_001..=49_999 | 400_001..=465_536 => "holding",
        _ => return None,
    })
}
