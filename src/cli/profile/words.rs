//! Makers' words in register tables: names, numbers, tables, types, access, orders and lists of titles, as ours.

/// "Flow temperature (supply)" as `flowTemperatureSupply`; a single word stays as it is (BT1, kWh), but for a capital in front.
pub(super) fn camel(title: &str) -> String {
    let words: Vec<&str> =
        title.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
    if let [word] = words.as_slice() {
        let ordinary = word.chars().skip(1).all(|c| c.is_lowercase()) && word.chars().count() > 1;
        return if ordinary { word.to_lowercase() } else { (*word).to_owned() };
    }
    let mut name = String::new();
    for (n, word) in words.iter().enumerate() {
        let mut letters = word.chars();
        let Some(first) = letters.next() else { continue };
        // L1, kWh and PT100 keep their letters; ordinary words do not shout.
        let rest = letters.as_str();
        let shouts = rest.chars().all(|c| c.is_uppercase()) || (n == 0 && !rest.chars().any(char::is_lowercase));
        let rest = if shouts { rest.to_lowercase() } else { rest.to_owned() };
        let first: String = if n == 0 { first.to_lowercase().collect() } else { first.to_uppercase().collect() };
        name += &(first + &rest);
    }
    name
}

/// `40002-40003`, `40002/3`, `0x10` and `40 002`: the first number.
pub(super) fn first_number(cell: &str) -> String {
    if let Some(hex) = cell.strip_prefix("0x").or_else(|| cell.strip_prefix("0X")) {
        return format!("0x{}", hex.chars().take_while(char::is_ascii_hexdigit).collect::<String>());
    }
    if let Some(hex) = cell.strip_suffix(['h', 'H']).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) {
        return format!("0x{hex}");
    }
    let digits: String = cell.chars().take_while(|c| c.is_ascii_digit()).collect();
    // TOML takes no leading zeros: coil 00001 is 1.
    let plain = digits.trim_start_matches('0');
    if plain.is_empty() && !digits.is_empty() { "0".into() } else { plain.to_owned() }
}

/// `0,1`, `x 0.1`, `1/10`, `10^-1` and `-5` as a TOML number; nothing where there is none.
pub(super) fn number(cell: &str) -> Option<String> {
    let plain = cell.replace(',', ".").replace(['x', 'X', '×', '*', ' '], "");
    let plain = if plain.starts_with('/') { format!("1{plain}") } else { plain };
    if let Some((top, bottom)) = plain.split_once('/')
        && let (Ok(top), Ok(bottom)) = (top.parse::<f64>(), bottom.parse::<f64>())
        && bottom != 0.0
    {
        return Some((top / bottom).to_string());
    }
    if let Some(power) = plain.strip_prefix("10^").and_then(|power| power.parse::<i32>().ok()) {
        return Some(format!("1e{power}"));
    }
    let digits: String = plain.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')).collect();
    digits.parse::<f64>().ok().map(|_| digits.trim_start_matches('+').to_owned())
}

pub(super) fn table_of(word: &str) -> Option<&'static str> {
    let plain = word.trim().to_lowercase();
    Some(match plain.trim_start_matches('0') {
        "1" => "coil",
        "2" => "discrete",
        "3" => "holding",
        "4" => "input",
        _ if plain.contains("coil") => "coil",
        _ if plain.contains("discrete") || plain.contains("status") => "discrete",
        _ if plain.contains("holding") => "holding",
        _ if plain.contains("input") => "input",
        _ => return None,
    })
}

