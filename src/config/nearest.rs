//! The word that somebody meant who wrote another one.

/// The word that is at most two edits away, if any.
pub(super) fn nearest<'w>(found: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    words.map(|word| (edits(found, word), word)).filter(|(n, word)| *n <= 2 && *n < word.len()).min().map(|(_, w)| w)
}

/// Levenshtein distance, by characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let here = if ca == *cb { before } else { 1 + before.min(row[j]).min(row[j + 1]) };
            before = std::mem::replace(&mut row[j + 1], here);
        }
    }
    row[b.len()]
}
