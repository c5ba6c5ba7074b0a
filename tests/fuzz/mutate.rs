//! Changes to inputs as fuzzers make them: bits, bytes, lengths, parts moved between inputs, words of the language.

/// xorshift64*: the same inputs for the same seed, on every machine.
pub struct Mutator {
    state: u64,
    words: Vec<Vec<u8>>,
}

/// Bytes at which lengths, signs and codes turn over.
const EDGES: [u8; 10] = [0, 1, 2, 0x7F, 0x80, 0x81, 0xC0, 0xFE, 0xFF, b'"'];
const LONGEST: usize = 16 * 1024;

impl Mutator {
    pub fn new(seed: u64, words: &[&str]) -> Self {
        Self { state: seed.max(1), words: words.iter().map(|word| word.as_bytes().to_vec()).collect() }
    }

    pub fn number(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }

    /// One input of the corpus, changed a little or much.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        // Mostly few changes: deep states lie behind much that must be right.
        let changes = 1 + self.below(4) * self.below(4);
        for _ in 0..changes {
            self.change(&mut input, corpus);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len());
        match self.below(12) {
            0 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            1 if !input.is_empty() => input[at] = EDGES[self.below(EDGES.len())],
            2 if !input.is_empty() => input[at] = self.number() as u8,
            // lengths are off by a little
            3 if !input.is_empty() => input[at] = input[at].wrapping_add([1, 255, 2, 254, 128][self.below(5)]),
            4 => input.truncate(at),
            5 if !input.is_empty() => {
                let to = (at + 1 + self.below(8)).min(input.len());
                input.drain(at..to);
            }
            6 => {
                let new: Vec<u8> = (0..=self.below(8)).map(|_| self.number() as u8).collect();
                input.splice(at..at, new);
            }
            7 if !input.is_empty() => {
                let to = (at + 1 + self.below(24)).min(input.len());
                let part = input[at..to].repeat(1 + self.below(3));
                input.splice(at..at, part);
            }
            8 if !input.is_empty() => {
                // the same byte very often: nesting, padding, long lengths
                let part = vec![input[at]; 1 + self.below(400)];
                input.splice(at..at, part);
            }
            9 => {
                let other = &corpus[self.below(corpus.len())];
                let (from, to) = (self.below(other.len()), self.below(other.len() + 1));
                let part = other[from.min(to)..from.max(to)].to_vec();
                input.splice(at..at, part);
            }
            10 if input.len() > 4 => {
                // two parts change places
                let (a, b) = (self.below(input.len()), self.below(input.len()));
                input.swap(a, b);
            }
            _ if !self.words.is_empty() => {
                let which = self.below(self.words.len());
                let word = self.words[which].clone();
                let to = if self.below(2) == 0 { at } else { (at + self.below(12)).min(input.len()) };
                input.splice(at..to, word);
            }
            _ => input.push(self.number() as u8),
        }
    }
}
