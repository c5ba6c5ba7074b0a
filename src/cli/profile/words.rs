//! Makers' words in register tables: names, numbers, tables, types, access, orders and lists of titles, as ours.

/// "Flow temperature (supply)" as `flowTemperatureSupply`; a single word stays as it is.
pub(super) fn camel(title: &str) -> String {
    let words: Vec<&str> =
        title.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
    if let [word] = words.as_slice() {
        return (*word).to_owned();
    }
    let mut name = String::new();
    for (n, word) in words.iter().enumerate() {
        let mut letters = word.chars();
        let Some(first) = letters.next() else { continue };
        // L1, kWh and PT100 keep their letters; ordinary words do not shout.
        let rest = letters.as_str();
        let rest = if rest.chars().all(|c| c.is_uppercase()) { rest.to_lowercase() } else { rest.to_owned() };
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
    let bits = digits.parse::<usize>().ok().or(length.map(|registers| registers * 16));
    match letters.as_str() {
        _ if lower.contains(':') => lower,
        "u" | "ui" | "uint" | "unsigned" | "unsignedint" | "unsignedinteger" => format!("u{}", bits.unwrap_or(16)),
        "i" | "s" | "int" | "sint" | "signed" | "signedint" | "integer" | "signedinteger" => {
            format!("i{}", bits.unwrap_or(16))
        }
        "word" | "ushort" | "enum" | "bitmap" | "bitfield" | "bits" => format!("u{}", bits.unwrap_or(16)),
        "short" => "i16".into(),
        "dword" | "udint" | "ulong" | "acc" => format!("u{}", bits.unwrap_or(32)),
        "dint" | "long" => format!("i{}", bits.unwrap_or(32)),
        "f" | "float" | "real" | "single" | "ieee" | "floatingpoint" => match bits {
            Some(bits @ (16 | 32 | 64)) => format!("f{bits}"),
            _ => "f32".into(),
        },
        "double" | "lreal" => "f64".into(),
        "bool" | "boolean" | "bit" | "coil" => "bool".into(),
        "char" | "string" | "ascii" | "text" | "str" => {
            // A count in the type is of characters, one in a column of its own of registers.
            let registers = length.or(digits.parse::<usize>().ok().map(|characters| characters.div_ceil(2)));
            format!("text:{}", registers.unwrap_or(8))
        }
        _ => lower,
    }
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

/// `0 off, 1 auto`, `0=off; 1=auto` and `0: off / 1: auto` as an inline table, where all of it is of this form.
pub(super) fn titles(remark: &str) -> Option<String> {
    let mut pairs = Vec::new();
    for part in remark.split([',', ';', '/', '|']).map(str::trim).filter(|part| !part.is_empty()) {
        let digits = part.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
        let title = part[digits..].trim_start_matches([' ', '=', ':', '-', '–', '.']).trim();
        let number: u32 = part[..digits].parse().ok()?;
        if title.is_empty() || !title.starts_with(char::is_alphabetic) || part[digits..].starts_with(['x', 'X', '.']) {
            return None;
        }
        pairs.push(format!("{number} = {}", toml::Value::from(title)));
    }
    (pairs.len() > 1).then(|| format!("{{ {} }}", pairs.join(", ")))
}
