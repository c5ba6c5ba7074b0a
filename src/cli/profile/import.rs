//! `headgate profile import`: a maker's register table (CSV) as a profile. Makers' own words for types, access and places
//! are understood; what had to be guessed is said in a comment at its register.

use std::fmt::Write as _;

use super::words::{access_of, camel, first_number, low_word_first, number, table_of, titles, type_of};
use crate::config::modbus::profile::Profile;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Name,
    Address,
    Reference,
    /// "Register": the maker's number where it looks like one (40013), else the address.
    Register,
    Function,
    Table,
    Type,
    Length,
    Order,
    Scale,
    Offset,
    Unit,
    Access,
    Min,
    Max,
    Interval,
    About,
}

/// Headings as makers write them, lower case, without anything in brackets.
const HEADINGS: [(Column, &[&str]); 17] = [
    (Column::Name, &["name", "parameter", "variable", "tag", "symbol", "signal", "value", "quantity", "description"]),
    (
        Column::Address,
        &["address", "addr", "adr", "offset address", "modbus address", "register address", "start address"],
    ),
    (Column::Reference, &["reference", "modicon", "plc address"]),
    (Column::Register, &["register", "reg", "register number", "registers", "modbus register", "start register"]),
    (Column::Function, &["function", "function code", "fc", "fct", "read function"]),
    (Column::Table, &["table", "register type", "object type", "area"]),
    (Column::Type, &["type", "format", "data type", "datatype", "data format"]),
    (
        Column::Length,
        &["length", "size", "words", "count", "quantity of registers", "number of registers", "no. of registers"],
    ),
    (Column::Order, &["order", "byte order", "word order"]),
    (Column::Scale, &["scale", "factor", "multiplier", "resolution", "scaling", "gain"]),
    (Column::Offset, &["offset"]),
    (Column::Unit, &["unit", "units"]),
    (Column::Access, &["access", "r/w", "rw", "read/write", "mode"]),
    (Column::Min, &["min", "minimum"]),
    (Column::Max, &["max", "maximum"]),
    (Column::Interval, &["interval", "every"]),
    (
        Column::About,
        &["about", "remarks", "remark", "comment", "comments", "note", "notes", "meaning", "values", "description"],
    ),
];

/// A table as a profile. `Err` where the heading does not tell enough.
pub(super) fn import(text: &str, name: &str) -> Result<String, String> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let heading = lines.next().ok_or("the file is empty")?;
    let separator = [';', '\t', ','].into_iter().max_by_key(|c| heading.matches(*c).count()).unwrap_or(',');
    let columns = columns(&cells(heading, separator));
    let has = |column| columns.contains(&Some(column));
    if !has(Column::Name) || !(has(Column::Address) || has(Column::Reference) || has(Column::Register)) {
        let found = cells(heading, separator).join(", ");
        return Err(format!("the heading needs a name and an address (or register, or reference); found {found}"));
    }
    let mut profile = format!(
        "name = \"{name}\"\ntitle = \"{name}\"\nmaker = \"\"\nkind = \"other\"\nversion = 1\n\
         source = \"imported table; name its document\"\n"
    );
    let mut names: Vec<String> = Vec::new();
    for line in lines {
        let cells = cells(line, separator);
        let cell = |wanted: Column| -> Option<&str> {
            let place = columns.iter().position(|column| *column == Some(wanted))?;
            cells.get(place).map(|cell| cell.trim()).filter(|cell| !matches!(*cell, "" | "-" | "—" | "n/a"))
        };
        // Lines between the blocks of a table have a title and no place.
        let place = cell(Column::Reference).or(cell(Column::Register)).or(cell(Column::Address));
        let (Some(title), Some(_)) = (cell(Column::Name), place) else { continue };
        register(&mut profile, &mut names, title, &cell);
    }
    let (_, problems) = Profile::parse("imported", &profile);
    for problem in problems {
        eprintln!("{problem}");
    }
    Ok(profile)
}

