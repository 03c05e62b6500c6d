//! From rules to a program.
//!
//! ```text
//! load architecture ─┬─ each table: load number, binary search over ranges of numbers ─┬─ return
//!                    └─ any other: kill                                               └─ conditions ── return
//! ```
//! Neighbours of the same fate are one range, so that an allow list of 350 calls takes some six comparisons. Only
//! comparisons of the number lie before the return of an unconditional call: the kernel (5.11 and newer) sees
//! that at load time and does not run the program for such calls at all.

use std::collections::BTreeMap;

use super::assemble::{
    Assembler, Instruction, Label, AND, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_OR_EQUAL, LOAD,
};
use super::profile::{Abi, Action, Condition, Filter, Operation, Rule};
use super::syscalls::SYSCALLS;
use crate::error::Result;

const ENOSYS: u16 = 38;

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// x32 calls come with the architecture of `x86_64` and this bit in their number.
const X32_BIT: u32 = 0x4000_0000;

impl Abi {
    /// `AUDIT_ARCH_*`.
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The number of a call in this table.
    pub fn number(self, name: &str) -> Option<u32> {
        let row = SYSCALLS.binary_search_by(|(known, _)| (*known).cmp(name)).ok()?;
        let number = u32::try_from(SYSCALLS[row].1[self.column()]).ok()?;
        Some(if self == Self::X32 { number | X32_BIT } else { number })
    }

    fn column(self) -> usize {
        match self {
            Self::X86_64 => 0,
            Self::X86 => 1,
            Self::X32 => 2,
            Self::Aarch64 => 3,
            Self::Arm => 4,
        }
    }