/// A maker's type as ours; one that is not known is given back and shows as a problem.
pub(super) fn type_of(word: &str, length: Option<usize>) -> String {
    let lower = word.to_lowercase();
    let plain: String = lower.chars().filter(char::is_ascii_alphanumeric).collect();
    let digits: String = plain.chars().filter(char::is_ascii_digit).collect();
    let letters: String = plain.chars().filter(char::is_ascii_alphabetic).collect();
    let written = digits.parse::<usize>().ok().filter(|bits| [8, 16, 24, 32, 48, 64].contains(bits));
    let bits = written.or(length.map(|registers| registers * 16));
    let wide = |kind: char, usual: usize| format!("{kind}{}", bits.unwrap_or(usual));
    let has = |words: &[&str]| words.iter().any(|word| letters.contains(word));
    match letters.as_str() {
        _ if lower.contains(':') || lower.contains("date-") => lower,
        "f" | "single" => float(bits, 32),
        "double" | "lreal" => "f64".into(),
        _ if has(&["float", "real", "ieee"]) => float(bits, 32),
        // A count in the type is of characters, one in a column of its own of registers.
        _ if has(&["char", "str", "ascii", "text", "utf"]) => {
            let characters = digits.parse::<usize>().ok().filter(|_| !has(&["utf"]));
            let registers = length.or(characters.map(|characters| characters.div_ceil(2)));
            format!("text:{}", registers.unwrap_or(8))
        }
        "epochtime" | "epoch" | "unixtime" | "timestamp" | "unix" => "date-unix".into(),
        "datetime" => match length {
            Some(2) => "date-unix".into(),
            Some(6) => "date-ymdhms".into(),
            _ => "date-iec870".into(),
        },
        "bool" | "boolean" | "bit" | "coil" => "bool".into(),
        "word" | "ushort" => wide('u', 16),
        "byte" | "uchar" => wide('u', 8),
        "short" => wide('i', 16),
        "dword" | "udint" | "ulong" | "unsignedlong" | "acc" => wide('u', 32),
        "dint" | "long" | "longint" | "signedlong" => wide('i', 32),
        "bcd" => format!("bcd{}", bits.unwrap_or(16)),
        "e" | "u" | "ui" | "usint" | "hex" => wide('u', 16),
        "i" | "s" | "int" | "sint" => wide('i', 16),
        _ if has(&["unsigned", "uint", "enum", "bitmap", "bitfield", "bits"]) => wide('u', 16),
        _ if has(&["signed", "integer", "int"]) => wide('i', 16),
        _ => lower,
    }
}

fn float(bits: Option<usize>, usual: usize) -> String {
    format!("f{}", bits.filter(|bits| [16, 32, 64].contains(bits)).unwrap_or(usual))
}

/// A unit as everybody writes it.
pub(super) fn unit_of(word: &str) -> String {
    match word.trim() {
        "℃" | "degC" | "deg C" | "DegC" | "C°" => "°C".into(),
        "Volt" | "Volts" => "V".into(),
        "Ampere" | "Amp" | "Amps" => "A".into(),
        "Watt" | "Watts" => "W".into(),
        other => other.into(),
    }
}

/// "Value weight: Volt*10" in a remark: the scale 0.1, and the words themselves.
pub(super) fn weight(remark: &str) -> Option<(f64, &str)> {
    remark.split([' ', ';', ',']).find_map(|word| {
        let (unit, by) = word.split_once('*')?;
        let scale = power_of_ten(by)?;
        let letters = !unit.is_empty() && unit.chars().all(char::is_alphabetic);
        letters.then_some((scale, word))
    })
}

/// The unit "V/100" says that hundredths are sent: the unit and the scale 0.01.
pub(super) fn part_of_unit(unit: &str) -> Option<(&str, f64)> {
    let (unit, by) = unit.rsplit_once('/')?;
    Some((unit.trim(), power_of_ten(by)?))
}

/// 0.1 for "10", 0.01 for "100".
fn power_of_ten(by: &str) -> Option<f64> {
    let by: u32 = by.trim().parse().ok().filter(|by: &u32| *by > 1 && by.to_string().trim_end_matches('0') == "1")?;
    format!("1e-{}", by.ilog10()).parse().ok()
}

/// `[-100.0, 100.0]`, `5 … 30`, `5~30`, `5 to 30` and `0-100`: both ends.
pub(super) fn range(cell: &str) -> Option<(String, String)> {
    let inner = cell.trim().trim_start_matches(['[', '(']).trim_end_matches([']', ')']).trim();
    let apart = ["…", "...", "..", "~", " to ", ",", "–", " - "];
    let (low, high) = apart.iter().find_map(|sign| inner.split_once(sign)).or_else(|| {
        inner.char_indices().skip(1).find(|(_, c)| *c == '-').map(|(at, _)| (&inner[..at], &inner[at + 1..]))
    })?;
    let (low, high) = (low.trim(), high.trim());
    let (from, to) = (low.parse::<f64>().ok()?, high.parse::<f64>().ok()?);
    (from < to).then(|| (low.trim_start_matches('+').to_owned(), high.trim_start_matches('+').to_owned()))
}