/// Writes one `[[register]]`.
fn register<'c>(profile: &mut String, names: &mut Vec<String>, title: &str, cell: &impl Fn(Column) -> Option<&'c str>) {
    profile.push_str("\n[[register]]\n");
    let mut line = |key: &str, value: String| {
        let _ = writeln!(profile, "{key} = {value}");
    };
    let text = |text: &str| toml::Value::from(text).to_string();
    let mut own = camel(title);
    while names.contains(&own) {
        own.push('2');
    }
    line("name", text(&own));
    names.push(own.clone());
    let table = cell(Column::Table).and_then(table_of).or(cell(Column::Function).and_then(table_of));
    match (cell(Column::Reference), cell(Column::Register), cell(Column::Address)) {
        (Some(number), _, _) => line("reference", first_number(number)),
        // The wire's own address counts more than the number people call it by.
        (None, _, Some(number)) => line("address", first_number(number)),
        (None, Some(number), None) => {
            let first = first_number(number);
            // 00001 to 09999 are coils where a table writes all five digits.
            let coil = number.starts_with('0') && number.chars().take_while(char::is_ascii_digit).count() >= 5;
            let is_reference = first.parse::<u32>().is_ok_and(|n| {
                coil || (10_001..20_000).contains(&n)
                    || (30_001..50_000).contains(&n)
                    || (100_001..=465_536).contains(&n)
            });
            line(if is_reference && table.is_none() { "reference" } else { "address" }, first);
        }
        (None, None, None) => {}
    }
    if let Some(table) = table {
        line("table", text(table));
    }
    let remark = cell(Column::About);
    let length = cell(Column::Length).and_then(|length| first_number(length).parse::<usize>().ok());
    if let Some(word) = cell(Column::Type) {
        line("type", text(&type_of(word, length)));
    }
    let swapped = remark.is_some_and(low_word_first) || cell(Column::Type).is_some_and(low_word_first);
    match cell(Column::Order) {
        Some(order) if low_word_first(order) => line("order", text("CDAB")),
        Some(order) => line("order", text(order)),
        None if swapped => line("order", "\"CDAB\" # as the table remarks: low word first".to_owned()),
        None => {}
    }
    for (key, column) in
        [("scale", Column::Scale), ("offset", Column::Offset), ("min", Column::Min), ("max", Column::Max)]
    {
        if let Some(number) = cell(column).and_then(number) {
            line(key, number);
        }
    }
    for (key, column) in [("unit", Column::Unit), ("interval", Column::Interval)] {
        cell(column).into_iter().for_each(|value| line(key, text(value)));
    }
    if let Some(access) = cell(Column::Access) {
        line("access", text(access_of(access)));
    }
    if let Some(titles) = remark.and_then(titles) {
        line("titles", titles);
    }
    let about: Vec<&str> = (own != title).then_some(title).into_iter().chain(remark).collect();
    if !about.is_empty() {
        line("about", text(&about.join("; ")));
    }
}

/// Each heading's column; none stands twice.
fn columns(headings: &[String]) -> Vec<Option<Column>> {
    let mut columns: Vec<Option<Column>> = Vec::new();
    for heading in headings {
        let plain = heading.split(['(', '[']).next().unwrap_or("").trim().trim_matches('\u{feff}').to_lowercase();
        let fits = |(column, words): &&(Column, &[&str])| words.contains(&&*plain) && !columns.contains(&Some(*column));
        let found = HEADINGS.iter().find(fits).map(|(column, _)| *column);
        columns.push(found);
    }
    columns
}

/// The cells of a line; quotes hold separators together.
fn cells(line: &str, separator: char) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c == separator && !quoted => cells.push(String::new()),
            c => cells.last_mut().expect("there is always a cell").push(c),
        }
    }
    cells.iter().map(|cell| cell.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::modbus::{
        kind::{Kind, Table},
        point::Access,
    };

    #[test]
    fn an_imported_table_is_a_profile_without_problems() {
        let table =
            "Name;Address;Type;Scale;Unit;About\nvoltage;0;u16;0,1;V;\"phase; to neutral\"\nenergy;0x10;u32;1;kWh;\n";
        let text = import(table, "my-meter").expect("a table");
        let (profile, problems) = Profile::parse("imported", &text);
        assert!(problems.is_empty(), "{problems:#?}");
        let profile = profile.expect("a profile");
        assert_eq!((profile.points[0].scale, profile.points[1].address), (0.1, 16));
        assert!(import("a,b\n1,2\n", "x").is_err());
    }

    #[test]
    fn a_makers_own_table_is_understood() {
        let table = "Register,Parameter,Format,Factor,Unit,R/W,Min,Max,Remarks\n\
                     Measured values,,,,,,,,\n\
                     40002-40003,Serial no.,UINT32,,,R,,,\n\
                     40004,Firmware,CHAR[12],,,R,,,\n\
                     40101,Flow temperature,FLOAT,,°C,R,,,low word first\n\
                     40105,Flow,INT16,1/100,m³/h,R,,,0x8000 = sensor fault\n\
                     40201,Set point,INT16,0.1,°C,R/W,5,30,\n\
                     40202,Mode,UINT16,,,RW,,,\"0 off, 1 auto, 2 manual\"\n\
                     30001,Inlet,WORD,x 0.1,bar,RO,,,\n\
                     00001,Reset energy,BOOL,,,W,,,\n";
        let text = import(table, "hx-40").expect("a table");
        let (profile, problems) = Profile::parse("imported", &text);
        assert!(problems.is_empty(), "{text}\n{problems:#?}");
        let profile = profile.expect("a profile");
        let point = |name: &str| profile.point(name).unwrap_or_else(|| panic!("{name}: {text}"));
        assert_eq!((point("serialNo").address, point("serialNo").kind), (1, Kind::Uint(32)));
        assert_eq!(point("Firmware").kind, Kind::Text(6));
        let flow = point("flowTemperature");
        assert_eq!((flow.kind, flow.order.name(), flow.unit.as_deref()), (Kind::Float(32), "CDAB", Some("°C")));
        assert_eq!((point("Flow").scale, point("Flow").titles.len()), (0.01, 0));
        assert_eq!((point("setPoint").access, point("setPoint").write.max), (Access::ReadWrite, Some(30.0)));
        assert_eq!(point("Mode").titles.iter().map(|(n, t)| (*n, &**t)).nth(2), Some((2, "manual")));
        assert_eq!((point("Inlet").table, point("Inlet").address, point("Inlet").scale), (Table::Input, 0, 0.1));
        assert_eq!((point("resetEnergy").table, point("resetEnergy").access), (Table::Coil, Access::WriteOnly));
    }
}