    /// Whether arguments are 32 bits wide.
    pub fn is_narrow(self) -> bool {
        matches!(self, Self::X86 | Self::Arm)
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    Always(Action),
    /// The first alternative of which all conditions hold, else the default.
    Depends(Vec<(Vec<Condition>, Action)>),
}

/// Compile for every table of the filter.
pub(super) fn program(filter: &Filter) -> Result<Vec<Instruction>> {
    let mut assembler = Assembler::default();
    let mut entry = assembler.action(Action::KILL_THREAD);
    // The native table is tested first, so it is made last.
    for abi in filter.abis.iter().rev().filter(|abi| **abi != Abi::X32) {
        let other = entry;
        let table = table(&mut assembler, filter, *abi);
        let table = assembler.goto(table);
        entry = assembler.branch(JUMP_EQUAL, abi.audit(), table, other);
    }
    assembler.goto(entry);
    assembler.then(LOAD, ARCHITECTURE);
    assembler.finish()
}

/// Code for one table, beginning with the load of the number.
fn table(assembler: &mut Assembler, filter: &Filter, abi: Abi) -> Label {
    let x32 = (abi == Abi::X86_64).then(|| {
        if filter.abis.contains(&Abi::X32) {
            search(assembler, &ranges(filter, Abi::X32), filter.default, Abi::X32)
        } else {
            // -1 is no x32 call: a tracer skips a call with it.
            let (kill, skip) = (assembler.action(Action::KILL_THREAD), assembler.action(filter.default));
            assembler.branch(JUMP_EQUAL, u32::MAX, skip, kill)
        }
    });
    let mut entry = search(assembler, &ranges(filter, abi), filter.default, abi);
    if let Some(x32) = x32 {
        entry = assembler.branch(JUMP_GREATER_OR_EQUAL, X32_BIT, x32, entry);
    }
    assembler.goto(entry);
    assembler.then(LOAD, NUMBER)
}

/// The fate of every number, as ranges by their first number; the first begins at 0.
pub(super) fn ranges(filter: &Filter, abi: Abi) -> Vec<(u32, Fate)> {
    let fates = fates(filter, abi);
    let default = Fate::Always(filter.default);
    let mut ranges = vec![(0, default.clone())];
    let mut append = |start: u32, fate: &Fate| match ranges.last_mut() {
        Some((_, last)) if last == fate => {}
        Some((first, last)) if *first == start => *last = fate.clone(),
        _ => ranges.push((start, fate.clone())),
    };
    if fates.is_empty() {
        return vec![(0, default)];
    }
    let mut next = 0;
    for (number, fate) in &fates {
        if *number > next {
            append(next, &default);
        }
        append(*number, fate);
        next = number + 1;
    }
    append(next, &beyond(filter));
    // -1, which a tracer skips a call with, is not new.
    append(u32::MAX, &default);
    ranges
}

/// Calls newer than all that the profile knows are "not implemented", so that programs fall back to older ones
/// (as runc does it); a profile that lets calls through by default lets these through, too.
fn beyond(filter: &Filter) -> Fate {
    Fate::Always(if filter.default.is_permissive() { filter.default } else { Action::errno(ENOSYS) })
}

fn fates(filter: &Filter, abi: Abi) -> BTreeMap<u32, Fate> {
    let mut rules: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
    for rule in &filter.rules {
        for number in rule.names.iter().filter_map(|name| abi.number(name)) {
            rules.entry(number).or_default().push(rule);
        }
    }
    rules.into_iter().map(|(number, rules)| (number, fate(&rules, abi))).collect()
}

fn fate(rules: &[&Rule], abi: Abi) -> Fate {
    if let Some(rule) = rules.iter().find(|rule| rule.conditions.is_empty()) {
        return Fate::Always(rule.action);
    }
    let narrowed = |rule: &&Rule| {
        let conditions = rule.conditions.iter().map(|c| if abi.is_narrow() { narrow(*c) } else { *c });
        (conditions.collect(), rule.action)
    };
    Fate::Depends(rules.iter().map(narrowed).collect())
}

/// A condition on a 32-bit argument.
fn narrow(condition: Condition) -> Condition {
    let low = u64::from(u32::MAX);
    let operation = match condition.operation {
        Operation::Masked(mask) => Operation::Masked(mask & low),
        other => other,
    };
    Condition { operation, value: condition.value & low, ..condition }
}

/// Binary search over ranges; the number is loaded already.
fn search(assembler: &mut Assembler, ranges: &[(u32, Fate)], default: Action, abi: Abi) -> Label {
    // Conditional code is made once a table and before the tree, so that it lies behind it.
    let mut chains: Vec<(&Fate, Label)> = Vec::new();
    for (_, fate) in ranges {
        if let Fate::Depends(alternatives) = fate {
            if !chains.iter().any(|(known, _)| *known == fate) {
                let label = chain(assembler, alternatives, default, abi);
                chains.push((fate, label));
            }
        }
    }
    tree(assembler, ranges, &chains)
}

fn tree(assembler: &mut Assembler, ranges: &[(u32, Fate)], chains: &[(&Fate, Label)]) -> Label {
    if let [(_, fate)] = ranges {
        return match fate {
            Fate::Always(action) => assembler.action(*action),
            // Every conditional fate of the table has its chain.
            Fate::Depends(_) => chains
                .iter()
                .find(|(known, _)| *known == fate)
                .map_or_else(|| assembler.action(Action::KILL_THREAD), |(_, label)| *label),
        };
    }
    let middle = ranges.len() / 2;
    let high = tree(assembler, &ranges[middle..], chains);
    let low = tree(assembler, &ranges[..middle], chains);
    assembler.branch(JUMP_GREATER_OR_EQUAL, ranges[middle].0, high, low)
}

/// The alternatives of a conditional fate, tried in order.
fn chain(
    assembler: &mut Assembler,
    alternatives: &[(Vec<Condition>, Action)],
    default: Action,
    abi: Abi,
) -> Label {
    let mut otherwise = assembler.action(default);
    let mut end = alternatives.len();
    while end > 0 {
        let start = start_of_group(alternatives, end);
        let (conditions, action) = &alternatives[end - 1];
        let mut yes = assembler.action(*action);
        if end - start > 1 {
            let values: Vec<u32> = alternatives[start..end].iter().map(|(c, _)| c[0].value as u32).collect();
            otherwise = any_of(assembler, conditions[0], &values, yes, otherwise, abi);
        } else {
            for condition in conditions.iter().rev() {
                yes = test(assembler, *condition, yes, otherwise, abi);
            }
            otherwise = yes;
        }
        end = start;
    }
    otherwise
}

/// Where the run of alternatives begins that ends before `end` and differs only in the low word of the one value
/// that an argument must equal: such a run loads the argument once.
fn start_of_group(alternatives: &[(Vec<Condition>, Action)], end: usize) -> usize {
    let key = |(conditions, action): &(Vec<Condition>, Action)| match conditions.as_slice() {
        [Condition { index, operation: Operation::Equal, value }] => Some((*index, value >> 32, *action)),
        _ => None,
    };
    let last = key(&alternatives[end - 1]);
    let mut start = end - 1;
    while last.is_some() && start > 0 && key(&alternatives[start - 1]) == last {
        start -= 1;
    }
    start
}

/// The argument equals one of the values, which share their high word.
fn any_of(
    assembler: &mut Assembler,
    first: Condition,
    values: &[u32],
    yes: Label,
    no: Label,
    abi: Abi,
) -> Label {
    let mut next = no;
    for value in values.iter().rev() {
        next = assembler.branch(JUMP_EQUAL, *value, yes, next);
    }
    assembler.goto(next);
    let low = assembler.then(LOAD, low_word(first.index));
    if abi.is_narrow() {
        return low;
    }
    let high = assembler.branch(JUMP_EQUAL, (first.value >> 32) as u32, low, no);
    assembler.goto(high);
    assembler.then(LOAD, high_word(first.index))
}

/// One condition: the low word's code is made first, then the high word's that leads to it.
fn test(assembler: &mut Assembler, condition: Condition, yes: Label, no: Label, abi: Abi) -> Label {
    let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
    let (at_low, at_high) = (low_word(condition.index), high_word(condition.index));
    let (mask, code, negated) = match condition.operation {
        Operation::Equal => (u64::MAX, JUMP_EQUAL, false),
        Operation::NotEqual => (u64::MAX, JUMP_EQUAL, true),
        Operation::Greater => (u64::MAX, JUMP_GREATER, false),
        Operation::LessOrEqual => (u64::MAX, JUMP_GREATER, true),
        Operation::GreaterOrEqual => (u64::MAX, JUMP_GREATER_OR_EQUAL, false),
        Operation::Less => (u64::MAX, JUMP_GREATER_OR_EQUAL, true),
        Operation::Masked(mask) => (mask, JUMP_EQUAL, false),
    };
    let (yes, no) = if negated { (no, yes) } else { (yes, no) };
    let compared = assembler.branch(code, low, yes, no);
    let low_code = load_masked(assembler, at_low, mask as u32, compared);
    let high_mask = (mask >> 32) as u32;
    if abi.is_narrow() || high_mask == 0 {
        return low_code;
    }
    let mut compared = assembler.branch(JUMP_EQUAL, high, low_code, no);
    if code != JUMP_EQUAL {
        // Greater in the high word decides; equal leaves it to the low one.
        compared = assembler.branch(JUMP_GREATER, high, yes, compared);
    }
    load_masked(assembler, at_high, high_mask, compared)
}

fn load_masked(assembler: &mut Assembler, offset: u32, mask: u32, next: Label) -> Label {
    assembler.goto(next);
    if mask != u32::MAX {
        assembler.then(AND, mask);
    }
    assembler.then(LOAD, offset)
}

const fn low_word(index: u32) -> u32 {
    ARGUMENTS + 8 * index + if cfg!(target_endian = "little") { 0 } else { 4 }
}

const fn high_word(index: u32) -> u32 {
    ARGUMENTS + 8 * index + if cfg!(target_endian = "little") { 4 } else { 0 }
}
