//! Whether a password that a person chose is one that others try first: made of common words, digits and rows of keys.

use std::{
    collections::{BTreeSet, HashSet},
    sync::LazyLock,
};

/// Words that long common passwords are made of, beside digits and signs: the product's own, and those that head
/// every list of leaked passwords. They add nothing to a password.
const WORDS: &str = "headgate gateway technician operator maintenance default factory modbus mqtt password passwort passwd pass \
    kennwort motdepasse contrasena secret geheim admin administrator root user guest login welcome willkommen \
    letmein changeme change qwerty qwertz azerty asdf asdfgh asdfghjkl zxcvbn zxcvbnm yxcvbnm qwertyuiop qwertzuiop \
    uiop iloveyou love you monkey dragon master sunshine princess football baseball basketball superman batman \
    trustno shadow michael jordan hunter killer charlie george summer winter spring autumn hello hallo world test \
    testing demo temp abc abcd abcde abcdef abcdefgh my the is me this new raspberry raspberrypi raspbian debian \
    ubuntu linux server system computer internet company access please";

/// About 3,000 more, most frequent in leaked passwords; up to two of them add nothing.
const COMMON: &str = include_str!("words.txt");

/// Letters beyond known words that make a password worth something, and distinct common words that do.
const LETTERS: usize = 4;
const DISTINCT: usize = 3;
/// Shortest repeated part that is not looked at as a repetition, in characters.
const REPEATED: usize = 12;

struct Known {
    core: HashSet<&'static str>,
    common: HashSet<&'static str>,
    /// Whole passwords among them.
    whole: Vec<&'static str>,
    longest: usize,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let core: HashSet<_> = WORDS.split_whitespace().collect();
    let lines = COMMON.lines().filter(|line| !line.starts_with('#'));
    let common: HashSet<_> = lines.flat_map(str::split_whitespace).filter(|word| !core.contains(word)).collect();
    let longest = core.iter().chain(&common).map(|word| word.len()).max().unwrap_or(0);
    let mut whole: Vec<_> = common.iter().copied().filter(|word| word.len() >= REPEATED).collect();
    whole.sort_by_key(|word| (std::cmp::Reverse(word.len()), *word)); // those that hold others go first
    Known { core, common, whole, longest }
});

/// Why `password` of `name` is easy to guess, if it is.
pub(super) fn guessable(password: &str, name: &str) -> Option<&'static str> {
    let lower = password.to_lowercase();
    let distinct: BTreeSet<char> = lower.chars().collect();
    if distinct.len() < 5 {
        return Some("it has fewer than five different characters");
    }
    let characters: Vec<char> = lower.chars().collect();
    let steps = characters.windows(2).filter(|w| (w[0] as i64 - w[1] as i64).abs() <= 1).count();
    if steps * 4 >= (characters.len() - 1) * 3 {
        return Some("its characters follow one another");
    }
    for half in 1..=characters.len() / 2 {
        if characters.len().is_multiple_of(half)
            && half < REPEATED
            && characters.chunks(half).all(|c| *c == characters[..half])
        {
            return Some("it repeats itself");
        }
    }
    let name = name.to_lowercase();
    let poor = |text: &str, letter: fn(char) -> Option<(char, bool)>| {
        let (letters, free): (String, Vec<bool>) = text.chars().filter_map(letter).unzip();
        let (letters, words) = beyond(&letters, &free, &name);
        letters < LETTERS && words < DISTINCT
    };
    // What is left when known words, digits and signs are taken away has to be worth guessing.
    let rest = KNOWN
        .whole
        .iter()
        .fold(lower.clone(), |text, whole| if text.contains(whole) { text.replace(whole, "") } else { text });
    (poor(&rest, plain) || poor(&lower, replaced)).then_some("it consists of words that everybody tries first")
}

/// A letter as it stands, and that it cannot be left out without a loss.
fn plain(c: char) -> Option<(char, bool)> {
    c.is_alphabetic().then_some((c, false))
}

/// The same, and digits and signs as the letter they usually stand for, or for nothing.
fn replaced(c: char) -> Option<(char, bool)> {
    let letter = match c {
        '0' => 'o',
        '1' | '!' => 'i',
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '7' => 't',
        _ => return plain(c),
    };
    Some((letter, true))
}

/// `text` as known words with as few other letters as possible: how many letters those are, and how many different
/// common words. Letters that are `free` are left out at no cost.
fn beyond(text: &str, free: &[bool], name: &str) -> (usize, usize) {
    let known = &*KNOWN;
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let longest = known.longest.max(name.len());
    // The cheapest way to each place (a letter costs 4, a common word 1) and where its last step began.
    let mut ways: Vec<(usize, usize)> = vec![(0, 0)];
    for to in 1..starts.len() {
        let mut best = (ways[to - 1].0 + if free[to - 1] { 0 } else { 4 }, to - 1);
        for from in (0..to).rev().take_while(|from| starts[to] - starts[*from] <= longest) {
            let word = &text[starts[from]..starts[to]];
            let cost = match () {
                () if known.core.contains(word) || (word == name && name.chars().count() >= 3) => 0,
                () if known.common.contains(word) => 1,
                () => continue,
            };
            if ways[from].0 + cost < best.0 {
                best = (ways[from].0 + cost, from);
            }
        }
        ways.push(best);
    }
    let (mut letters, mut words, mut at) = (0, HashSet::new(), starts.len() - 1);
    while at > 0 {
        let from = ways[at].1;
        match ways[at].0 - ways[from].0 {
            0 => {}
            1 => drop(words.insert(&text[starts[from]..starts[at]])),
            _ => letters += 1,
        }
        at = from;
    }
    (letters, words.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_make_of_common_words_is_refused() {
        assert!(KNOWN.common.len() > 2_800, "{}", KNOWN.common.len());
        let mut accepted = Vec::new();
        let mut tried = 0;
        for word in &KNOWN.common {
            let mut capital = word.to_string();
            capital[..1].make_ascii_uppercase();
            let forms = [
                format!("{capital}2026!!!!!!!!"),
                format!("12345678{word}"),
                format!("{word}-{word}-{word}"),
                format!("{word}password99"),
            ];
            for form in forms.iter().filter(|form| form.len() >= 12) {
                tried += 1;
                if guessable(form, "anna").is_none() {
                    accepted.push(form.clone());
                }
            }
        }
        assert!(
            tried > 10_000 && accepted.is_empty(),
            "{} of {tried}: {:?}",
            accepted.len(),
            &accepted[..accepted.len().min(20)]
        );
    }

    #[test]
    fn a_digit_or_sign_may_be_a_letter_in_one_place_and_nothing_in_another() {
        for poor in ["P4ssw0rd!2024!", "Sup3rm4n#1571!", "!W3lc0me!4455!", "$unsh1ne-1750-$"] {
            assert!(guessable(poor, "anna").is_some(), "{poor}");
        }
    }

    #[test]
    fn unrelated_words_and_random_letters_pass() {
        for good in [
            "correct horse battery staple",
            "zwölf boxkämpfer jagen",
            "tulip garage fourteen moths",
            "x9$Kp2vQ!mR7t",
            "8274-9182-xkqz",
            "paella under the quiet volcano",
        ] {
            assert_eq!(guessable(good, "anna"), None, "{good}");
        }
    }

    #[test]
    fn any_text_is_judged_without_a_panic() {
        for text in ["", "ß", "İİİİİİİİİİİİ", "日本語日本語日本語日本語", "\u{0}\u{0}", "ǅǅǅǅ"]
        {
            guessable(text, text);
        }
    }
}
