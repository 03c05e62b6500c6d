//! An assembler for classic BPF, from the last instruction to the first.
//!
//! Backwards, the target of every jump is known when the jump is made, and its distance is exact: a conditional
//! jump reaches 255 instructions, what is farther goes over an unconditional one.

use super::profile::Action;
use crate::error::{Error, Result};

/// The kernel's limit, `BPF_MAXINSNS`.
pub(super) const LONGEST: usize = 4096;

const REACH: usize = 255;

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub value: u32,
}

impl Instruction {
    pub fn to_bytes(self) -> [u8; 8] {
        let [c0, c1] = self.code.to_ne_bytes();
        let [v0, v1, v2, v3] = self.value.to_ne_bytes();
        [c0, c1, self.jump_true, self.jump_false, v0, v1, v2, v3]
    }
}

/// Load a word of `struct seccomp_data` at this offset.
pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const RETURN: u16 = 0x06;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER: u16 = 0x25;
pub(super) const JUMP_GREATER_OR_EQUAL: u16 = 0x35;

/// An instruction that is there already: its place, counted from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// The last instruction first.
    reversed: Vec<Instruction>,
    returns: Vec<(Action, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u16, jump_true: usize, jump_false: usize, value: u32) -> Label {
        // Distances were checked by whoever made them.
        let (jump_true, jump_false) = (jump_true as u8, jump_false as u8);
        self.reversed.push(Instruction { code, jump_true, jump_false, value });
        Label(self.reversed.len() - 1)
    }

    /// Instructions between one made now and `target`.
    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - target.0 - 1
    }

    /// An instruction that is followed by the one made before it.
    pub fn then(&mut self, code: u16, value: u32) -> Label {
        self.push(code, 0, 0, value)
    }

    /// A `return`; one that is near is used again.
    pub fn action(&mut self, action: Action) -> Label {
        let known = self.returns.iter().rev().find(|(known, _)| *known == action).map(|(_, label)| *label);
        if let Some(label) = known.filter(|label| self.distance(*label) < REACH / 2) {
            return label;
        }
        let label = self.push(RETURN, 0, 0, action.0);
        self.returns.push((action, label));
        label
    }

    /// Compare with `value`; go on at `yes` or at `no`.
    pub fn branch(&mut self, code: u16, value: u32, yes: Label, no: Label) -> Label {
        // Each hop over a far target moves the other one a step away.
        let no = self.within(no, REACH - 1);
        let yes = self.within(yes, REACH);
        self.push(code, self.distance(yes), self.distance(no), value)
    }

    /// `target`, or a jump to it that is near enough.
    fn within(&mut self, target: Label, reach: usize) -> Label {
        if self.distance(target) <= reach {
            return target;
        }
        let distance = self.distance(target) as u32;
        self.push(JUMP, 0, 0, distance)
    }

    /// Begin with what was made last.
    pub fn finish(mut self) -> Result<Vec<Instruction>> {
        if self.reversed.len() > LONGEST {
            let length = self.reversed.len();
            return Err(Error::Invalid(format!(
                "seccomp profile is too long: {length} instructions, the kernel takes {LONGEST}"
            )));
        }
        self.reversed.reverse();
        Ok(self.reversed)
    }

    /// Make `target` what runs first of all that is made from here on.
    pub fn goto(&mut self, target: Label) -> Label {
        if self.distance(target) == 0 {
            return target;
        }
        let distance = self.distance(target) as u32;
        self.push(JUMP, 0, 0, distance)
    }
}
