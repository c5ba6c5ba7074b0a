//! The columns of makers' register tables: which heading means what, and where in the file the heading stands.

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
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
    Range,
    Interval,
    About,
}

/// Headings as makers write them, lower case, without anything in brackets; the likeliest first. A word that stands at
/// several columns goes to the first that has found nothing better.
const HEADINGS: [(Column, &[&str]); 18] = [
    (
        Column::Name,
        &[
            "name",
            "signal name",
            "parameter",
            "parameter name",
            "variable",
            "variable eng. unit",
            "variable name",
            "title",
            "tag",
            "symbol",
            "signal",
            "point",
            "measured variable",
            "measured value",
            "measure",
            "measurement",
            "item",
            "description",
            "quantity",
            "value",
        ],
    ),
    (Column::Reference, &["reference", "modicon", "modicon address", "plc address"]),
    (
        Column::Address,
        &[
            "address",
            "addr",
            "addr.",
            "adr",
            "physical address",
            "offset address",
            "modbus address",
            "register address",
            "start address",
            "starting address",
            "address dec",
            "dec",
            "address hex",
            "hex",
            "id",
            "modbus id",
            "offset",
        ],
    ),
    (
        Column::Register,
        &[
            "register",
            "reg",
            "reg.",
            "register number",
            "register no.",
            "registers",
            "modbus register",
            "start register",
        ],
    ),
    (Column::Function, &["function", "function code", "function codes", "fc", "fct", "read function"]),
    (Column::Table, &["table", "register type", "object type", "area"]),
    (Column::Type, &["type", "format", "data type", "datatype", "data format", "variable type"]),
    (
        Column::Length,
        &[
            "length",
            "size",
            "words",
            "count",
            "quantity",
            "quantity of registers",
            "number of registers",
            "no. of registers",
            "num",
            "number",
            "registers",
        ],
    ),
    (Column::Order, &["order", "byte order", "word order"]),
    (
        Column::Scale,
        &[
            "scale",
            "factor",
            "scale factor",
            "scaling factor",
            "multiplier",
            "resolution",
            "scaling",
            "gain",
            "value weight",
            "weight",
            "divisor",
            "divider",
        ],
    ),
    (Column::Offset, &["offset"]),
    (Column::Unit, &["unit", "units", "engineering unit", "eng. unit"]),
    (Column::Access, &["access", "r/w", "rw", "r/w/wc", "read/write", "mode", "action", "attribute", "permission"]),
    (Column::Min, &["min", "min.", "minimum", "min value"]),
    (Column::Max, &["max", "max.", "maximum", "max value"]),
    (Column::Range, &["range", "value range", "scope", "valid range", "limits"]),
    (Column::Interval, &["interval", "every"]),
    (
        Column::About,
        &[
            "about",
            "remarks",
            "remark",
            "comment",
            "comments",
            "note",
            "notes",
            "meaning",
            "values",
            "info",
            "description",
            "explanation",
            "details",
        ],
    ),
];

/// A register table: its heading understood, its lines in cells.
pub(super) struct Sheet {
    columns: Vec<Option<Column>>,
    headings: Vec<String>,
    /// Lines above the heading: product, version.
    pub(super) preamble: String,
    pub(super) lines: Vec<Vec<String>>,
}

