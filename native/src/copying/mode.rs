//! Permission bits as `--chmod` changes them.
//!
//! Source: chmod(1).

/// What directories get that a copy makes above its files; `change` is for the files, and as a number for these too.
pub fn directory_mode(change: &str) -> u32 {
    u32::from_str_radix(change, 8).map_or(0o755, |octal| octal & 0o777)
}

/// A mode after `--chmod`, octal or symbolic as chmod(1) has it; the text was checked before.
pub fn change_mode(mode: u32, change: &str, directory: bool) -> u32 {
    if change.is_empty() {
        return mode;
    }
    if let Ok(octal) = u32::from_str_radix(change, 8) {
        return octal & 0o7777;
    }
    change.split(',').fold(mode, |mode, clause| symbolic(mode, clause, directory))
}

fn symbolic(mut mode: u32, clause: &str, directory: bool) -> u32 {
    let start = clause.find(['+', '-', '=']).unwrap_or(clause.len());
    let (who, mut rest) = clause.split_at(start);
    let whom = |letter: char| who.is_empty() || who.contains('a') || who.contains(letter);
    let shifts: Vec<u32> =
        [('u', 6), ('g', 3), ('o', 0)].iter().filter(|(l, _)| whom(*l)).map(|(_, s)| *s).collect();
    while let Some(operation) = rest.chars().next() {
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        let letters = &rest[1..end];
        rest = &rest[end..];
        let mut bits = 0;
        for shift in &shifts {
            bits |= permissions(letters, mode, directory) << shift;
        }
        if letters.contains('s') {
            bits |= if whom('u') { 0o4000 } else { 0 } | if whom('g') { 0o2000 } else { 0 };
        }
        if letters.contains('t') {
            bits |= 0o1000;
        }
        let special = if whom('u') { 0o4000 } else { 0 } | if whom('g') { 0o2000 } else { 0 };
        let covered = shifts.iter().fold(special, |all, shift| all | (0o7 << shift));
        mode = match operation {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => (mode & !covered) | bits,
        };
    }
    mode
}

fn permissions(letters: &str, mode: u32, directory: bool) -> u32 {
    letters.chars().fold(0, |bits, letter| {
        bits | match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            'X' if directory || mode & 0o111 != 0 => 1,
            'u' => mode >> 6 & 7,
            'g' => mode >> 3 & 7,
            'o' => mode & 7,
            _ => 0,
        }
    })
}