/// "Bit 0: standby, bit 1: …": parts of a register, no titles of it.
pub(super) fn speaks_of_bits(remark: &str) -> bool {
    let plain = remark.to_lowercase();
    let mut words = plain.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.any(|word| word == "bit" || word.strip_prefix("bit").is_some_and(|rest| rest.parse::<u8>().is_ok()))
}

pub(super) fn access_of(word: &str) -> &'static str {
    let plain: String = word.to_lowercase().chars().filter(char::is_ascii_alphabetic).collect();
    match (plain.contains('r') && plain != "write", plain.contains('w')) {
        (true, true) => "rw",
        (false, true) => "w",
        _ => "r",
    }
}

pub(super) fn low_word_first(remark: &str) -> bool {
    let plain = remark.to_lowercase();
    ["low word first", "lsw first", "word swap", "swapped words", "words swapped", "little-endian word", "cdab"]
        .iter()
        .any(|word| plain.contains(word))
}

/// `0 off, 1 auto`, `0=off; 1=auto` and `0: off / 1: auto` as an inline table, where all of it is of this form; and
/// `10 = Off 20 = Hot water` wherever two of them stand in a remark.
pub(super) fn titles(remark: &str) -> Option<String> {
    if speaks_of_bits(remark) {
        return None;
    }
    let pairs = listed(remark).or_else(|| assigned(remark)).filter(|pairs| pairs.len() > 1)?;
    let mut numbers: Vec<i64> = pairs.iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let once = numbers.len() == pairs.len();
    let shown = pairs.iter().map(|(number, title)| format!("{number} = {}", toml::Value::from(title.as_str())));
    once.then(|| format!("{{ {} }}", shown.collect::<Vec<_>>().join(", ")))
}

fn listed(remark: &str) -> Option<Vec<(i64, String)>> {
    let mut pairs = Vec::new();
    for part in remark.split([',', ';', '/', '|', '\n']).map(str::trim).filter(|part| !part.is_empty()) {
        let digits = part.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
        let title = part[digits..].trim_start_matches([' ', '=', ':', '-', '–', '.']).trim();
        let number = part[..digits].parse().ok()?;
        // "0 off 1 on" is no single title.
        let more = title.split_whitespace().any(|word| word.parse::<i64>().is_ok()) && title.contains(['=', ':']);
        if more || !title.starts_with(char::is_alphabetic) || part[digits..].starts_with(['x', 'X', '.']) {
            return None;
        }
        pairs.push((number, title.to_owned()));
    }
    Some(pairs)
}

/// Each `number =` or `number :` in a text (decimal, or hexadecimal with 0x), and what follows it up to the next.
fn assigned(remark: &str) -> Option<Vec<(i64, String)>> {
    let mut found: Vec<(i64, usize, usize)> = Vec::new();
    let mut before = ' ';
    let mut at = 0;
    while let Some(c) = remark[at..].chars().next() {
        let rest = &remark[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        if c.is_ascii_digit() && !before.is_alphanumeric() && !matches!(before, '.' | '-') {
            let word = &rest[..end];
            let number =
                word.strip_prefix("0x").map_or_else(|| word.parse().ok(), |hex| i64::from_str_radix(hex, 16).ok());
            let after = rest[end..].trim_start_matches(' ');
            if let (Some(number), Some(title)) = (number, after.strip_prefix(['=', ':'])) {
                found.push((number, at, remark.len() - title.len()));
            }
        }
        // A word is passed whole: its digits are no number.
        let step = if end > 0 { end } else { c.len_utf8() };
        before = remark[at..at + step].chars().next_back().unwrap_or(' ');
        at += step;
    }
    let ends = found.iter().skip(1).map(|(_, start, _)| *start).chain([remark.len()]);
    let title = |from: usize, to: usize| {
        let text =
            remark[from..to].lines().next().unwrap_or("").trim().trim_end_matches([',', ';', '/', '|', '.', ' ']);
        text.starts_with(char::is_alphabetic).then(|| text.to_owned())
    };
    found.iter().zip(ends).map(|((number, _, from), to)| Some((*number, title(*from, to)?))).collect()
}