impl Sheet {
    /// `Err` where no line of the first twenty is a heading with a name and a place.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let text = text.trim_start_matches('\u{feff}');
        let mut best: Option<Vec<String>> = None;
        for separator in [';', '\t', ','] {
            let lines = split(text, separator);
            for (at, headings) in lines.iter().enumerate().take(20) {
                let columns = columns(headings);
                let has = |column| columns.contains(&Some(column));
                if has(Column::Name) && (has(Column::Address) || has(Column::Reference) || has(Column::Register)) {
                    let preamble = lines[..at].iter().map(|line| line.join(" ")).collect::<Vec<_>>().join(" ");
                    let (headings, lines) = (headings.clone(), lines[at + 1..].to_vec());
                    return Ok(Self { columns, headings, preamble, lines });
                }
                if at == 0 && best.as_ref().is_none_or(|best| headings.len() > best.len()) {
                    best = Some(headings.clone());
                }
            }
        }
        let Some(found) = best else { return Err("the file is empty".into()) };
        Err(format!(
            "no line is a heading with a name and a place; the first line has: {}. Call the columns \"name\" and \"address\" \
             (on the wire, from 0) or \"reference\" (40001 …); others that are understood: type, length, scale, unit, access, \
             min, max, remarks",
            found.join(", ")
        ))
    }

    /// What a line has in a column; nothing where it only says that there is nothing.
    pub(super) fn cell<'l>(&self, line: &'l [String], wanted: Column) -> Option<&'l str> {
        let place = self.columns.iter().position(|column| *column == Some(wanted))?;
        let nothing =
            |cell: &&str| matches!(cell.to_lowercase().as_str(), "" | "-" | "–" | "—" | "n/a" | "na" | "/" | "none");
        line.get(place).map(|cell| cell.trim()).filter(|cell| !nothing(cell))
    }

    /// The heading of a column, in small letters.
    pub(super) fn heading(&self, wanted: Column) -> Option<String> {
        let place = self.columns.iter().position(|column| *column == Some(wanted))?;
        Some(plain(&self.headings[place]))
    }

    /// Headings that meant nothing to us.
    pub(super) fn unknown(&self) -> Vec<&str> {
        let pairs = self.headings.iter().zip(&self.columns);
        pairs
            .filter(|(heading, column)| column.is_none() && !heading.is_empty())
            .map(|(heading, _)| &**heading)
            .collect()
    }
}

fn plain(heading: &str) -> String {
    let words = heading.split(['(', '[']).next().unwrap_or("").split_whitespace();
    words.collect::<Vec<_>>().join(" ").trim_end_matches(':').to_lowercase()
}

/// Each heading's column; none stands twice.
fn columns(headings: &[String]) -> Vec<Option<Column>> {
    let plain: Vec<String> = headings.iter().map(|heading| plain(heading)).collect();
    let mut columns: Vec<Option<Column>> = vec![None; headings.len()];
    for (column, words) in HEADINGS {
        let free =
            |word: &&str| plain.iter().zip(&columns).position(|(heading, taken)| taken.is_none() && heading == word);
        if let Some(place) = words.iter().find_map(free) {
            columns[place] = Some(column);
        }
    }
    // "Offset" is a place only where nothing else is.
    let place = |wanted| columns.iter().position(|column| *column == Some(wanted));
    if let Some(at) = place(Column::Address).filter(|at| plain[*at] == "offset")
        && (place(Column::Reference).is_some() || place(Column::Register).is_some())
    {
        columns[at] = Some(Column::Offset);
    }
    // "Name of the parameter", "Modbus address dec": a word of it is enough where nothing fits better.
    for (column, word) in
        [(Column::Name, "name"), (Column::Address, "address"), (Column::Type, "type"), (Column::Type, "format")]
    {
        if !columns.contains(&Some(column))
            && let Some(place) = plain.iter().zip(&columns).position(|(h, taken)| taken.is_none() && h.contains(word))
        {
            columns[place] = Some(column);
        }
    }
    columns
}

/// Lines in cells; quotes hold separators and line ends together. Empty lines are none.
fn split(text: &str, separator: char) -> Vec<Vec<String>> {
    let mut lines = vec![vec![String::new()]];
    let mut quoted = false;
    for c in text.chars() {
        let line = lines.last_mut().expect("there is always a line");
        match c {
            '"' => quoted = !quoted,
            '\r' => {}
            '\n' if !quoted => lines.push(vec![String::new()]),
            c if c == separator && !quoted => line.push(String::new()),
            c => line.last_mut().expect("there is always a cell").push(c),
        }
    }
    for cell in lines.iter_mut().flatten() {
        *cell = cell.trim().to_owned();
    }
    lines.retain(|line| line.iter().any(|cell| !cell.is_empty()));
    lines
}
