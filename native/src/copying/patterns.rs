//! Patterns of `.dockerignore`, `--exclude` and of COPY's sources.
//!
//! The meaning is that of python/proa/ignore.py, which has the words for users; both pass the same table of
//! cases. `*`, `?` and sets do not cross slashes, `**` does; the last pattern that fits decides, `!` takes back.

use crate::error::{Error, Result};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// Anything but a slash.
    One,
    /// Any number of them.
    Some,
    /// `**/`: any number of directories.
    Directories,
    /// `**` at the end.
    Rest,
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// One pattern, compiled.
#[derive(Debug, Clone)]
pub struct Pattern {
    tokens: Vec<Token>,
    takes_back: bool,
    /// What stands before the first wildcard.
    fixed: Vec<u8>,
    plain: bool,
}

impl Pattern {
    /// Without a `!`; the path must be clean and relative.
    pub fn new(text: &str) -> Result<Self> {
        let bad = || Error::Invalid(format!("error parsing pattern \"{text}\": syntax error in pattern"));
        let mut tokens = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            let after = &rest[character.len_utf8()..];
            if let Some(deep) = rest.strip_prefix("**") {
                let deep = deep.strip_prefix('/').unwrap_or(deep);
                tokens.push(if deep.is_empty() { Token::Rest } else { Token::Directories });
                rest = deep;
                continue;
            }
            rest = match character {
                '*' => {
                    tokens.push(Token::Some);
                    after
                }
                '?' => {
                    tokens.push(Token::One);
                    after
                }
                '\\' => {
                    let escaped = after.chars().next().ok_or_else(bad)?;
                    let (literal, after) = after.split_at(escaped.len_utf8());
                    tokens.extend(literal.bytes().map(Token::Byte));
                    after
                }
                '[' => {
                    let (set, after) = set(after).ok_or_else(bad)?;
                    tokens.push(set);
                    after
                }
                _ => {
                    tokens.extend(rest[..character.len_utf8()].bytes().map(Token::Byte));
                    after
                }
            };
        }
        let fixed: Vec<u8> = tokens
            .iter()
            .map_while(|token| if let Token::Byte(b) = token { Some(*b) } else { None })
            .collect();
        let plain = fixed.len() == tokens.len();
        Ok(Self { tokens, takes_back: false, fixed, plain })
    }

    /// Whether it has no wildcard, and what it says then.
    pub fn literal(&self) -> Option<&[u8]> {
        self.plain.then_some(self.fixed.as_slice())
    }

    pub fn matches(&self, path: &[u8]) -> bool {
        // Most paths are told by a pattern's first or last characters.
        if differs(self.tokens.iter().zip(path)) || differs(self.tokens.iter().rev().zip(path.iter().rev())) {
            return false;
        }
        if self.plain {
            return self.tokens.len() == path.len();
        }
        fits(&self.tokens, path)
    }
}

/// Whether a literal token differs from its byte before anything else comes.
fn differs<'a>(pairs: impl Iterator<Item = (&'a Token, &'a u8)>) -> bool {
    for (token, found) in pairs {
        match token {
            Token::Byte(byte) if byte == found => {}
            Token::Byte(_) => return true,
            _ => return false,
        }
    }
    false
}

fn set(text: &str) -> Option<(Token, &str)> {
    let (negated, mut rest) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
    let mut ranges = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(']') {
            if !ranges.is_empty() {
                return Some((Token::Set { negated, ranges }, after));
            }
        }
        let (low, after) = member(rest)?;
        rest = after;
        let mut high = low;
        if let Some(after) = rest.strip_prefix('-') {
            (high, rest) = member(after)?;
        }
        if low > high {
            return None;
        }
        ranges.push((low, high));
    }
}

fn member(text: &str) -> Option<(char, &str)> {
    let mut characters = text.chars();
    let first = characters.next()?;
    match first {
        '\\' => characters.next().map(|escaped| (escaped, characters.as_str())),
        '-' | ']' => None,
        _ => Some((first, characters.as_str())),
    }
}

/// Whether the tokens are the whole path. From the last token to the first, each at every place of the path:
/// the time is their product, whatever the pattern, and nothing is as deep as it.
fn fits(tokens: &[Token], path: &[u8]) -> bool {
    let (mut here, mut after) = (vec![false; path.len() + 1], vec![false; path.len() + 1]);
    after[path.len()] = true;
    for token in tokens.iter().rev() {
        // What stands to the right of a place is known already.
        let mut deeper = false;
        for at in (0..=path.len()).rev() {
            let rest = &path[at..];
            deeper = deeper || rest.first() == Some(&b'/') && after[at + 1];
            here[at] = match token {
                Token::Byte(byte) => rest.first() == Some(byte) && after[at + 1],
                Token::One => character(rest).is_some_and(|(_, length)| after[at + length]),
                Token::Set { negated, ranges } => character(rest).is_some_and(|(found, length)| {
                    ranges.iter().any(|(low, high)| (*low..=*high).contains(&found)) != *negated
                        && after[at + length]
                }),
                Token::Some => after[at] || rest.first().is_some_and(|byte| *byte != b'/') && here[at + 1],
                Token::Directories => after[at] || deeper,
                Token::Rest => true,
            };
        }
        std::mem::swap(&mut here, &mut after);
    }
    after[0]
}

/// The first character, which is no slash; a byte that is no UTF-8 counts as one.
fn character(path: &[u8]) -> Option<(char, usize)> {
    let first = *path.first()?;
    if first == b'/' {
        return None;
    }
    let length = match first {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => 1,
    };
    let text = path.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
    Some(text.and_then(|text| text.chars().next()).map_or((char::REPLACEMENT_CHARACTER, 1), |c| (c, length)))
}

/// An ordered list of patterns, asked top-down: a directory's answer goes in for what lies in it.
#[derive(Debug, Clone, Default)]
pub struct Patterns(Vec<Pattern>);

/// Which patterns fit a directory or one above it.
pub type Fit = Vec<bool>;

impl Patterns {
    pub fn new(texts: &[String]) -> Result<Self> {
        let mut patterns = Vec::new();
        for text in texts {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let (takes_back, text) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
            if text.is_empty() {
                return Err(Error::Invalid("illegal exclusion pattern: \"!\"".into()));
            }
            let mut pattern = Pattern::new(&clean(text))?;
            pattern.takes_back = takes_back;
            if pattern.plain {
                pattern.fixed.push(b'/');
            }
            patterns.push(pattern);
        }
        Ok(Self(patterns))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// (left out, what to hand in for what lies below).
    #[must_use]
    pub fn fit(&self, path: &[u8], above: &Fit) -> (bool, Fit) {
        let mut left_out = false;
        let fit = self
            .0
            .iter()
            .enumerate()
            .map(|(index, pattern)| {
                let fits = above.get(index).copied().unwrap_or(false) || pattern.matches(path);
                if fits {
                    left_out = !pattern.takes_back;
                }
                fits
            })
            .collect();
        (left_out, fit)
    }

    /// Whether something below a directory that is left out could still be wanted.
    #[must_use]
    pub fn may_take_back(&self, directory: &[u8]) -> bool {
        let below = [directory, b"/"].concat();
        self.0.iter().any(|pattern| {
            pattern.takes_back && (pattern.fixed.starts_with(&below) || below.starts_with(&pattern.fixed))
        })
    }
}

/// A pattern or path without `.`, `..`, doubled and outer slashes.
pub fn clean(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}
